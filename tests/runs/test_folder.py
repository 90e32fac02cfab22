"""The run folder: one run, one folder."""

import subprocess
import sys

import pytest
import torch
from support.runs import METRICS, make_result
from support.tiny import tiny_config

from sdkd_plugin.data.dataset import Dataset, Images
from sdkd_plugin.errors import UserError
from sdkd_plugin.files import read_json
from sdkd_plugin.runs.folder import RunFolder
from sdkd_plugin.runs.identity import difference, run_identity


def folder_of(
    prefix, overrides: dict | None = None, data: str = "data", teacher: str | None = "teacher"
) -> RunFolder:
    cfg = tiny_config(prefix, {"DISTILLER.TYPE": "KD", **(overrides or {})})
    return RunFolder(cfg, run_identity(cfg, {"data": data}, teacher))


DECIDING = [
    {"DISTILLER.TYPE": "DKD"},
    {"DISTILLER.STUDENT": "resnet14"},
    {"DISTILLER.TEACHER": "resnet20"},
    {"KD.TEMPERATURE": 2},
    {"KD.LOSS.CE_WEIGHT": 0.2},
    {"KD.LOGIT_STANDARD": True},
    {"SOLVER.LR": 0.1},
    {"SOLVER.EPOCHS": 4},
    {"SOLVER.SCHEDULE_EPOCHS": 240},
    {"SOLVER.LR_DECAY_STAGES": [1]},
    {"SOLVER.SEED": 1},
    {"SOLVER.BATCH_SIZE": 32},
    {"SOLVER.PRECISION": "bf16"},
    {"SOLVER.CHANNELS_LAST": False},
    {"DATASET.SUBSET": 0.2},
    {"DATASET.AUGMENT": "none"},
    {"DATASET.VAL_FRACTION": 0.1},
]
IRRELEVANT = [
    {"LOG.TENSORBOARD_FREQ": 7},
    {"LOG.SAVE_CHECKPOINT_FREQ": 2},
    {"LOG.WANDB": True},
    {"LOG.TRACKERS": []},
    {"DATASET.ROOT": "elsewhere"},
    {"DATASET.DOWNLOAD": False},
    {"DATASET.NUM_WORKERS": 0},
    {"DATASET.TEST.BATCH_SIZE": 10},
    {"DISTILLER.TEACHER_CKPT": "elsewhere"},
    {"SOLVER.DEVICE": "cpu"},
    {"DKD.BETA": 3},
    {"DKD.LOGIT_STANDARD": True},
]


def show(overrides: dict) -> str:
    return " ".join(f"{key}={value}" for key, value in overrides.items())


def test_a_file_counts_by_its_content_not_its_place(tmp_path):
    def identity(path):
        return folder_of(
            tmp_path,
            {"DISTILLER.TYPE": "SDKD", "SDKD.SYNC": "checkpoint", "SDKD.SYNC_CKPT": str(path)},
        ).identity

    for name, content in (("a", "weights"), ("b", "weights"), ("c", "others")):
        (tmp_path / name).write_text(content)
    assert identity(tmp_path / "a") == identity(tmp_path / "b") != identity(tmp_path / "c")
    with pytest.raises(
        UserError, match="SDKD.SYNC_CKPT is '.*none', which cannot be read: No such file"
    ):
        identity(tmp_path / "none")


def test_different_configs_never_meet_in_one_folder(tmp_path):
    paths = [folder_of(tmp_path, overrides).path for overrides in [{}, *DECIDING]]
    paths += [folder_of(tmp_path, data="other").path, folder_of(tmp_path, teacher="other").path]
    assert len(set(paths)) == len(DECIDING) + 3


@pytest.mark.parametrize("method", ["KD", "SDKD", "FITNET"])
def test_a_key_that_came_later_counts_only_where_it_says_something_else(method, tmp_path):
    key = f"{method}.LOGIT_STANDARD"
    before = folder_of(tmp_path, {"DISTILLER.TYPE": method})
    assert key not in before.identity, "runs of before have no such key"
    assert folder_of(tmp_path, {"DISTILLER.TYPE": method, key: False}).path == before.path
    after = folder_of(tmp_path, {"DISTILLER.TYPE": method, key: True})
    assert after.identity == {**before.identity, key: True} and after.path != before.path


@pytest.mark.parametrize("overrides", IRRELEVANT, ids=show)
def test_what_does_not_decide_the_result_does_not_decide_the_folder(overrides, tmp_path):
    assert folder_of(tmp_path, overrides).path == folder_of(tmp_path).path


def test_the_prefix_moves_the_folder_and_does_not_rename_it(tmp_path):
    one, two = folder_of(tmp_path / "a").path, folder_of(tmp_path / "b").path
    assert one.relative_to(tmp_path / "a") == two.relative_to(tmp_path / "b")


def test_seeds_of_one_config_lie_beside_each_other(tmp_path):
    first, second = folder_of(tmp_path).path, folder_of(tmp_path, {"SOLVER.SEED": 12}).path
    assert first.parent == second.parent and (first.name, second.name) == ("seed0", "seed12")


def test_a_name_is_used_as_it_is_and_a_tag_is_in_front_of_the_hash(tmp_path):
    named = folder_of(tmp_path, {"EXPERIMENT.NAME": "mine", "EXPERIMENT.PROJECT": "p"}).path
    assert named == tmp_path / "p" / "mine" / "seed0"
    tagged = folder_of(tmp_path, {"EXPERIMENT.TAG": "kd,res14,res8"}).path.parent.name
    assert tagged.rsplit("-", 1)[0] == "kd_res14_res8" and len(tagged.rsplit("-", 1)[1]) == 8


def test_a_method_without_a_teacher_is_the_same_run_whatever_the_yaml_names(tmp_path):
    vanilla = {"DISTILLER.TYPE": "NONE"}
    one = folder_of(tmp_path, vanilla, teacher=None)
    assert (
        folder_of(tmp_path, {**vanilla, "DISTILLER.TEACHER": "vgg13"}, teacher=None).path
        == one.path
    )
    assert (
        "DISTILLER.TEACHER" not in one.identity and one.identity["DISTILLER.STUDENT"] == "resnet8"
    )


def digits(images: torch.Tensor, targets: torch.Tensor) -> Dataset:
    return Dataset("x", ["0", "1"], Images(images, targets), Images(images[:2], targets[:2]))


def test_the_data_hash_sees_every_pixel_and_label_and_no_memory_layout():
    images = torch.arange(4 * 5 * 5 * 3).to(torch.uint8).view(4, 5, 5, 3)
    targets = torch.tensor([0, 1, 0, 1])
    plain = digits(images, targets).fingerprint
    pixel, label = images.clone(), targets.clone()
    pixel[3, 4, 4, 2] += 1
    label[3] = 0
    order = torch.tensor([1, 0, 2, 3])
    others = [
        digits(pixel, targets),
        digits(images, label),
        digits(images[order], targets[order]),
        digits(images[:3], targets[:3]),
    ]
    others.append(digits(images.view(4, 25, 1, 3), targets))
    assert len({plain, *(other.fingerprint for other in others)}) == 6
    strided = images.transpose(1, 2).contiguous().transpose(1, 2)
    assert not strided.is_contiguous() and digits(strided, targets).fingerprint == plain


def test_the_difference_names_every_key_that_differs_and_no_other():
    ours, theirs = {"A": 1, "B": 2.0, "C": [1]}, {"A": 1, "B": 3.0, "D": "x"}
    assert difference(ours, theirs) == "B: 2.0 -> 3.0; C: [1] -> None; D: None -> 'x'"
    assert difference(ours, dict(ours)) == ""


def begun(folder: RunFolder, prefix) -> RunFolder:
    with folder.lock():
        folder.begin(tiny_config(prefix), {"command": []}, "")
    return folder


def test_another_config_in_the_same_folder_is_refused_and_shown(tmp_path):
    name = {"EXPERIMENT.NAME": "mine"}
    begun(folder_of(tmp_path, name), tmp_path)
    other = folder_of(tmp_path, {**name, "SOLVER.LR": 0.1, "KD.TEMPERATURE": 2})
    with pytest.raises(
        UserError,
        match=r"another config \(KD\.TEMPERATURE: 2\.0 -> 4\.0; SOLVER\.LR: 0\.1 -> 0\.05\)",
    ):
        other.check(resume=True)
    with pytest.raises(UserError, match="teacher: 'other' -> 'teacher'"):
        folder_of(tmp_path, name, teacher="other").check(resume=True)


def test_an_unfinished_run_asks_for_resume(tmp_path):
    folder = begun(folder_of(tmp_path), tmp_path)
    with pytest.raises(UserError, match=f"{folder.path} holds this run, unfinished; add --resume"):
        folder.check(resume=False)
    folder.check(resume=True)
    row = {"epoch": 1, "test_seconds": 1.0, "train_seconds": 1.0}
    row |= {f"test_{metric}": 50.0 for metric in METRICS}
    make_result(tiny_config(tmp_path), [row], folder.identity, {}).write(folder.path)
    folder.check(resume=False)


def test_a_folder_with_anything_else_is_refused(tmp_path):
    folder = folder_of(tmp_path)
    folder.check(resume=False)
    folder.path.mkdir(parents=True)
    folder.check(resume=False)
    (folder.path / "thesis.tex").write_text("important")
    with pytest.raises(UserError, match="holds files of something else"):
        folder.check(resume=True)
    assert (folder.path / "thesis.tex").read_text() == "important"


def test_two_processes_cannot_write_to_one_folder(tmp_path):
    folder = folder_of(tmp_path)
    folder.path.mkdir(parents=True)
    code = (
        "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); "
        "print('locked'); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(
        [sys.executable, "-u", "-c", code, str(folder.path / ".lock")], **pipes
    ) as other:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match="is being written by another process"):
            folder.lock()
        other.kill()
    with (
        folder.lock(),
        pytest.raises(UserError, match="another process"),
    ):  # the dead one's lock is gone
        folder_of(tmp_path).lock()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(
        UserError,
        match=r"run folder .*file/distill.* cannot be written: Not a directory; change LOG\.PREFIX",
    ):
        folder_of(tmp_path / "file").lock()


def test_metrics_hold_every_column_of_every_epoch(tmp_path):
    folder = begun(folder_of(tmp_path), tmp_path)
    folder.write_metrics([{"epoch": 1, "loss": 0.1}, {"epoch": 2, "loss": 1 / 3, "top1": 5.0}])
    assert (
        folder.path / "metrics.csv"
    ).read_text() == f"epoch,loss,top1\n1,0.1,\n2,{1 / 3!r},5.0\n"


def test_a_torn_json_file_is_refused_and_a_missing_one_is_none(tmp_path):
    assert read_json(tmp_path / "nix.json") is None
    (tmp_path / "torn.json").write_text('{"a": ')
    with pytest.raises(UserError, match="torn.json is no valid json"):
        read_json(tmp_path / "torn.json")


def test_a_torn_record_is_told_once_with_what_to_do(tmp_path):
    folder = folder_of(tmp_path)
    folder.path.mkdir(parents=True)
    for text, fault in (("{", "is no valid json"), ("{}", "lacks ")):
        (folder.path / "result.json").write_text(text)
        with pytest.raises(UserError, match=fault) as error:
            folder.result  # noqa: B018, the property reads the file
        assert str(error.value).count("remove the run folder or restore the file") == 1
