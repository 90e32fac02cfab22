"""`proxy` says of each epoch what the run itself recorded, and changes nothing."""

import csv
import shutil

import pytest
import torch
from support.tiny import assert_bits_equal, contents, metrics, result, state_copy

from sdkd_plugin.__main__ import main
from sdkd_plugin.config import load_config
from sdkd_plugin.distillers.sdkd import SDKD
from sdkd_plugin.models import build_model
from sdkd_plugin.studies.over_training import look, measure


def make_method(*overrides: str) -> SDKD:
    torch.manual_seed(0)
    cfg = load_config(None, ["DISTILLER.TYPE", "SDKD", *overrides])
    return SDKD(build_model("resnet8", 10), build_model("resnet14", 10), cfg)


def test_each_epoch_is_what_the_run_recorded(runs, tmp_path):
    run = runs["SDKD"]
    before = contents(run)
    assert main(["proxy", str(run), "--output", str(tmp_path / "seen")]) == 0
    assert contents(run) == before
    rows = list(csv.DictReader((tmp_path / "seen" / "proxy.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    for row, recorded in zip(rows, metrics(run), strict=True):
        assert float(row["top1_student"]) == pytest.approx(float(recorded["test_top1"]), abs=1e-9)
        teacher = result(run)["teacher_score"]["top1"]
        assert float(row["top1_teacher"]) == pytest.approx(teacher, abs=1e-9)
    assert rows[0]["kl_student_proxy"] != rows[1]["kl_student_proxy"]
    assert rows[0]["kl_student_proxy"] != rows[0]["kl_proxy_student"]
    assert (tmp_path / "seen" / "proxy.png").read_bytes().startswith(b"\x89PNG")
    (events,) = (tmp_path / "seen" / "proxy.events").iterdir()
    assert b"proxy/top1/student" in events.read_bytes()
    assert b"proxy/cka/proxy_teacher_stage3" in events.read_bytes()


@pytest.mark.parametrize("sync", ["step", "epoch", "init", "ema"])
def test_to_look_changes_nothing(sync):
    method = make_method("SDKD.SYNC", sync)
    image = torch.randn(6, 3, 8, 8)
    method.train()
    method.forward_train(image, torch.zeros(6, dtype=torch.long))
    method.eval()
    before = state_copy(method)
    first = look(method, image)
    with torch.no_grad():
        method.student.conv1.weight.mul_(3)  # an averaged copy would follow it
    look(method, image)
    with torch.no_grad():
        method.student.conv1.weight.copy_(before["student.conv1.weight"])
    assert_bits_equal(dict(method.state_dict()), before)
    assert torch.equal(first.logits["proxy"], look(method, image).logits["proxy"])


def test_the_three_are_the_networks_and_the_maps_the_fused_ones():
    method = make_method("SDKD.STAGES", "[2]").eval()
    image = torch.randn(5, 3, 8, 8)
    seen = look(method, image)
    student, feats = method.student(image)
    teacher, theirs = method.teacher(image)
    assert torch.equal(seen.logits["student"], student)
    assert torch.equal(seen.logits["teacher"], teacher)
    assert torch.equal(seen.maps["student"][0], feats["feats"][2])
    assert torch.equal(seen.maps["teacher"][0], theirs["feats"][2])
    fused = method.proxy.model.layer2.fusion(feats["feats"][2], theirs["feats"][2])
    assert torch.allclose(seen.maps["proxy"][0], fused) and len(seen.maps["proxy"]) == 1
    head, _ = method.student.forward_head(method.student.layer3(fused)[0])
    assert torch.allclose(seen.logits["proxy"], head, atol=1e-5)


def test_a_proxy_that_adds_nothing_is_the_student():
    """A residual block starts at zero: no KL, CKA 1."""
    method = make_method("SDKD.FUSION", "residual").eval()
    batches = [(torch.randn(8, 3, 8, 8), torch.arange(8))]
    row = measure(method, batches, 1.0)
    assert row["kl_student_proxy"] == pytest.approx(0, abs=1e-9)
    assert row["top1_student"] == row["top1_proxy"]
    assert row["cka_student_proxy_stage2"] == pytest.approx(1, abs=1e-6)
    assert row["kl_student_teacher"] == pytest.approx(row["kl_proxy_teacher"], rel=1e-5)
    assert row["kl_student_teacher"] > 0.01 and row["cka_student_teacher_stage3"] < 0.99


def test_what_cannot_be_looked_at_is_one_line(runs, tmp_path, capsys):
    bare = shutil.copytree(runs["SDKD"], tmp_path / "bare")
    for path in bare.glob("epoch_*"):
        path.unlink()
    torn = shutil.copytree(runs["SDKD"], tmp_path / "torn")
    shutil.copy(runs["KD"] / "epoch_1", torn / "epoch_1")
    for arguments, message in (
        ([runs["KD"]], "is a run of KD without a proxy teacher"),
        ([bare], "kept no checkpoint but the last; train with LOG.SAVE_CHECKPOINT_FREQ 1"),
        ([torn], "epoch_1 is not of this run"),
        ([tmp_path], "is no run folder"),
        ([runs["SDKD"], "--tau", "0"], "--tau is 0.0; allowed: above 0"),
        ([runs["SDKD"], "--images", "-1"], "--images is -1"),
        ([runs["SDKD"], "DATASET.SUBSET", "0.2"], "is not the run that is here now"),
    ):
        assert main(["proxy", *map(str, arguments)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and message in line
