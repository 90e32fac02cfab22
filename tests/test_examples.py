"""examples/outside: what no file of the package knows, as its README says."""

import importlib
import inspect
import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cases import Case
from support.installed import call, install, make_environment
from support.loop import Loop, build, config
from torch import Tensor

from sdkd_plugin import plugins
from sdkd_plugin.__main__ import main
from sdkd_plugin.config import active_config, load_config
from sdkd_plugin.models import build_model
from sdkd_plugin.models.families import find_family, stage_channels
from sdkd_plugin.registry import METHODS

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = ROOT / "examples" / "outside"
CASE = Case("LOGITMSE")


@pytest.fixture
def outside(open_doors) -> None:
    """A process with the method and the model."""
    plugins.import_plugins([str(OUTSIDE / "logit_mse.py"), str(OUTSIDE / "plainnet.py")])


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: what of a clone the README's commands read."""
    for name in ("examples", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def documented(command: str, number: int = 0) -> list[str]:
    """The arguments of the README's first `python -m sdkd_plugin <command>`, or of a later one."""
    text = (OUTSIDE / "README.md").read_text().replace("\\\n", " ")
    lines = re.findall(rf"^    python -m sdkd_plugin ({command} .*)", text, re.MULTILINE)
    return shlex.split(lines[number])


def result(folder: Path, student: str) -> dict:
    results = [json.loads(path.read_text()) for path in folder.rglob("result.json")]
    (found,) = [one for one in results if one["student"] == student]
    return found


def test_the_documented_run_trains(clone, open_doors):
    assert main(documented("train")) == 0
    run = result(clone, "plain8")
    assert (run["method"], run["teacher"], run["epochs"]) == ("LOGITMSE", "resnet56", 1)
    described = run["environment"]["plugins"]
    assert [plugin["module"] for plugin in described] == ["logit_mse", "plainnet"]
    assert run["config"]["LOGITMSE"] == {"CE_WEIGHT": 0.1, "MSE_WEIGHT": 0.9}


def test_the_documented_data_set_is_looked_at_and_learnt(clone, open_doors, capsys):
    assert main(documented("data")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "data set stripes: 4 classes"
    assert "train: images per class: min 100 (flat), median 100, max 100 (flat)" in lines
    assert "duplicates between train and test: none" in lines and Path("stripes.png").is_file()

    assert main(documented("train", 2)) == 0
    run = result(clone, "plain8")
    assert (run["method"], run["train_images"], run["config"]["DATASET"]["TYPE"]) == (
        "NONE",
        400,
        "stripes",
    )


def test_the_documented_sweep_has_all_three_methods(clone, open_doors, capsys):
    command = documented("sweep")
    assert main(command) == 0
    (teacher,) = capsys.readouterr().out.splitlines()
    assert "--import examples/outside/logit_mse.py --cfg " in teacher and "resnet56" in teacher

    # any file stands for the teacher, since nothing is trained here
    text = Path("examples/outside/sweep.yaml").read_text()
    Path("sweep.yaml").write_text(f"{text}teachers: {{resnet56: examples/outside/README.md}}\n")
    place = command.index("examples/outside/sweep.yaml")
    assert main([*command[:place], "sweep.yaml", *command[place + 1 :]]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9
    assert all("--import examples/outside/logit_mse.py" in line for line in lines)
    assert sum("--cfg examples/outside/configs/res56_res20.yaml" in line for line in lines) == 3


@pytest.mark.parametrize("student", ["resnet20", "plain8"])
def test_its_configs_are_kds_but_for_the_method(outside, student):
    file = OUTSIDE / "configs" / f"res56_{student.replace('resnet', 'res')}.yaml"
    kd = active_config(load_config(ROOT / "configs" / "cifar100" / "kd" / "res56_res20.yaml"))
    own = active_config(load_config(file))
    assert own.pop("LOGITMSE") == METHODS["LOGITMSE"].info["config"] and kd.pop("KD")
    assert own["DISTILLER"] == {**kd.pop("DISTILLER"), "TYPE": "LOGITMSE", "STUDENT": student}
    del own["DISTILLER"], own["EXPERIMENT"], kd["EXPERIMENT"]
    assert own == kd


def test_the_loss_by_hand(outside):
    loss = inspect.getmodule(METHODS["LOGITMSE"].build).logit_mse_loss
    student = torch.tensor([[1.0, 2.0], [0.0, -1.0]], requires_grad=True)
    value = loss(student, torch.tensor([[0.0, 2.0], [2.0, 1.0]]))
    # (1 + 0 + 4 + 4) / 4
    assert value.item() == 2.25
    value.backward()
    # 2 (z_S - z_T) / 4
    assert student.grad.tolist() == [[0.5, 0.0], [-1.0, -1.0]]


def test_its_weights_weigh(outside):
    weights = {"LOGITMSE.CE_WEIGHT": 2.0, "LOGITMSE.MSE_WEIGHT": 3.0}
    image, target = torch.randn(4, 3, 8, 8), torch.arange(4)
    one, other = (
        build(Case("LOGITMSE", overrides)).train()(image, target)[1]
        for overrides in ({"LOGITMSE.CE_WEIGHT": 1.0, "LOGITMSE.MSE_WEIGHT": 1.0}, weights)
    )
    torch.testing.assert_close(other["loss_ce"], 2 * one["loss_ce"])
    torch.testing.assert_close(other["loss_kd"], 3 * one["loss_kd"])


def shared_tests() -> list[Callable[[Case], None]]:
    """Every test of tests/distillers/test_contract.py that takes a method's row."""
    contract = importlib.import_module("distillers.test_contract")
    return [
        test
        for name, test in vars(contract).items()
        if name.startswith("test_") and list(inspect.signature(test).parameters) == ["case"]
    ]


def test_there_are_shared_tests():
    assert len(shared_tests()) >= 9


@pytest.mark.parametrize("shared_test", shared_tests(), ids=lambda test: test.__name__)
def test_the_method_holds_what_every_method_must(shared_test, outside):
    shared_test(CASE)


def test_the_model_returns_what_every_model_must(outside):
    model, image = build_model("plain8", 10).eval(), torch.randn(2, 3, 16, 16)
    logits, feats = model(image)
    shapes = [tuple(feat.shape[1:]) for feat in feats["feats"]]
    assert shapes == [(16, 16, 16), (16, 16, 16), (32, 8, 8), (64, 4, 4)]
    assert model.get_stage_channels() == stage_channels(model, find_family(model))
    for feat, preact in zip(feats["feats"][1:], feats["preact_feats"][1:], strict=True):
        assert torch.equal(feat, preact.relu()) and (preact < 0).any()
    torch.testing.assert_close(feats["pooled_feat"], feats["feats"][-1].mean((2, 3)))
    torch.testing.assert_close(logits, model.fc(feats["pooled_feat"]))
    seen: list[Tensor] = []
    for norm in model.get_bn_before_relu():
        norm.register_forward_hook(lambda module, inputs, output: seen.append(output))
    model(image)
    assert all(map(torch.equal, seen, feats["preact_feats"][1:])) and len(seen) == 3


@pytest.mark.parametrize("stages", ["[]", "[2]"])
def test_sdkd_fuses_the_models_own_stages(outside, stages):
    case = Case("SDKD", {"SDKD.STAGES": stages, "SDKD.FUSION": "gate"})  # all learn at once
    distiller = build(case, pair="resnet14/plain8")
    loop = Loop(distiller, distiller.phases(config(case)))
    loop.enter(loop.phases[0])
    before = {name: p.clone() for name, p in distiller.named_parameters() if p.requires_grad}
    loop.step(0)
    assert any(name.startswith("proxy.model.body2.fusion") for name in before)
    still = [
        name for name, p in distiller.named_parameters() if torch.equal(p, before.get(name, p))
    ]
    assert all(name.startswith("teacher.") for name in still)


@pytest.mark.slow
def test_a_distribution_of_its_own_needs_no_import(wheel, tmp_path):
    programs = make_environment(tmp_path / "env", wheel)
    ignored = shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
    source = shutil.copytree(OUTSIDE, tmp_path / "source", ignore=ignored)
    command = [word for word in documented("train") if not word.startswith("--import")]
    command = [word for word in command if not word.endswith(".py")]
    command[command.index("--cfg") + 1] = str(source / "configs" / "res56_plain8.yaml")
    place = tmp_path / "elsewhere"
    place.mkdir()

    # a fresh environment may bring one that is too old to build; the lent one is not
    call(programs / "python", "-m", "pip", "uninstall", "-q", "-y", "setuptools", cwd=place)
    install(programs / "python", source, "--no-build-isolation")
    call(programs / "sdkd", *command, cwd=place)
    run = result(place, "plain8")
    assert run["method"] == "LOGITMSE"
    described = [
        (p["module"], p["distribution"], p["version"]) for p in run["environment"]["plugins"]
    ]
    names = ("logit_mse", "plainnet", "stripes")
    assert described == [(name, "outside", "1.0") for name in names]
