"""`verify`: a run's first steps, done again, give the recorded bits, or what does not is said."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from cases import CASES
from support.faults import raising
from support.tiny import contents, method_overrides, tiny_config
from support.tiny import train_until_killed as train_until

from sdkd_plugin.__main__ import main
from sdkd_plugin.distillers.base import Distiller
from sdkd_plugin.engine import run
from sdkd_plugin.engine.threads import threads
from sdkd_plugin.engine.trainer import Trainer

# plain; negatives; a phase before; a split held out; a teacher that learns along
SHAPES = ("KD", "CRD", "FT", "DISTPRO", "DML")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    """A run that has ended its first epoch."""
    prefix = tmp_path_factory.mktemp("recorded")
    train_until(tiny_config(prefix), steps=4)
    (latest,) = prefix.rglob("latest")
    return latest.parent


@pytest.fixture
def folder(recorded, tmp_path) -> Path:
    """A copy."""
    return shutil.copytree(recorded, tmp_path / "run")


def test_a_run_matches_itself_and_nothing_is_written(folder, capsys):
    before = contents(folder)
    assert main(["verify", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "match: losses and weights of the first 3 steps, bit for bit" in out
    assert main(["verify", str(folder), "--steps", "2"]) == 0
    assert "first 2 steps" in capsys.readouterr().out
    assert contents(folder) == before


@pytest.mark.parametrize("name", SHAPES)
def test_methods_of_every_shape_match_themselves(name, teacher, tmp_path):
    (case,) = [case for case in CASES if case.name == name]
    cfg = tiny_config(tmp_path, method_overrides(case, teacher))
    train = Trainer.train_epoch

    def one_epoch(self, epoch, *arguments):
        return train(self, epoch, *arguments) if epoch == 1 else raising(KeyboardInterrupt())()

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "train_epoch", one_epoch)
        run.train(cfg)
    (latest,) = tmp_path.rglob("latest")
    assert main(["verify", str(latest.parent)]) == 0


def test_the_recorded_thread_count_is_used(folder):
    environment = json.loads((folder / "environment.json").read_text())
    with threads(environment["threads"] + 1):
        assert main(["verify", str(folder)]) == 0


def test_another_loss_is_told_with_its_step(folder, capsys, monkeypatch):
    forward = Distiller.forward

    def shifted(self, *arguments, **inputs):
        logits, losses = forward(self, *arguments, **inputs)
        return logits, {name: loss * (1 + 2**-23) for name, loss in losses.items()}

    monkeypatch.setattr(Distiller, "forward", shifted)
    assert main(["verify", str(folder)]) == 1
    lines = capsys.readouterr().out.splitlines()
    (told,) = [line for line in lines if line.startswith("no match: ")]
    assert told.startswith("no match: step 1 has the loss ") and ", recorded is " in told
    assert "environment, recorded -> here: nothing that is recorded" in lines


def test_one_bit_of_one_weight_is_told(folder, capsys, monkeypatch):
    step = Trainer.step

    def nudged(self, running, batch):
        done = step(self, running, batch)
        if running.steps == 2:
            bias = self.method.student.fc.bias.data
            bias[0] = torch.nextafter(bias[0], torch.tensor(1e9))
        return done

    monkeypatch.setattr(Trainer, "step", nudged)
    assert main(["verify", str(folder)]) == 1
    assert "no match: step 2 has the recorded loss" in capsys.readouterr().out
    assert main(["verify", str(folder), "--steps", "1"]) == 0


def test_where_no_match_has_another_environment_it_is_said(folder, capsys):
    record = folder / "first_steps.json"
    steps = json.loads(record.read_text())["steps"]
    record.write_text(json.dumps({"steps": [{**steps[0], "student": "0" * 64}]}))
    environment = json.loads((folder / "environment.json").read_text())
    environment["versions"]["torch"] = "1.9.0"
    (folder / "environment.json").write_text(json.dumps(environment))
    assert main(["verify", str(folder)]) == 1
    assert f"versions.torch: '1.9.0' -> '{torch.__version__}'" in capsys.readouterr().out


def spoil(name: str, text: str | None):
    def change(folder: Path) -> None:
        (folder / name).unlink() if text is None else (folder / name).write_text(text)

    return change


IMPOSSIBLE = [
    (spoil("identity.json", None), [], "is no run folder: it has no identity.json"),
    (spoil("first_steps.json", None), [], "has no first_steps.json: it was begun by a version"),
    (spoil("first_steps.json", "[]"), [], "holds list, not an object"),
    (spoil("first_steps.json", '{"steps": []}'), [], "is torn: it holds no list of steps"),
    (spoil("first_steps.json", '{"steps": [{"loss": 1}]}'), [], "is torn: it holds no list"),
    (spoil("first_steps.json", "{"), [], "is no valid json"),
    (spoil("config.yaml", None), [], "config.yaml' cannot be read"),
    (spoil("config.yaml", "{"), [], "is no valid yaml"),
    (spoil("environment.json", '{"threads": -1}'), [], "it must be a whole number from 1"),
    (None, ["--steps", "4"], "--steps is 4; allowed: 1 to 3, which are recorded"),
    (None, ["--steps", "0"], "--steps is 0; allowed: 1 to 3"),
    (None, ["DATASET.SUBSET", "0.2"], "is another run than it was: DATASET.SUBSET: 0.1 -> 0.2"),
    (None, ["SOLVER.SEED", "1"], "is another run than it was: SOLVER.SEED: 0 -> 1"),
]


@pytest.mark.parametrize(("change", "words", "message"), IMPOSSIBLE)
def test_what_cannot_be_verified_is_one_line_and_exit_code_2(
    change, words, message, folder, capsys
):
    if change:
        change(folder)
    assert main(["verify", str(folder), *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_run_in_its_first_epoch_has_nothing_to_verify(tmp_path, capsys):
    train_until(tiny_config(tmp_path), steps=2)
    (identity,) = tmp_path.rglob("identity.json")
    assert main(["verify", str(identity.parent)]) == 2
    assert "or has not ended its first epoch" in capsys.readouterr().err


def test_the_record_survives_a_resume(recorded, tmp_path):
    """A run that goes on has other steps, and must not write them as its first."""
    prefix = shutil.copytree(recorded.parents[2], tmp_path / "runs")
    (latest,) = prefix.rglob("latest")
    before = (latest.parent / "first_steps.json").read_bytes()
    run.train(tiny_config(prefix), resume=True)
    assert (latest.parent / "first_steps.json").read_bytes() == before


def test_the_first_steps_cost_no_bits(tmp_path, recorded):
    """They are only looked at: the same run without the record has the same weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sdkd_plugin.engine.trainer.FIRST", 0)
        train_until(tiny_config(tmp_path), steps=4)
    (other,) = tmp_path.rglob("latest")
    ours, theirs = (
        torch.load(path, weights_only=True)["model"] for path in (recorded / "latest", other)
    )
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
