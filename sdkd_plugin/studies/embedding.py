"""t-SNE of the features that a network's classifier sees."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sdkd_plugin.errors import UserError
from sdkd_plugin.studies.figure import missing, new_figure, write_figure
from sdkd_plugin.studies.networks import Outputs

SEED = 0
PERPLEXITY = 30.0


def embed(outputs: Outputs) -> np.ndarray:
    """[N, 2] t-SNE of the pooled features [N, D], started at their principal components.

    Raises:
        UserError: scikit-learn is not installed, or there are too few images.
    Source: van der Maaten & Hinton, Visualizing Data using t-SNE, JMLR 2008; scikit-learn's.
    """
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise missing("scikit-learn") from error
    assert outputs.pooled is not None
    features = outputs.pooled.numpy()
    if len(features) < 4:
        raise UserError(f"t-SNE of {len(features)} images; allowed: 4 or more (--images)")
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=SEED)
    return np.asarray(tsne.fit_transform(features))


def draw_embedding(
    path: Path,
    networks: dict[str, np.ndarray],
    target: np.ndarray,
    classes: Sequence[str],
    images: str,
) -> None:
    """Draws the points of each network, a colour and a mark for each class."""
    figure = new_figure(5 * len(networks), 5)
    panels = figure.subplots(1, len(networks), squeeze=False)[0]
    marks = "os^vDP*X"
    for (name, points), axes in zip(networks.items(), panels, strict=True):
        for label in np.unique(target):
            own = points[target == label]
            mark = marks[label // 10 % len(marks)]
            colour = f"C{label % 10}"
            axes.scatter(*own.T, s=9, marker=mark, color=colour, label=classes[label])
        axes.set(title=name, xticks=[], yticks=[])
    if len(classes) <= 20:
        panels[-1].legend(fontsize=7, markerscale=2)
    figure.suptitle(f"t-SNE of the pooled features, {images}; distances between groups mean little")
    write_figure(path, figure)
