"""MLLD's three levels: by hand, an independent version, limits, refusals of one view."""

import math

import pytest
import torch
from cases import CASES, Case
from support.loop import batch, build
from support.oracles import formula
from support.runs import bare_run

from sdkd_plugin.config import configs_folder, load_config
from sdkd_plugin.distillers.kd import kd_loss
from sdkd_plugin.distillers.mlld import mlld_terms, relation_losses, unsure
from sdkd_plugin.engine.run import teacher_config
from sdkd_plugin.errors import UserError
from sdkd_plugin.registry import METHODS
from sdkd_plugin.runs.identity import run_identity
from sdkd_plugin.runs.teacher import teacher_overrides
from sdkd_plugin.table.cells import compare_runs

N, K = 7, 6
TAUS, WEAK_TAUS = [4.0, 3.0, 5.0], [2.0, 6.0]
WEAK = (3 * formula((N, K), "s weak"), 5 * formula((N, K), "t weak"))
STRONG = (3 * formula((N, K), "s strong"), 5 * formula((N, K), "t strong"))
CASE = next(case for case in CASES if case.name == "MLLD")


def softmax(values: list[float], tau: float) -> list[float]:
    powers = [math.exp(value / tau) for value in values]
    return [power / sum(powers) for power in powers]


def slow_kl(pair, tau: float) -> float:
    total = 0.0
    for z_s, z_t in zip(pair[0].tolist(), pair[1].tolist(), strict=True):
        p, q = softmax(z_s, tau), softmax(z_t, tau)
        total += sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
    return tau**2 * total / len(pair[0])


def slow_relations(pair, tau: float) -> tuple[float, float]:
    """Entry by entry of the two Gram matrices."""
    p, q = ([softmax(row, tau) for row in logits.tolist()] for logits in pair)
    images = sum(
        (sum(p[a][k] * p[b][k] - q[a][k] * q[b][k] for k in range(K))) ** 2
        for a in range(N)
        for b in range(N)
    )
    classes = sum(
        (sum(p[n][a] * p[n][b] - q[n][a] * q[n][b] for n in range(N))) ** 2
        for a in range(K)
        for b in range(K)
    )
    return images / N, classes / K


def slow_share(values: list[float]) -> float:
    ordered = sorted(values)
    half = len(values) // 2
    median = ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) / 2
    return sum(value <= median for value in values) / len(values)


def test_the_three_levels_equal_an_independent_version():
    sure = [softmax(row, 1.0) for row in WEAK[1].tolist()]
    s = slow_share([max(row) for row in sure])
    c = slow_share([sum(row[k] for row in sure) for k in range(K)])
    assert (s, c) == (4 / 7, 1 / 2)
    every = TAUS + WEAK_TAUS
    instance = s * sum(slow_kl(WEAK, tau) for tau in every)
    instance += sum(slow_kl(STRONG, tau) for tau in TAUS)
    instance += sum(slow_kl(WEAK, tau) for tau in WEAK_TAUS)
    relations = [slow_relations(WEAK, tau) for tau in every]
    slow = [instance, s * sum(r[0] for r in relations), c * sum(r[1] for r in relations)]
    terms = mlld_terms(WEAK, STRONG, TAUS, WEAK_TAUS)
    assert [term.item() for term in terms] == pytest.approx(slow, rel=1e-10)


def test_relations_by_hand():
    # two images, two classes: P_S = ((1/2, 1/2), (1/4, 3/4)), P_T = ((3/4, 1/4), (1/2, 1/2))
    student = torch.tensor([[0.5, 0.5], [0.25, 0.75]]).log()
    teacher = torch.tensor([[0.75, 0.25], [0.5, 0.5]]).log()
    # P P^T: ((1/2, 1/2), (1/2, 5/8)) and ((5/8, 1/2), (1/2, 1/2))
    # P^T P: ((5/16, 7/16), (7/16, 13/16)) and ((13/16, 7/16), (7/16, 5/16))
    images, classes = relation_losses(student, teacher, 1.0)
    assert images.item() == pytest.approx(2 * (1 / 8) ** 2 / 2, rel=1e-5)
    assert classes.item() == pytest.approx(2 * (1 / 2) ** 2 / 2, rel=1e-5)


def test_two_networks_of_other_classes_have_no_relations():
    with pytest.raises(UserError, match=r"shapes \[2, 3\] and \[2, 4\]; both must be"):
        relation_losses(torch.zeros(2, 3), torch.zeros(2, 4), 1.0)


@pytest.mark.parametrize(
    ("values", "share"),
    [([1, 2, 3, 4], 1 / 2), ([3, 1, 2], 2 / 3), ([5, 5, 5, 5], 1), ([1, 2, 2, 3], 3 / 4), ([7], 1)],
)
def test_the_share_of_what_is_at_most_the_median(values, share):
    assert unsure(torch.tensor(values, dtype=torch.float32)).item() == pytest.approx(share)
    assert slow_share(values) == pytest.approx(share)


def test_a_student_that_agrees_has_nothing_to_learn():
    student = [logits.clone().requires_grad_() for logits in (WEAK[1], STRONG[1])]
    terms = mlld_terms((student[0], WEAK[1]), (student[1], STRONG[1]), TAUS, WEAK_TAUS)
    found = torch.autograd.grad(sum(terms), student)
    assert [term.item() for term in terms] == pytest.approx([0, 0, 0], abs=1e-14)
    assert max(gradient.abs().max().item() for gradient in found) < 1e-14


def test_at_one_temperature_with_equal_views_the_instance_level_is_kd():
    student = WEAK[0].clone().requires_grad_()
    pair = (student, WEAK[1])
    instance, _, _ = mlld_terms(pair, pair, [4.0], [])
    plain = (1 + 4 / 7) * kd_loss(*pair, 4.0)
    assert instance.item() == pytest.approx(plain.item(), rel=1e-12)
    one, two = (
        torch.autograd.grad(each, student, retain_graph=True)[0] for each in (instance, plain)
    )
    torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-14)


def test_order_of_images_and_of_classes_changes_nothing():
    expected = [term.item() for term in mlld_terms(WEAK, STRONG, TAUS, WEAK_TAUS)]
    images, classes = torch.tensor([3, 0, 6, 2, 1, 5, 4]), torch.tensor([5, 1, 0, 2, 4, 3])
    moved = [[logits[images][:, classes] for logits in pair] for pair in (WEAK, STRONG)]
    found = [term.item() for term in mlld_terms(*moved, TAUS, WEAK_TAUS)]
    assert found == pytest.approx(expected, rel=1e-12)


def test_gradient_is_that_of_finite_differences():
    weak, strong = (formula((3, 4), key).requires_grad_() for key in "ws")
    teacher = formula((3, 4), "t")
    assert torch.autograd.gradcheck(
        lambda w, s: mlld_terms((w, teacher), (s, teacher), [4.0, 3.0], [2.0]), (weak, strong)
    )


def test_a_logit_gap_of_500_stays_finite():
    student = torch.tensor([[500.0, 0.0, 0.0], [0.0, 1.0, 2.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, 500.0, 0.0], [2.0, 1.0, 0.0]])
    terms = mlld_terms((student, teacher), (student, teacher), [1.0], [0.5])
    (gradient,) = torch.autograd.grad(sum(terms), student)
    assert all(torch.isfinite(term) for term in terms) and torch.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened(dtype):
    half = [tuple(logits.to(dtype) for logits in pair) for pair in (WEAK, STRONG)]
    wide = [tuple(logits.float() for logits in pair) for pair in half]
    found = mlld_terms(*half, TAUS, WEAK_TAUS)
    assert all(term.dtype == torch.float32 for term in found)
    expected = mlld_terms(*wide, TAUS, WEAK_TAUS)
    assert [term.item() for term in found] == [term.item() for term in expected]


def test_the_distiller_sees_both_views_and_gives_the_first_ones_logits():
    words = {"KD_WEIGHT": 0.5, "BATCH_WEIGHT": 3.0, "CLASS_WEIGHT": 7.0}
    own = {f"MLLD.{key}": value for key, value in words.items()}
    distiller = build(Case("MLLD", {**CASE.overrides, **own})).double().eval()
    data = {
        key: v.double() if v.is_floating_point() else v for key, v in batch(distiller, 0).items()
    }
    assert not torch.equal(data["image"], data["strong"])
    logits, losses = distiller.forward_train(**data)
    weak, strong = (
        (distiller.student(data[view])[0], distiller.teacher(data[view])[0])
        for view in ("image", "strong")
    )
    assert torch.equal(logits, weak[0])
    terms = mlld_terms(weak, strong, TAUS, WEAK_TAUS)
    weighted = sum(w * term for w, term in zip(words.values(), terms, strict=True)).item()
    assert losses["loss_kd"].item() == pytest.approx(weighted, rel=1e-9)
    assert [term.item() for term in distiller.terms.values()] == pytest.approx(
        [term.item() for term in terms], rel=1e-9
    )
    own = sum(
        -z.log_softmax(1)[torch.arange(len(z)), data["target"]].mean().item()
        for z in (weak[0], strong[0])
    )
    assert losses["loss_ce"].item() == pytest.approx(0.1 * own, rel=1e-9)


def test_it_alone_has_two_views_and_each_method_refuses_the_others():
    assert [entry.name for entry in METHODS if entry.build.views != 1] == ["MLLD"]
    with pytest.raises(UserError, match="DATASET.VIEWS is 1, but MLLD .* allowed for it: 2"):
        load_config(None, ["DISTILLER.TYPE", "MLLD"])
    for name in ("NONE", "KD", "CRD"):
        with pytest.raises(UserError, match=f"DATASET.VIEWS is 2, but {name} .* allowed for it: 1"):
            load_config(None, ["DISTILLER.TYPE", name, "DATASET.VIEWS", "2"])


def test_two_views_count_in_the_identity_and_one_does_not(tmp_path):
    words = ["LOG.PREFIX", str(tmp_path)]
    one = load_config(None, [*words, "DISTILLER.TYPE", "KD"])
    two = load_config(None, [*words, "DISTILLER.TYPE", "MLLD", "DATASET.VIEWS", "2"])
    assert "DATASET.VIEWS" not in run_identity(one, {"data": "d"}, "t")
    assert run_identity(two, {"data": "d"}, "t")["DATASET.VIEWS"] == 2


def test_its_runs_stand_in_a_column_of_their_own_that_says_why():
    protocol = {"DATASET__VIEWS": 2, "SOLVER__LR": 0.025}
    runs = [bare_run(SOLVER__LR=0.05), bare_run("NONE", SOLVER__LR=0.05)]
    comparison = compare_runs([*runs, bare_run("MLLD", **protocol)], [])
    labels = sorted(column.label for column in comparison.columns)
    assert labels == ["resnet56/resnet20 [a]", "resnet56/resnet20 [b]"]
    (index,) = (index for row, index in comparison.cells if row == "MLLD")
    cell = comparison.cells["MLLD", index]
    assert cell.gain is None and cell.rank == 1
    told = comparison.differing[cell.column.letter]
    assert told == {"DATASET.VIEWS": 2, "SOLVER.LR": 0.025}


def test_its_teacher_learns_from_one_view():
    file = configs_folder() / "cifar100" / "mlld" / "res56_res20.yaml"
    assert "DATASET.VIEWS" not in teacher_overrides(load_config(file))
    assert teacher_config(load_config(file)).DATASET.VIEWS == 1


@pytest.mark.parametrize(
    "pair", sorted(p.stem for p in (configs_folder() / "cifar100/kd").glob("*"))
)
def test_the_files_have_the_authors_protocol(pair):
    cfg = load_config(configs_folder() / "cifar100" / "mlld" / f"{pair}.yaml")
    epochs = {"res50_mv2": 480, "vgg13_mv2": 480, "wrn40_2_shuv1": 480}
    epochs |= {"res32x4_shuv1": 960, "res32x4_shuv2": 960}
    assert cfg.DATASET.VIEWS == 2 and cfg.SOLVER.EPOCHS == epochs.get(pair, 240)
    assert cfg.SOLVER.LR == (0.01 if pair in epochs else 0.025)
    assert cfg.SOLVER.LR_DECAY_STAGES == [150, 180, 210]


@pytest.mark.parametrize(
    "key, value", [("TAUS", "[4.0, 0]"), ("TAUS", "[]"), ("TAUS_WEAK", "[-1]"), ("KD_WEIGHT", "-1")]
)
def test_config_values_that_mean_nothing_are_refused(key, value):
    with pytest.raises(UserError, match=rf"MLLD.{key} is .*; allowed: "):
        load_config(None, ["DISTILLER.TYPE", "MLLD", "DATASET.VIEWS", "2", f"MLLD.{key}", value])
