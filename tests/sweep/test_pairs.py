"""A sweep's pairs may be any two models; runs are named by what they hold."""

from pathlib import Path

import pytest
import yaml

from sdkd_plugin.config import configs_folder, load_config
from sdkd_plugin.errors import UserError
from sdkd_plugin.sweep.jobs import folder_of, read_sweep
from sdkd_plugin.sweep.pairs import pair_settings

CONFIGS = configs_folder() / "cifar100"
DIGITS = {"DATASET.TYPE": "digits", "DATASET.SUBSET": 0.1, "SOLVER.EPOCHS": 1}


def sweep(folder: Path, **changes):
    tree = {"methods": ["kd"], "pairs": ["res56_res20"], "seeds": [0], "overrides": DIGITS}
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({**tree, **changes}))
    return read_sweep(path)


def config(method: str, teacher: str, student: str):
    file, settings = pair_settings(CONFIGS / method, teacher, student)
    return load_config(file, [word for pair in settings.items() for word in pair])


@pytest.mark.parametrize("method", ["kd", "dkd", "crd", "reviewkd", "sdkd"])
def test_a_pair_that_ships_is_its_file(method):
    file, settings = pair_settings(CONFIGS / method, "resnet110", "resnet32")
    assert (file.name, settings) == ("res110_res32.yaml", {})


def test_another_pair_has_the_students_solver_and_the_methods_defaults():
    cfg = config("dkd", "wrn_40_2", "ShuffleV1")
    assert (cfg.DISTILLER.TEACHER, cfg.DISTILLER.STUDENT) == ("wrn_40_2", "ShuffleV1")
    assert cfg.SOLVER.LR == 0.01 and cfg.SOLVER.WEIGHT_DECAY == 5e-4
    assert cfg.DKD.BETA == 8.0, "chosen by pair, so the default"
    assert cfg.EXPERIMENT.TAG == "dkd,wrn_40_2,ShuffleV1"
    assert config("kd", "resnet14", "resnet8").SOLVER.LR == 0.05
    # what all the method's files say stays
    assert config("semckd", "resnet14", "resnet8").SEMCKD.FEAT_WEIGHT == 100.0


def test_another_pair_of_a_variant_has_what_most_of_its_files_say():
    cfg = config("kd_lskd", "resnet14", "resnet8")
    assert (cfg.KD.LOGIT_STANDARD, cfg.KD.TEMPERATURE, cfg.KD.LOSS.KD_WEIGHT) == (True, 2.0, 9.0)
    cfg = config("dkd_lskd", "resnet14", "resnet8")
    assert (cfg.DKD.ALPHA, cfg.DKD.BETA, cfg.DKD.T) == (15.0, 30.0, 2.0)


def test_pairs_in_a_sweep_may_be_any_two_models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pairs = ["resnet14/resnet8", "resnet56/MobileNetV2"]
    found = sweep(tmp_path, methods=["vanilla", "kd"], pairs=pairs)
    assert [job.label for job in found.teachers] == ["teacher resnet14", "teacher resnet56"]
    assert [job.label for job in found.students] == [
        "vanilla/resnet8 seed 0",
        "vanilla/MobileNetV2 seed 0",
        "kd/resnet14/resnet8 seed 0",
        "kd/resnet56/MobileNetV2 seed 0",
    ]
    alone, taught = found.students[1].config(), found.students[3].config()
    assert alone.SOLVER.LR == taught.SOLVER.LR == 0.01
    assert found.teachers[1].config().SOLVER.LR == 0.05


@pytest.mark.parametrize("key", ["SOLVER.LR", "SOLVER.BATCH_SIZE", "KD.TEMPERATURE"])
def test_a_sweeps_overrides_of_students_do_not_reach_the_teacher(key, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (usual,) = sweep(tmp_path).teachers
    (other,) = sweep(tmp_path, overrides={**DIGITS, key: 7}).teachers
    assert usual == other


def test_other_networks_by_override_train_the_teacher_that_they_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    networks = {"DISTILLER.TEACHER": "resnet14", "DISTILLER.STUDENT": "resnet8"}
    methods = ["vanilla", "kd", "crd", "ab", "ft", "fsp", "sdkd"]
    found = sweep(tmp_path, methods=methods, overrides={**DIGITS, **networks})
    (teacher,) = found.teachers
    assert teacher.config().DISTILLER.STUDENT == "resnet14", "one, and the right one, for all"
    assert folder_of(teacher).path.parent.name.startswith("vanilla_resnet14-")
    vanilla, *taught = found.students
    assert vanilla.label == "vanilla/resnet8 seed 0"
    assert folder_of(vanilla).path.parent.name.startswith("vanilla_resnet8-")
    assert {job.label for job in taught} == {f"{m}/resnet14/resnet8 seed 0" for m in methods[1:]}
    assert all(",resnet14,resnet8" in job.config().EXPERIMENT.TAG for job in taught)


def test_a_variant_with_other_data_has_a_teacher_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    variants = {"kd": {"all": {}, "half": {"DATASET.SUBSET": 0.05}, "hot": {"KD.TEMPERATURE": 9}}}
    found = sweep(tmp_path, variants=variants)
    assert [job.label for job in found.teachers] == ["teacher resnet56", "teacher resnet56 2"]
    checkpoints = [job.config().DISTILLER.TEACHER_CKPT for job in found.students]
    assert checkpoints[0] == checkpoints[2] != checkpoints[1]


def test_pairs_in_a_sweep_may_be_of_libraries(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "teacher.pth").touch()
    found = sweep(
        tmp_path,
        methods=["vanilla", "kd"],
        pairs=["torchvision:resnet18/timm:resnet10t"],
        teachers={"torchvision:resnet18": "teacher.pth"},
    )
    labels = [job.label for job in found.students]
    assert labels == [
        "vanilla/timm:resnet10t seed 0",
        "kd/torchvision:resnet18/timm:resnet10t seed 0",
    ]
    with pytest.raises(UserError, match="unknown model 'resnet1' in timm"):
        sweep(tmp_path, methods=["kd"], pairs=["resnet14/timm:resnet1"])
