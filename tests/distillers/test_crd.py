"""CRD's loss against a slow version that follows the definition.

Its memory by hand, start value, extremes, refusals.
"""

import inspect
import math

import pytest
import torch
import torch.nn.functional as F
from support.oracles import formula
from torch import Tensor

from sdkd_plugin.config import load_config
from sdkd_plugin.distillers.crd import CRD, contrastive_loss, log_normaliser, renew
from sdkd_plugin.errors import UserError
from sdkd_plugin.models import build_model

B, D, M, K = 6, 8, 30, 12


def inputs(dtype=torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings, memory and rows; some negatives are drawn twice, some equal the positive of
    another image.
    """
    emb = F.normalize(formula((B, D), "emb")).to(dtype)
    memory = math.sqrt(3 / D) * formula((M, D), "memory").to(dtype)
    rows = torch.floor((M / 2) * (formula((B, 1 + K), "rows") + 1)).long()
    rows[:, 0] = torch.arange(B)
    rows[:, 2] = rows[:, 1]
    return emb, memory, rows


def slow_side(emb: Tensor, memory: Tensor, rows: Tensor, tau: float, z: float) -> Tensor:
    """The definition with every row gathered, in probabilities."""
    x = torch.exp((memory[rows] * emb[:, None, :]).sum(2) / tau) / z  # [B, 1 + K]
    q = (rows.shape[1] - 1) / memory.shape[0]
    positive, negatives = x[:, 0], x[:, 1:]
    log_h = torch.log(positive / (positive + q + 1e-7))
    log_not_h = torch.log(q / (negatives + q + 1e-7))
    return -(log_h.sum() + log_not_h.sum()) / len(emb)


@pytest.mark.parametrize("tau", [0.07, 1.0])
def test_value_and_gradient_equal_the_definition(tau):
    emb, memory, rows = inputs()
    fast, slow = emb.clone().requires_grad_(), emb.clone().requires_grad_()
    loss = contrastive_loss(fast, memory, rows, tau, torch.tensor(math.log(50.0)))
    expected = slow_side(slow, memory, rows, tau, 50.0)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)  # log(50) is float32 here
    loss = contrastive_loss(fast, memory, rows, tau, torch.tensor(50.0, dtype=torch.float64).log())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    (gradient,), (slow_gradient,) = (
        torch.autograd.grad(3 * loss, fast),
        torch.autograd.grad(3 * expected, slow),
    )
    torch.testing.assert_close(gradient, slow_gradient, rtol=1e-10, atol=1e-12)


def test_gradient_is_that_of_finite_differences_and_the_memory_gets_none():
    emb, memory, rows = inputs()
    log_z = torch.tensor(2.0, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda e: contrastive_loss(e, memory, rows, 0.5, log_z), emb.requires_grad_()
    )
    memory.requires_grad_()
    contrastive_loss(emb, memory, rows, 0.5, log_z).backward()
    assert memory.grad is None


def test_hand_computed_one_image_one_negative():
    # M = 2, K = 1: q = 1/2. The positive row equals the embedding, the negative is orthogonal to
    # it; tau = 1, Z = 2.
    emb, memory = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    loss = contrastive_loss(emb, memory, torch.tensor([[0, 1]]), 1.0, torch.tensor(math.log(2.0)))
    assert loss.item() == pytest.approx(
        math.log(1 + 0.5 / (math.e / 2)) + math.log(0.5 / 0.5 + 1), rel=1e-5
    )


def test_gradient_survives_the_renewal_of_the_memory_before_backward():
    emb, memory, rows = inputs()
    log_z = torch.tensor(2.0, dtype=torch.float64)
    emb.requires_grad_()
    (expected,) = torch.autograd.grad(contrastive_loss(emb, memory, rows, 0.07, log_z), emb)
    loss = contrastive_loss(emb, memory, rows, 0.07, log_z)
    renew(memory, torch.arange(B), emb, 0.5)
    (gradient,) = torch.autograd.grad(loss, emb)
    assert torch.equal(gradient, expected)


def test_normaliser_is_m_times_the_mean():
    emb, memory, rows = inputs()
    x = torch.exp((memory[rows] * emb[:, None, :]).sum(2) / 0.07)
    assert log_normaliser(emb, memory, rows, 0.07).item() == pytest.approx(
        math.log(M * x.mean()), rel=1e-12
    )


def test_a_tiny_temperature_stays_finite():
    emb, memory, rows = inputs(torch.float32)
    emb.requires_grad_()
    log_z = log_normaliser(emb, memory, rows, 1e-3)  # exp(1 / 0.001) is far beyond float32
    loss = contrastive_loss(emb, memory, rows, 1e-3, log_z)
    (gradient,) = torch.autograd.grad(loss, emb)
    assert torch.isfinite(log_z) and torch.isfinite(loss) and torch.isfinite(gradient).all()


def test_start_value():
    """At the start a memory row is independent of the embedding, so the loss has a closed form,
    here at full size.

    emb . row is nearly normal with variance 1 / D, so log x has mean -log M - s / 2 with s = 1 / (D
    tau^2). The positive costs log K + s / 2, the negatives together 1, EPS adds K EPS / q = EPS M.
    """
    generator = torch.Generator().manual_seed(0)
    m, k, d, tau = 50000, 16384, 128, 0.07
    memory = (2 * torch.rand(m, d, generator=generator) - 1) * math.sqrt(3 / d)
    emb = F.normalize(torch.randn(128, d, generator=generator))
    rows = torch.randint(m, (128, 1 + k), generator=generator)
    loss = contrastive_loss(emb, memory, rows, tau, log_normaliser(emb, memory, rows, tau))
    # 11.51; without the variance s it would be 10.71
    expected = math.log(k) + 1 + 1 / (2 * d * tau**2) + 1e-7 * m
    # 4 standard errors of 128 positives
    assert loss.item() == pytest.approx(expected, abs=4 * math.sqrt(1 / (d * tau**2) / 128))


def test_renew_moves_the_named_rows_only():
    memory = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.6, 0.8]])
    renew(memory, torch.tensor([2, 0]), torch.tensor([[1.0, 0.0], [1.0, 0.0]]), 0.5)
    norm = math.hypot(0.8, 0.4)
    expected = torch.tensor([[0.5**0.5, 0.5**0.5], [1.0, 0.0], [0.8 / norm, 0.4 / norm]])
    torch.testing.assert_close(memory, expected)
    renew(memory, torch.tensor([1]), torch.tensor([[0.0, 1.0]]), 0.9)
    torch.testing.assert_close(memory[1], F.normalize(torch.tensor([0.9, 0.1]), dim=0))


def config(*words: str):
    return load_config(None, ["DISTILLER.TYPE", "CRD", "CRD.NCE.K", str(K), *words])


def build(*words: str, num_data: int = M) -> CRD:
    torch.manual_seed(0)
    return CRD(
        build_model("resnet8", 10), build_model("resnet8x4", 10), config(*words), num_data
    ).train()


def step(distiller: CRD, seed: int = 0) -> dict[str, Tensor]:
    """Exactly the arguments that mdistiller's CRD trainer passes: no epoch."""
    torch.manual_seed(seed)
    index = torch.randperm(M)[:B]
    rows = torch.cat([index[:, None], torch.randint(M, (B, K))], 1)
    return distiller(
        image=torch.randn(B, 3, 16, 16), target=torch.arange(B), index=index, contrastive_index=rows
    )[1]


def test_one_step_equals_the_definition_on_both_sides():
    distiller = build("CRD.LOSS.FEAT_WEIGHT", "0.5", "CRD.LOSS.CE_WEIGHT", "2.0").double()
    memory_s, memory_t = distiller.memory_s.clone(), distiller.memory_t.clone()
    torch.manual_seed(0)
    index = torch.randperm(M)[:B]
    rows = torch.cat([index[:, None], torch.randint(M, (B, K))], 1)
    image, target = torch.randn(B, 3, 16, 16).double(), torch.arange(B)
    logits, losses = distiller(image=image, target=target, index=index, contrastive_index=rows)
    _, feats_s = distiller.student(image)
    _, feats_t = distiller.teacher(image)
    emb_s, emb_t = (
        distiller.embed_s(feats_s["pooled_feat"]),
        distiller.embed_t(feats_t["pooled_feat"]),
    )
    emb_s, emb_t = emb_s / emb_s.norm(dim=1, keepdim=True), emb_t / emb_t.norm(dim=1, keepdim=True)
    sides = 0.0
    for emb, memory in ((emb_s, memory_t), (emb_t, memory_s)):
        z = M * torch.exp((memory[rows] * emb[:, None, :]).sum(2) / 0.07).mean()
        sides += slow_side(emb, memory, rows, 0.07, z.item())
    assert losses["loss_kd"].item() == pytest.approx(0.5 * sides.item(), rel=1e-8)
    assert losses["loss_ce"].item() == pytest.approx(
        2 * F.cross_entropy(logits, target).item(), rel=1e-12
    )
    for emb, old, new in (
        (emb_s, memory_s, distiller.memory_s),
        (emb_t, memory_t, distiller.memory_t),
    ):
        moved = old[index] / 2 + emb / 2
        torch.testing.assert_close(new[index], moved / moved.norm(dim=1, keepdim=True))
        others = torch.tensor([i for i in range(M) if i not in index.tolist()])
        assert torch.equal(new[others], old[others])


def test_z_is_set_by_the_first_batch_for_good_and_saved():
    distiller = build()
    assert distiller.log_z_s.isinf() and distiller.log_z_t.isinf()
    step(distiller, seed=0)
    first = distiller.log_z_s.item(), distiller.log_z_t.item()
    step(distiller, seed=1)
    assert (distiller.log_z_s.item(), distiller.log_z_t.item()) == first
    assert all(math.isfinite(z) for z in first)
    resumed = build()
    resumed.load_state_dict(distiller.state_dict())
    step(resumed, seed=2)
    assert (resumed.log_z_s.item(), resumed.log_z_t.item()) == first
    assert {"memory_s", "memory_t", "log_z_s", "log_z_t"} <= set(distiller.state_dict())


def test_z_is_set_anew_after_a_fresh_state_was_loaded():
    distiller = build()
    fresh = {name: value.clone() for name, value in distiller.state_dict().items()}
    step(distiller, seed=0)
    first = distiller.log_z_s.item()
    distiller.load_state_dict(fresh)
    assert distiller.log_z_s.isinf()
    step(distiller, seed=0)
    assert distiller.log_z_s.item() == first


def test_both_embeddings_fit_the_networks_whatever_the_config_says():
    distiller = build(
        "CRD.FEAT.STUDENT_DIM", "3", "CRD.FEAT.TEACHER_DIM", "4", "CRD.FEAT.DIM", "32"
    )
    assert distiller.embed_s.weight.shape == (32, 64)
    assert distiller.embed_t.weight.shape == (32, 256)
    assert distiller.memory_s.shape == distiller.memory_t.shape == (M, 32)
    assert distiller.get_extra_parameters() == 32 * (64 + 1) + 32 * (256 + 1)


def test_a_fresh_memory_is_uniform_with_rows_of_length_about_one():
    distiller = build(num_data=2000)
    assert distiller.memory_s.abs().max().item() == pytest.approx(math.sqrt(3 / 128), rel=1e-3)
    assert distiller.memory_s.square().sum(1).mean().item() == pytest.approx(1, abs=0.01)
    assert not torch.equal(distiller.memory_s, distiller.memory_t)


def test_negatives_are_at_most_the_training_images():
    assert build().num_negatives == K
    assert build("CRD.NCE.K", "16384").num_negatives == M


def test_mdistillers_trainer_can_call_it():
    parameters = inspect.signature(CRD.forward_train).parameters
    required = [
        name
        for name, p in parameters.items()
        if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    assert required == ["self", "image", "target", "index", "contrastive_index"]


@pytest.mark.parametrize(
    "key, value, allowed",
    [
        ("CRD.NCE.K", "0", "1 or more"),
        ("CRD.NCE.TEMPERATURE", "0.0", "above 0"),
        ("CRD.NCE.MOMENTUM", "1.0", "from 0 to below 1"),
        ("CRD.FEAT.DIM", "0", "1 or more"),
    ],
)
def test_meaningless_settings_are_refused(key, value, allowed):
    with pytest.raises(UserError, match=f"{key} is {value}; allowed: {allowed}"):
        build(key, value)


def test_another_positive_than_the_image_itself_is_refused():
    with pytest.raises(UserError, match="unknown value 'relax' in CRD.MODE: known: exact"):
        build("CRD.MODE", "relax")


def test_defaults_are_mdistillers():
    node = load_config(None).CRD
    dims = (node.FEAT.DIM, node.FEAT.STUDENT_DIM, node.FEAT.TEACHER_DIM)
    assert node.MODE == "exact" and dims == (128, 256, 256)
    assert (node.LOSS.CE_WEIGHT, node.LOSS.FEAT_WEIGHT) == (1.0, 0.8)
    assert (node.NCE.K, node.NCE.MOMENTUM, node.NCE.TEMPERATURE) == (16384, 0.5, 0.07)
