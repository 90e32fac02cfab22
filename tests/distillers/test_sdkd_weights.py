"""What SDKD's weights, its ramps and its temperatures do to the terms of a step."""

import pytest
import torch
from support.sdkd_steps import (
    CLASSES,
    PROXY_WEIGHTS,
    WEIGHTS,
    batch,
    build,
    config,
    equal_bits,
    only,
    optimizer,
    step,
)

from sdkd_plugin.config import epoch_keys, load_config
from sdkd_plugin.distillers.kd import KD, kd_loss
from sdkd_plugin.distillers.vanilla import Vanilla
from sdkd_plugin.models import build_model
from sdkd_plugin.randomness import torch_seeded

ALL_DIFFERENT = dict(zip(WEIGHTS, (0.9, 1.7, 1.3, 0.6, 0.8, 1.1, 1.9), strict=True))


def test_terms_add_up_to_the_losses_by_their_weights():
    distiller = build(loss=ALL_DIFFERENT, WARMUP=4)
    _, losses = distiller(**batch(), epoch=3)
    terms, w = distiller.terms, ALL_DIFFERENT
    names = {
        "kd_teacher": "TEACHER_WEIGHT",
        "kd_proxy": "PROXY_WEIGHT",
        "feat": "FEAT_WEIGHT",
        "mutual": "MUTUAL_WEIGHT",
        "proxy_kd_teacher": "PROXY_TEACHER_WEIGHT",
    }
    assert terms.keys() == {"ce", "proxy_ce", *names}
    kd = 0.75 * sum(w[key] * terms[name] for name, key in names.items())
    torch.testing.assert_close(losses["loss_kd"].detach(), kd)
    ce = w["CE_WEIGHT"] * terms["ce"] + w["PROXY_CE_WEIGHT"] * terms["proxy_ce"]
    torch.testing.assert_close(losses["loss_ce"].detach(), ce)


def test_warmup_ramps_every_term_but_the_cross_entropies():
    assert "SDKD.WARMUP" in epoch_keys(config())  # short schedules scale it
    full = build(WARMUP=0)(**batch())[1]
    for epoch, share in ((1, 0.25), (3, 0.75), (4, 1.0), (9, 1.0)):
        losses = build(WARMUP=4)(**batch(), epoch=epoch)[1]
        assert torch.equal(losses["loss_ce"], full["loss_ce"])
        torch.testing.assert_close(losses["loss_kd"], share * full["loss_kd"])


@pytest.mark.parametrize(
    "epoch, w_t, w_p",
    [(1, 1.7 + 0.75 * 1.3, 0.25 * 1.3), (3, 1.7 + 0.25 * 1.3, 0.75 * 1.3), (4, 1.7, 1.3)],
)
def test_handover_moves_the_proxys_share_over_from_the_teacher(epoch, w_t, w_p):
    assert "SDKD.HANDOVER" in epoch_keys(config())
    loss = ALL_DIFFERENT | dict.fromkeys(("FEAT_WEIGHT", "MUTUAL_WEIGHT"), 0.0)
    distiller = build(loss=loss | {"PROXY_TEACHER_WEIGHT": 0.0}, HANDOVER=4)
    _, losses = distiller(**batch(), epoch=epoch)
    terms = distiller.terms
    expected = w_t * terms["kd_teacher"] + w_p * terms["kd_proxy"]
    torch.testing.assert_close(losses["loss_kd"].detach(), expected)


def test_handover_makes_a_teachers_kl_of_a_weight_of_zero():
    loss = only("PROXY_WEIGHT", "PROXY_CE_WEIGHT")
    for epoch, there in ((1, True), (2, False)):
        distiller = build(loss=loss, HANDOVER=2)
        distiller(**batch(), epoch=epoch)
        assert ("kd_teacher" in distiller.terms) == there


def test_the_proxys_temperature_is_that_of_every_kl_it_takes_part_in():
    """Each pair's KL at its own tau, the logits taken from the two networks themselves."""
    distiller = build(TAU=3.0, PROXY_TAU=1.5)
    logits = {}

    def keep(name: str):
        def hook(module, inputs, output) -> None:
            logits[name] = output[0].detach()

        return hook

    distiller.student.register_forward_hook(keep("s"))
    distiller.teacher.register_forward_hook(keep("t"))
    distiller.proxy.model.register_forward_hook(keep("p"))
    distiller(**batch())
    z_s, z_t, z_p = (logits[name] for name in "stp")
    for term, a, b, tau in (
        ("kd_teacher", z_s, z_t, 3.0),
        ("kd_proxy", z_s, z_p, 1.5),
        ("mutual", z_p, z_s, 1.5),
        ("proxy_kd_teacher", z_p, z_t, 1.5),
    ):
        torch.testing.assert_close(distiller.terms[term], kd_loss(a, b, tau), msg=term)


def test_a_proxy_temperature_of_zero_is_tau():
    same = [build(TAU=3.0, PROXY_TAU=tau)(**batch())[1]["loss_kd"] for tau in (0.0, 3.0, 2.0)]
    assert torch.equal(same[0], same[1]) and not torch.equal(same[0], same[2])


# --- weights of zero


def baseline(kind: type, **settings: object):
    with torch_seeded(0, "models"):
        student, teacher = build_model("resnet8", CLASSES), build_model("resnet14", CLASSES)
    overrides = [str(word) for pair in settings.items() for word in pair]
    return kind(
        student, None if kind.teacher_from == "none" else teacher, load_config(None, overrides)
    ).train()


def test_with_all_weights_but_ce_at_zero_the_student_is_vanilla_bit_for_bit():
    vanilla, sdkd = baseline(Vanilla), build(loss=only("CE_WEIGHT"))
    states = []
    for distiller in (vanilla, sdkd):
        torch.manual_seed(5)
        sgd = optimizer(distiller)
        for number in range(3):
            step(distiller, sgd, batch(number))
        states.append(
            (
                torch.get_rng_state(),
                [sgd.state[p]["momentum_buffer"] for p in sgd.param_groups[0]["params"]],
            )
        )
    assert equal_bits(vanilla.student, sdkd.student)  # batch-norm buffers included
    assert torch.equal(states[0][0], states[1][0])
    assert all(torch.equal(a, b) for a, b in zip(states[0][1], states[1][1], strict=True))
    assert not equal_bits(vanilla.student, build().student)  # they did move


def test_without_proxy_weights_it_is_ce_plus_kd_bit_for_bit():
    """The control 'no proxy, same KL weight': KD with its weights set to SDKD's."""
    kd = baseline(KD, **{"KD.LOSS.CE_WEIGHT": 1.0, "KD.LOSS.KD_WEIGHT": 5.0})
    sdkd = build(loss={"TEACHER_WEIGHT": 5.0} | dict.fromkeys(PROXY_WEIGHTS, 0.0))
    for distiller in (kd, sdkd):
        sgd = optimizer(distiller)
        for number in range(3):
            step(distiller, sgd, batch(number))
    assert equal_bits(kd.student, sdkd.student)
    assert sdkd.proxy is None and sdkd.get_extra_parameters() == 0


def test_a_weight_of_zero_skips_what_it_weighs(monkeypatch):
    def refuse(*args: object) -> None:
        raise AssertionError("this pass has no weight")

    sdkd = build(loss=only("CE_WEIGHT"))
    monkeypatch.setattr(sdkd.teacher, "forward", refuse)
    _, losses = sdkd(**batch())
    assert sdkd.terms.keys() == {"ce"} and losses["loss_kd"] == 0
    for name in WEIGHTS:
        sdkd = build(loss={name: 0.0} | ({"FEAT_WEIGHT": 1.0} if name != "FEAT_WEIGHT" else {}))
        sdkd(**batch())
        assert len(sdkd.terms) == len(WEIGHTS) - 1
