"""configs/imagenet: mdistiller's protocol for the two published pairs, and they train."""

import os
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from support.folders import noise

from sdkd_plugin.__main__ import main
from sdkd_plugin.config import load_config
from sdkd_plugin.models import build_model
from sdkd_plugin.settings import flatten

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "imagenet"
FILES = sorted(FOLDER.glob("*/*.yaml"))
every_file = pytest.mark.parametrize("file", FILES, ids=lambda f: f"{f.parent.name}/{f.stem}")
THEIRS = {"resnet34_resnet18": "r34_r18", "resnet50_mobilenet_v1": "r50_mv1"}
NETWORKS = {
    "resnet34_resnet18": ("torchvision:resnet34", "torchvision:resnet18"),
    "resnet50_mobilenet_v1": ("torchvision:resnet50", "timm:mobilenetv1_100"),
}
# what their files say and ours cannot: other names, and keys that have no effect here
OTHER = (
    *("EXPERIMENT.", "DATASET.", "DISTILLER.TEACHER", "DISTILLER.STUDENT", "SOLVER.TRAINER"),
    *("LOG.TENSORBOARD_FREQ", "CRD.FEAT.STUDENT_DIM", "CRD.FEAT.TEACHER_DIM"),
    *("REVIEWKD.SHAPES", "REVIEWKD.OUT_SHAPES", "REVIEWKD.IN_CHANNELS", "REVIEWKD.OUT_CHANNELS"),
)


def test_there_are_files_for_both_pairs_of_each_method() -> None:
    methods = {"at", "crd", "dkd", "kd", "reviewkd", "sdkd"}
    names = {(file.parent.name, file.stem) for file in FILES}
    assert names == {(method, pair) for method in methods for pair in NETWORKS}


@every_file
def test_a_file_says_what_it_is(file: Path) -> None:
    cfg = load_config(file)
    assert file.parent.name.upper() == cfg.DISTILLER.TYPE
    assert (cfg.DISTILLER.TEACHER, cfg.DISTILLER.STUDENT) == NETWORKS[file.stem]
    assert cfg.EXPERIMENT.TAG.startswith(f"{file.parent.name},res")
    assert (cfg.DATASET.TYPE, cfg.DATASET.TRANSFORM) == ("imagefolder", "imagenet")
    assert (cfg.SOLVER.EPOCHS, cfg.SOLVER.LR_DECAY_STAGES) == (100, [30, 60, 90])
    # the rate goes with the batch
    assert cfg.SOLVER.LR / cfg.SOLVER.BATCH_SIZE == pytest.approx(0.1 / 256)


@every_file
def test_its_settings_are_mdistillers(file: Path) -> None:
    root = os.environ.get("MDISTILLER_ROOT")
    if not root:
        pytest.skip("needs a checkout of mdistiller in MDISTILLER_ROOT")
    theirs = Path(root, "configs", "imagenet", THEIRS[file.stem], file.name)
    theirs = theirs.with_name(f"{file.parent.name}.yaml")
    if file.parent.name == "sdkd":
        assert not theirs.exists()  # it is ours alone
        return
    ours = dict(flatten(load_config(file)))
    stated = dict(flatten(yaml.safe_load(theirs.read_text())))
    compared = {key: value for key, value in stated.items() if not key.startswith(OTHER)}
    assert len(compared) >= 10
    assert {key: ours[key] for key in compared} == compared


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ of 12 and val/ of 3 JPEGs of 3 classes, of several sizes."""
    root = tmp_path_factory.mktemp("imagenet")
    for split, count in (("train", 12), ("val", 3)):
        for number in range(count):
            file = root / split / "abc"[number % 3] / f"{number}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise(number, 70 + 5 * number, 90)).save(file)
    return root


@pytest.mark.slow
@every_file
def test_it_trains_on_a_folder_at_64_pixels(
    file: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    teacher = build_model(NETWORKS[file.stem][0], 3)
    torch.save({"model": teacher.state_dict()}, "teacher.pth")
    words = [
        *("DATASET.ROOT", str(images), "DATASET.IMAGE_SIZE", "64", "DATASET.NUM_WORKERS", "1"),
        *("DISTILLER.TEACHER_CKPT", "teacher.pth", "SOLVER.BATCH_SIZE", "4", "SOLVER.LR", "0.001"),
        *("SOLVER.EPOCHS", "1", "SOLVER.SCHEDULE_EPOCHS", "100"),
    ]
    assert main(["train", "--cfg", str(file), *words]) == 0
    assert len(list(Path("output").rglob("result.json"))) == 1
