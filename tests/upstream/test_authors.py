"""The newer methods' losses beside their authors' own code: value and gradient, in float64.

Runs on the checkouts that lie in the folder AUTHORS_ROOT, each under the name that it has on
GitHub; CUDA calls are stubbed. Whole networks were compared by hand, see the cards.
"""

import ast
import importlib
import math
import os
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from yacs.config import CfgNode as CN

from sdkd_plugin.distillers.cat_kd import cat_loss
from sdkd_plugin.distillers.ctkd import ctkd_loss, curriculum, reversed_gradient
from sdkd_plugin.distillers.dist import dist_terms
from sdkd_plugin.distillers.dkd import dkd_terms
from sdkd_plugin.distillers.itrd import correlation_loss, mutual_loss
from sdkd_plugin.distillers.kd import kd_loss
from sdkd_plugin.distillers.lskd import standardised
from sdkd_plugin.distillers.mlld import mlld_terms
from sdkd_plugin.distillers.normkd import normkd_loss
from sdkd_plugin.distillers.rld import rld_terms
from sdkd_plugin.distillers.sdd import complementary, dkd_rows, kd_rows, sdd_parts
from sdkd_plugin.distillers.ttm import ttm_loss
from sdkd_plugin.distillers.wttm import wttm_terms

COMMITS = {  # the cards' figures are of these
    "image_classification_sota": "hunto/image_classification_sota@6f7a70a",
    "CTKD": "zhengli97/CTKD@7d52522",
    "TTM": "zkxufo/TTM@fe457b3",
    "RLD": "zju-SWJ/RLD@d54578f",
    "NormKD": "gizi1/NormKD@279371b",
    "ITRD": "roymiles/ITRD@5d08c6b",
    "CAT-KD": "GzyAftermath/CAT-KD@4467073",
    "SDD-CVPR2024": "shicaiwei123/SDD-CVPR2024@e412036",
    "logit-standardization-KD": "sunshangquan/logit-standardization-KD@f6e5aa5",
    "Multi-Level-Logit-Distillation": "Jin-Ying/Multi-Level-Logit-Distillation@5ee473f",
}
SMALL = 1e-13  # of the loss, and of the largest entry of a gradient

Load = Callable[[str, str], types.ModuleType]


@pytest.fixture
def authors(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Imports a file of a checkout, without what else its package would import; skips loudly where
    there is none.
    """

    def load(repository: str, file: str) -> types.ModuleType:
        root = os.environ.get("AUTHORS_ROOT")
        path = Path(root or "", repository, file)
        if not root or not path.exists():
            pytest.skip(f"NOT COMPARED WITH {COMMITS[repository]}: it is not below AUTHORS_ROOT")
        package = types.ModuleType(f"authors_{repository}")
        package.__path__ = [str(path.parent)]
        monkeypatch.setitem(sys.modules, package.__name__, package)
        monkeypatch.setitem(sys.modules, "turtle", types.SimpleNamespace(st=None))  # never used
        module = f"{package.__name__}.{path.stem}"
        monkeypatch.delitem(sys.modules, module, raising=False)
        return importlib.import_module(module)

    monkeypatch.setattr(Tensor, "cuda", lambda self, *arguments: self)
    return load


def batches(count: int = 20, n: int = 64) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Logits of student and teacher [n, 100] and labels, of which the teacher has 60 % right."""
    for seed in range(count):
        torch.manual_seed(seed)
        student, teacher = (4 * torch.randn(n, 100, dtype=torch.float64) for _ in range(2))
        target = torch.randint(100, (n,))
        right = torch.rand(n) < 0.6
        target[right] = teacher[right].argmax(1)
        yield student.requires_grad_(), teacher, target


def agree(ours: Tensor, theirs: Tensor, *leaves: Tensor) -> None:
    """Asserts equal values and gradients."""
    assert ours.item() == pytest.approx(theirs.item(), rel=SMALL)
    # retained: the losses of one step share it
    gradients = [torch.autograd.grad(loss, leaves, retain_graph=True) for loss in (ours, theirs)]
    for gradient, expected in zip(*gradients, strict=True):
        largest = expected.abs().max().item()
        assert largest > 0
        torch.testing.assert_close(gradient, expected, rtol=0, atol=SMALL * largest)


@pytest.mark.parametrize("tau", [4.0, 1.0])
def test_dist(authors: Load, tau: float):
    theirs = authors("image_classification_sota", "lib/models/losses/dist_kd.py").DIST(1, 1, tau)
    for student, teacher, _ in batches():
        agree(sum(dist_terms(student, teacher, tau)), theirs(student, teacher), student)


@pytest.mark.parametrize("gamma", [0.1, 0.2, 1.0])
def test_ttm_and_wttm(authors: Load, gamma: float):
    ttm = authors("TTM", "distiller_zoo/ttm.py").TTM(gamma)
    wttm = authors("TTM", "distiller_zoo/wttm.py").WTTM(gamma)
    for student, teacher, _ in batches():
        agree(ttm_loss(student, teacher, gamma), ttm(student, teacher), student)
        weight, kl = wttm_terms(student, teacher, gamma)
        agree((weight * kl).mean(), wttm(student, teacher), student)


@pytest.mark.parametrize("standard", [False, True])
@pytest.mark.parametrize(
    ("alpha_tau", "tau", "alpha", "beta"), [(1, 4, 1, 8), (4, 4, 1, 8), (2, 3, 0.5, 2)]
)
def test_rld(authors: Load, alpha_tau: float, tau: float, alpha: float, beta: float, standard):
    rld_loss = authors("RLD", "mdistiller/distillers/RLD.py").rld_loss
    for student, teacher, target in batches():
        seen = [standardised(z) if standard else z for z in (student, teacher)]
        scd, mcd = rld_terms(*seen, target, alpha_tau, tau)
        theirs = rld_loss(student, teacher, target, alpha, beta, tau, standard, alpha_tau)
        agree(alpha * scd + beta * mcd, theirs, student)


@pytest.mark.parametrize("t_norm", [2.0, 1.0])
def test_normkd(authors: Load, t_norm: float):
    theirs = authors("NormKD", "mdistiller/distillers/NormKD.py").kd_loss_normal
    for student, teacher, _ in batches():
        agree(normkd_loss(student, teacher, t_norm), theirs(student, teacher, t_norm), student)


@pytest.mark.filterwarnings("ignore:size_average and reduce")  # theirs has them
def test_lskd(authors: Load):
    kd = authors("logit-standardization-KD", "mdistiller/distillers/KD.py").kd_loss
    dkd = authors("logit-standardization-KD", "mdistiller/distillers/DKD.py").dkd_loss
    for student, teacher, target in batches():
        seen = standardised(student), standardised(teacher)
        for tau in (2.0, 4.0):
            agree(kd_loss(*seen, tau), kd(student, teacher, tau, True), student)
        for alpha, beta, tau in ((18, 36, 3), (9, 72, 2), (9, 18, 3)):
            tckd, nckd = dkd_terms(*seen, target, tau)
            theirs = dkd(student, teacher, target, alpha, beta, tau, True)
            agree(alpha * tckd + beta * nckd, theirs, student)


def test_ctkd_and_what_its_temperature_learns(authors: Load):
    temperature = authors("CTKD", "models/temp_global.py").Global_T().double()
    divergence = authors("CTKD", "distiller_zoo/KD.py").DistillKL()
    decay = class_of(Path(os.environ["AUTHORS_ROOT"], "CTKD", "train_student.py"), "CosineDecay")
    lambdas = decay(max_value=0, min_value=-1, num_loops=10)
    theta = nn.Parameter(torch.ones(1, dtype=torch.float64))
    learned = (theta, temperature.global_T)
    optimisers = [torch.optim.SGD([p], 0.05, momentum=0.9, weight_decay=5e-4) for p in learned]

    for epoch, (student, teacher, _) in enumerate(batches(13), 1):
        own = reversed_gradient(theta, curriculum(epoch, epochs=10, low=0.0, high=1.0))
        ours = ctkd_loss(student, teacher, 1 + 20 * own.sigmoid()).sum()
        reversed_theirs = temperature(teacher, student, lambdas.get_value(epoch))
        theirs = divergence(student, teacher, 1 + 20 * reversed_theirs.sigmoid()).sum()
        gradients = [
            torch.autograd.grad(loss, (student, each))
            for loss, each in zip((ours, theirs), learned, strict=True)
        ]
        assert ours.item() == pytest.approx(theirs.item(), rel=SMALL)
        of_student, expected = (gradient for gradient, _ in gradients)
        atol = SMALL * expected.abs().max().item()
        torch.testing.assert_close(of_student, expected, rtol=0, atol=atol)

        for each, optimiser, (_, gradient) in zip(learned, optimisers, gradients, strict=True):
            each.grad = gradient
            optimiser.step()
        assert theta.item() == pytest.approx(temperature.global_T.item(), rel=SMALL)
    assert abs(theta.item() - 1) > 1e-3


def class_of(path: Path, name: str) -> type:
    """A class of a script that cannot be imported without all that it imports."""
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if getattr(node, "name", "") == name]
    found: dict[str, type] = {}
    exec(compile(tree, path, "exec"), {"math": math}, found)
    return found[name]


@pytest.mark.parametrize("channels", [(64, 64), (64, 256), (128, 64)])
@pytest.mark.parametrize(("alpha", "corr", "mutual"), [(1.01, 2, 1), (1.5, 2, 0.05), (3, 1, 1)])
def test_itrd(authors: Load, channels: tuple[int, int], alpha: float, corr: float, mutual: float):
    options = types.SimpleNamespace(s_dim=channels[0], t_dim=channels[1], n_data=1, alpha_it=alpha)
    theirs = authors("ITRD", "distiller_zoo/IT.py").ITLoss(options).double()
    embed = theirs.embed.linear
    for seed in range(20):
        torch.manual_seed(seed)
        student, teacher = (torch.randn(64, d, dtype=torch.float64).relu() for d in channels)
        embedded = embed(student.requires_grad_())
        compared = student if channels[0] == channels[1] else embedded
        ours = corr * correlation_loss(embedded, teacher, alpha)
        ours = ours + mutual * mutual_loss(compared, teacher)
        expected = corr * theirs.forward_correlation_it(student, teacher)
        expected = expected + mutual * theirs.forward_mutual_it(student, teacher)
        agree(ours, expected, student, embed.weight)


@pytest.mark.parametrize(
    ("resolution", "normalize"), [(2, True), (2, False), (4, True), (1, False)]
)
def test_cat_kd(authors: Load, resolution: int, normalize: bool):
    theirs = authors("CAT-KD", "mdistiller/distillers/CAT_KD.py").CAT_loss
    for seed in range(10):
        torch.manual_seed(seed)
        student = torch.randn(8, 100, 8, 8, dtype=torch.float64).requires_grad_()
        teacher = torch.randn(8, 100, 4, 4, dtype=torch.float64)
        ours = cat_loss(student, teacher, resolution, normalize)
        agree(ours, theirs(student, teacher, resolution, normalize), student)


@pytest.mark.parametrize("regions", [5, 21])
@pytest.mark.filterwarnings("ignore:To copy construct from a tensor")  # theirs does
def test_sdd(authors: Load, regions: int):
    dkd = authors("SDD-CVPR2024", "mdistiller/distillers/SDD_DKD.py").multi_dkd
    kd = authors("SDD-CVPR2024", "mdistiller/distillers/KD.py").sdd_kd_loss
    weights = CN({"ALPHA": 1.0, "BETA": 6.0, "TAU": 4.0})
    for seed in range(20):
        torch.manual_seed(seed)
        student, teacher = (4 * torch.randn(16, regions, 100, dtype=torch.float64) for _ in "st")
        teacher[:5, 2:] = 0.9 * teacher[:5, :1]  # regions that say what the whole says
        target = torch.randint(100, (16,))
        target[:10] = teacher[:10, 0].argmax(1)
        seen = [z.transpose(1, 2) for z in (student.requires_grad_(), teacher)]
        others = complementary(teacher, target)
        consistent, other = sdd_parts(dkd_rows(student, teacher, target, weights), others)
        agree(consistent + 2 * other, dkd(*seen, target, 1.0, 6.0, 4.0), student)
        consistent, other = sdd_parts(kd_rows(student, teacher, 4.0), others)
        agree(consistent + 2 * other, kd(*seen, 4.0, target), student)


@pytest.mark.parametrize(
    ("repository", "name", "tau", "weight", "standard"),
    [
        ("Multi-Level-Logit-Distillation", "KD_ours", 4.0, 0.9, False),
        ("logit-standardization-KD", "MLKD", 2.0, 9.0, True),
    ],
)
@pytest.mark.parametrize("n", [64, 63])
def test_mlld_and_lskds(authors: Load, repository, name, tau, weight, standard, n):
    module = authors(repository, f"mdistiller/distillers/{name}.py")
    cfg = CN({"KD": {"TEMPERATURE": tau, "LOSS": {"CE_WEIGHT": 0.1, "KD_WEIGHT": weight}}})
    cfg.EXPERIMENT = CN({"LOGIT_STAND": standard})
    views = zip(batches(20, n), list(batches(40, n))[20:], strict=True)
    for (weak, weak_teacher, target), (strong, strong_teacher, _) in views:
        networks = Given(weak, strong), Given(weak_teacher, strong_teacher)
        _, losses = getattr(module, name)(*networks, cfg).forward_train(0, 1, target)
        pairs = (weak, weak_teacher), (strong, strong_teacher)
        instance, batch, classes = mlld_terms(*pairs, [tau, 3.0, 5.0], [2.0, 6.0], standard)
        agree(weight * instance, losses["loss_kd"], weak, strong)
        agree(weight * batch, losses["loss_bc"], weak)
        agree(weight * classes, losses["loss_cc"], weak)


class Given(nn.Module):
    """A network that answers view 0 or 1 with these logits."""

    def __init__(self, *logits: Tensor):
        super().__init__()
        self.logits = logits

    def forward(self, view: int) -> tuple[Tensor, None]:
        return self.logits[view], None
