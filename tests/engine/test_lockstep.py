"""Runs trained together leave behind, to the bit, what each leaves when it is trained alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cases import CASES
from support.tiny import (
    assert_same_run,
    method_overrides,
    metrics,
    result,
    tiny_config,
)

from sdkd_plugin.distillers.kd import KD
from sdkd_plugin.engine.group import Group
from sdkd_plugin.engine.lockstep import train_together
from sdkd_plugin.engine.run import train
from sdkd_plugin.engine.shared import OncePerBatch
from sdkd_plugin.models import build_model
from sdkd_plugin.runs.folder import BusyError


def configs(folder: Path, teacher: Path, cases=CASES, **overrides) -> list:
    """A run for each case; the same batches for all."""
    made = []
    for case in cases:
        own = method_overrides(case, teacher)
        made.append(tiny_config(folder, {**own, "SOLVER.BATCH_SIZE": 24, **overrides}))
    return made


def files(folder: Path) -> set[str]:
    """Every file of a run but for the TensorBoard files, whose names hold the second."""
    paths = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    return {str(path) for path in paths if "train.events" not in str(path)}


def test_every_method_leaves_the_bits_of_a_run_alone(teacher, tmp_path):
    outcomes = list(train_together(configs(tmp_path / "together", teacher)))
    assert sorted(outcomes) == [(number, None) for number in range(len(CASES))]

    for cfg, case in zip(configs(tmp_path / "alone", teacher), CASES, strict=True):
        alone = train(cfg).path
        together = tmp_path / "together" / alone.relative_to(tmp_path / "alone")
        assert files(together) == files(alone), case.name
        assert_same_run(together, alone)
        for name in ("identity.json", "first_steps.json"):
            assert (together / name).read_bytes() == (alone / name).read_bytes(), case.name
        assert result(alone)["group_size"] == 1
        meets_none = "DATASET.VIEWS" in case.overrides  # it alone has two views
        assert result(together)["group_size"] > 1 or meets_none


KD_LIKE = [case for case in CASES if case.name in ("KD", "DKD", "AT", "SP")]


def same(one: Path, two: Path) -> None:
    """Every run under one folder is the run at the same place under the other."""
    runs = sorted(path.parent.relative_to(one) for path in one.rglob("result.json"))
    assert runs == sorted(path.parent.relative_to(two) for path in two.rglob("result.json"))
    for run in runs:
        assert_same_run(one / run, two / run)


@pytest.fixture(scope="module")
def alone(teacher, tmp_path_factory) -> Path:
    """The KD-like runs, each made alone."""
    folder = tmp_path_factory.mktemp("alone")
    for cfg in configs(folder, teacher, KD_LIKE):
        train(cfg)
    return folder


def test_one_pass_of_the_teacher_serves_all(teacher, tmp_path, monkeypatch):
    passes = []
    monkeypatch.setattr(
        OncePerBatch,
        "_pass",
        lambda self, image: (passes.append(len(image)), self._forward(image))[1],
    )
    assert len(list(train_together(configs(tmp_path, teacher, KD_LIKE)))) == len(KD_LIKE)
    assert passes == ([24] * 5 + [23]) * 2  # 2 epochs of 143 images


def test_of_two_views_there_is_one_pass_each(teacher, tmp_path):
    case = next(case for case in CASES if case.name == "MLLD")
    cases = [replace(case, overrides={**case.overrides, "MLLD.KD_WEIGHT": w}) for w in (0.9, 0.5)]
    passes = []
    with pytest.MonkeyPatch.context() as patch:
        whole = OncePerBatch._pass
        patch.setattr(OncePerBatch, "_pass", lambda self, i: (passes.append(1), whole(self, i))[1])
        list(train_together(configs(tmp_path / "together", teacher, cases)))
    for cfg in configs(tmp_path / "alone", teacher, cases):
        alone = train(cfg).path
        assert_same_run(tmp_path / "together" / alone.relative_to(tmp_path / "alone"), alone)
    assert len(passes) == 2 * 2 * 6  # views, epochs, batches


def test_runs_of_other_seeds_do_not_meet(teacher, tmp_path, monkeypatch):
    sizes = []
    whole = Group._train_epoch
    monkeypatch.setattr(
        Group,
        "_train_epoch",
        lambda self, together: (sizes.append(len(together)), whole(self, together))[1],
    )
    cfgs = configs(tmp_path, teacher, KD_LIKE)
    cfgs += configs(tmp_path, teacher, KD_LIKE[:2], **{"SOLVER.SEED": 1})
    assert len(list(train_together(cfgs))) == 6
    assert sizes == [4, 4, 2, 2]


def test_a_size_bounds_a_group(teacher, tmp_path, alone, monkeypatch):
    sizes = []
    whole = Group._train_epoch
    monkeypatch.setattr(
        Group,
        "_train_epoch",
        lambda self, together: (sizes.append(len(together)), whole(self, together))[1],
    )
    assert len(list(train_together(configs(tmp_path, teacher, KD_LIKE), size=3))) == 4
    assert sizes == [3, 3, 1, 1]
    same(tmp_path, alone)


def test_a_run_that_fails_leaves_and_the_others_go_on(teacher, tmp_path, alone):
    cfgs = configs(tmp_path, teacher, KD_LIKE)
    (broken,) = configs(tmp_path, teacher, KD_LIKE[:1], **{"SOLVER.LR": 1e30})
    outcomes = dict(train_together([cfgs[0], broken, *cfgs[1:]]))
    assert "not finite at epoch 1" in str(outcomes.pop(1))
    assert set(outcomes.values()) == {None}
    same(tmp_path, alone)


def test_a_fault_of_ours_in_one_method_leaves_the_others_alone(
    teacher, tmp_path, alone, monkeypatch, capsys
):
    def broken(self, *arguments, **extras):
        raise IndexError("a bug")

    monkeypatch.setattr(KD, "forward_train", broken)
    outcomes = dict(train_together(configs(tmp_path, teacher, KD_LIKE)))
    assert str(outcomes.pop(0)) == "IndexError: a bug"
    assert outcomes == {1: None, 2: None, 3: None}
    assert "Traceback" in capsys.readouterr().err


def test_killed_runs_meet_again_from_different_epochs(teacher, tmp_path, alone, monkeypatch):
    """One has trained an epoch alone; then the group is killed in its second common step."""
    cfgs = configs(tmp_path, teacher, KD_LIKE)
    whole = Group._take
    steps = []

    def killed(after: int):
        def take(self, *arguments):
            steps.append(1)
            if len(steps) == after:
                raise KeyboardInterrupt
            return whole(self, *arguments)

        return take

    monkeypatch.setattr(Group, "_take", killed(after=8))
    with pytest.raises(KeyboardInterrupt):
        list(train_together(cfgs[:1]))  # six steps an epoch
    steps.clear()
    with pytest.raises(KeyboardInterrupt):
        list(train_together(cfgs))  # the other three, until they stand where the first does
    done = [len(metrics(latest.parent)) for latest in tmp_path.rglob("latest")]
    assert done == [1, 1, 1, 1]
    monkeypatch.undo()
    assert sorted(train_together(cfgs)) == [(number, None) for number in range(4)]
    same(tmp_path, alone)
    assert list(train_together(cfgs)) == [(number, None) for number in range(4)]


def test_a_folder_that_another_process_writes_is_told(teacher, tmp_path):
    cfgs = configs(tmp_path, teacher, KD_LIKE[:2])
    folder = train(configs(tmp_path, teacher, KD_LIKE[:1])[0])
    with folder.lock():
        outcomes = dict(train_together(cfgs))
    assert isinstance(outcomes[0], BusyError) and outcomes[1] is None


def shares():
    """A network that shares its passes, and a list with an entry for each that it makes."""
    network = build_model("resnet8", 10).eval().requires_grad_(False)
    counted = []
    shared = OncePerBatch(network)
    forward = shared._forward
    shared._forward = lambda image: (counted.append(1), forward(image))[1]
    return network, counted


def test_a_batch_is_a_tensor_and_its_pass_is_made_once():
    network, counted = shares()
    image, other = torch.randn(2, 2, 3, 32, 32)
    first, again = network(image), network(image)
    assert len(counted) == 1 and first[0] is again[0]
    assert first[1]["feats"] is not again[1]["feats"]  # containers are everybody's own
    network(image.clone())
    network(other)
    network(image)
    assert len(counted) == 4


def test_what_somebody_changed_in_place_is_handed_to_nobody_else():
    network, counted = shares()
    image = torch.randn(2, 3, 32, 32)
    wanted = network(image)[1]["feats"][1].clone()
    network(image)[1]["feats"][1].mul_(2)
    assert torch.equal(network(image)[1]["feats"][1], wanted) and len(counted) == 2
    image.add_(1)
    assert not torch.equal(network(image)[1]["feats"][1], wanted) and len(counted) == 3


def test_precision_and_train_mode_are_not_mixed():
    network, counted = shares()
    image = torch.randn(2, 3, 32, 32)
    network(image)
    with torch.autocast("cpu", torch.bfloat16):
        assert network(image)[1]["feats"][1].dtype == torch.bfloat16
    assert len(counted) == 2
    norm = network.layer1[0].bn1.train()
    before = norm.num_batches_tracked.item()
    network(image)
    network(image)
    assert len(counted) == 4 and norm.num_batches_tracked == before + 2
