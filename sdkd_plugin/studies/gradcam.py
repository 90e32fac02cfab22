"""Which regions of an image speak for a class: Grad-CAM, through captum, and how alike the maps of
two networks are.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdkd_plugin.distillers.maps import pool_pair
from sdkd_plugin.distillers.sdkd import SDKD
from sdkd_plugin.models.families import find_family
from sdkd_plugin.studies.figure import missing


class ProxyNetwork(nn.Module):
    """SDKD's proxy teacher as a network of the image: image [N, 3, H, W] -> (z_P [N, K], feats).

    Only the proxy's own pass is differentiated, not the two whose maps it is given.

    Args:
        method: in eval mode, with a proxy.
    """

    def __init__(self, method: SDKD):
        super().__init__()
        assert method.proxy is not None
        self.method = method
        self.proxy = method.proxy
        if self.proxy.sync == "step":  # else its own copies, as the last step left them
            self.proxy.refresh(method.student, 0)

    def forward(self, image: Tensor) -> tuple[Tensor, dict[str, list[Tensor]]]:
        family = self.proxy.family
        with torch.no_grad():
            _, student_feats = self.method.student(image)
            _, teacher_feats = self.method.teacher(image)
        teacher_maps = self.method.teacher_maps(teacher_feats)
        logits, maps = self.proxy.fuse(image, student_feats[family.maps], teacher_maps)
        return logits, {family.maps: maps}


def last_stage(network: nn.Module) -> nn.Module:
    """The module whose output is the last stage's map. Raises UserError for a network without."""
    inside = network.proxy.model if isinstance(network, ProxyNetwork) else network
    assert isinstance(inside, nn.Module)
    return inside.get_submodule(find_family(inside).stages[-1])


def grad_cam(
    network: nn.Module, layer: nn.Module, batches: Iterable[Tensor], classes: Tensor
) -> Tensor:
    """M = sum_c w_c A_c with w_c the mean over positions of dz_y / dA_c, before its ReLU.

    Args:
        network: image -> (logits, feats), in eval mode.
        layer: makes A [N, C, H, W]; of several outputs it is the first.
        batches: images [n, 3, H', W'].
        classes: y [N], the class that each image's map is of.
    Returns:
        [N, H, W] on the CPU: above 0 where the map speaks for the class.
    Raises:
        UserError: captum is not installed.
    Source: Selvaraju et al., Grad-CAM, ICCV 2017, eq. 1 and 2 without the ReLU.
    """
    try:
        from captum.attr import LayerGradCam
    except ImportError as error:
        raise missing("captum") from error
    attribution = LayerGradCam(lambda image: network(image)[0], layer)

    def maps() -> Iterator[Tensor]:
        start = 0
        for image in batches:
            target = classes[start : start + len(image)].to(image.device)
            start += len(image)
            found = attribution.attribute(image, target=target, relu_attributions=False)
            first = found[0] if isinstance(found, tuple) else found  # [n, 1, H, W]
            yield first[:, 0].detach().float().cpu()

    return torch.cat(list(maps()))


def enlarged(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps [N, H, W] as they are drawn: only what is above 0, as large as the image, the largest
    value of each 1.
    """
    shown = F.relu(maps)[:, None]
    shown = F.interpolate(shown, size, mode="bilinear", align_corners=False)[:, 0]
    return shown / shown.amax((1, 2), keepdim=True).clamp_min(1e-12)


def rank_correlation(first: Tensor, second: Tensor) -> np.ndarray:
    """Spearman's rank correlation of two networks' maps, image by image.

    Args:
        first, second: [N, H, W] and [N, H', W'], averaged to the smaller size.
    Returns:
        [N], from -1 to 1; NaN where a map is the same everywhere.
    """
    from scipy.stats import rankdata

    a, b = pool_pair(first[:, None], second[:, None])
    ranks = [rankdata(each.flatten(1).double().numpy(), axis=1) for each in (a, b)]
    one, two = (each - each.mean(1, keepdims=True) for each in ranks)
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
    undefined = np.full(len(norms), np.nan)
    return np.divide((one * two).sum(1), norms, out=undefined, where=norms > 0)
