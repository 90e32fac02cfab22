"""tools/make_configs.py: the committed configs are what configs/protocol.yaml says; a method or a
pair more is one line there.
"""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from sdkd_plugin.config import default_config, load_config
from sdkd_plugin.distillers.reviewkd import levels
from sdkd_plugin.models import build_model
from sdkd_plugin.models.probe import probe
from sdkd_plugin.registry import MODELS

ROOT = Path(__file__).resolve().parents[1]
PROTOCOL, FOLDER = ROOT / "configs" / "protocol.yaml", ROOT / "configs" / "cifar100"


def load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_configs", ROOT / "tools/make_configs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = load_tool()


def tree(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*.yaml")}


def edited(tmp_path: Path, old: str, new: str) -> Path:
    """A copy of the protocol with one place changed."""
    text = PROTOCOL.read_text()
    assert text.count(old) == 1, old
    copy = tmp_path / "protocol.yaml"
    copy.write_text(text.replace(old, new))
    return copy


@pytest.fixture
def made(tmp_path: Path, capsys: pytest.CaptureFixture) -> Path:
    """A folder of generated configs."""
    folder = tmp_path / "cifar100"
    assert tool.main(["--folder", str(folder)]) == 0
    capsys.readouterr()
    return folder


def test_the_committed_configs_are_what_the_protocol_generates(made):
    assert tree(FOLDER) == tree(made)
    assert tool.main(["--check"]) == 0


def test_a_method_more_is_one_line_and_gives_it_a_file_for_each_pair(made, tmp_path):
    protocol = edited(tmp_path, "\n  kd: {}\n", "\n  kd: {}\n  mine: {MINE: {WEIGHT: 0.00001}}\n")
    before = tree(made)
    assert tool.main(["--protocol", str(protocol), "--folder", str(made)]) == 0
    after = tree(made)

    pairs = {path.split("/")[1] for path in before if path.startswith("kd/")}
    assert {*after} - {*before} == {f"mine/{pair}" for pair in pairs} and len(pairs) == 13
    assert {path: after[path] for path in before} == before
    said, kd = (yaml.safe_load(after[f"{m}/res110_res32.yaml"]) for m in ("mine", "kd"))
    assert said.pop("MINE") == {"WEIGHT": 1e-5}
    kd["EXPERIMENT"]["TAG"] = "mine,res110,res32"
    kd["DISTILLER"]["TYPE"] = "MINE"
    assert said == kd


def test_a_pair_more_is_one_line_and_gives_every_method_a_file(made, tmp_path):
    line = "  res32x4_shuv2_again: [resnet32x4, ShuffleV2]\n"
    protocol = edited(tmp_path, "\npairs:\n", "\npairs:\n" + line)
    before = tree(made)
    assert tool.main(["--protocol", str(protocol), "--folder", str(made)]) == 0
    methods = {path.split("/")[0] for path in before} - {"vanilla"}
    assert len(methods) > 20
    methods -= {"fsp", "kdsvd"}  # these need equal channels, or sizes
    assert {*tree(made)} - {*before} == {f"{method}/res32x4_shuv2_again.yaml" for method in methods}

    for method in methods:
        cfg = load_config(made / method / "res32x4_shuv2_again.yaml")
        assert (cfg.DISTILLER.TEACHER, cfg.DISTILLER.STUDENT) == ("resnet32x4", "ShuffleV2")
        assert cfg.EXPERIMENT.TAG == f"{method},res32x4,ShuffleV2"
        assert cfg.SOLVER.LR == 0.01
    crd, dkd, reviewkd = (
        load_config(made / method / "res32x4_shuv2_again.yaml")
        for method in ("crd", "dkd", "reviewkd")
    )
    assert (crd.CRD.FEAT.STUDENT_DIM, crd.CRD.FEAT.TEACHER_DIM) == (1024, 256)
    assert dkd.DKD.BETA == 8.0  # mdistiller's file for this pair keeps its default
    assert reviewkd.REVIEWKD.REVIEWKD_WEIGHT == 8.0
    assert reviewkd.REVIEWKD.IN_CHANNELS == [116, 232, 464, 1024]
    assert reviewkd.REVIEWKD.OUT_CHANNELS == [64, 128, 256, 256]
    assert reviewkd.REVIEWKD.SHAPES == [1, 4, 8, 16]
    assert reviewkd.REVIEWKD.OUT_SHAPES == [1, 8, 16, 32]


def test_yacs_reads_the_files_as_we_do():
    files = [*FOLDER.glob("*/wrn40_2_wrn16_2.yaml"), *FOLDER.glob("vanilla/*.yaml")]
    assert len(files) > 40
    for file in files:
        cfg = default_config()
        cfg.KD.TEMPERATURE = 4  # mdistiller's default is whole, and yacs wants its type
        cfg.merge_from_file(str(file))  # what mdistiller calls
        assert cfg == load_config(file), file


def test_a_node_without_keys_is_left_out_because_mdistiller_lacks_the_key(made):
    said = {
        pair: yaml.safe_load((made / f"kdsvd/{pair}.yaml").read_text())
        for pair in ("wrn40_2_wrn16_2", "wrn40_2_wrn40_1")
    }
    assert "KDSVD" not in said["wrn40_2_wrn16_2"]
    assert said["wrn40_2_wrn40_1"]["KDSVD"] == {"FORM": "width"}


@pytest.mark.parametrize("name", [entry.name for entry in MODELS])
def test_the_facts_of_a_model_are_those_of_its_network(name):
    facts = tool.read_protocol(PROTOCOL).models[name]
    maps = levels(probe(build_model(name, 100))[1], preact=False)
    assert facts["channels"] == [x.shape[1] for x in maps]
    assert facts["sizes"] == [x.shape[2] for x in reversed(maps)]
    assert facts["dim"] == maps[-1].shape[1]


def test_check_names_each_file_that_differs_and_writes_nothing(made, capsys):
    (made / "kd/res56_res20.yaml").write_text("SOLVER: {}\n")
    (made / "at/res56_res20.yaml").unlink()
    (made / "old").mkdir()
    (made / "old/res56_res20.yaml").write_text(tool.HEADER)
    before = tree(made)
    assert tool.main(["--folder", str(made), "--check"]) == 1

    assert capsys.readouterr().out.splitlines() == [
        f"{made}/old/res56_res20.yaml: nothing generates it",
        f"{made}/kd/res56_res20.yaml: differs from what is generated",
        f"{made}/at/res56_res20.yaml: missing",
    ]
    assert tree(made) == before


def test_a_generated_file_that_is_no_more_goes_with_its_folder_and_a_hand_written_one_stays(
    made, capsys
):
    wanted = tree(made)
    (made / "old").mkdir()
    (made / "old/res56_res20.yaml").write_text(tool.HEADER)
    assert tool.main(["--folder", str(made)]) == 0
    assert capsys.readouterr().out == f"{made}/old/res56_res20.yaml: removed\n"
    assert tree(made) == wanted and not (made / "old").exists()

    (made / "kd/mine.yaml").write_text("DISTILLER: {TYPE: KD}\n")
    assert tool.main(["--folder", str(made)]) == 1
    assert capsys.readouterr().out.startswith(f"{made}/kd/mine.yaml: nothing generates it")
    assert (made / "kd/mine.yaml").read_text() == "DISTILLER: {TYPE: KD}\n"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[resnet56, resnet20]", "[resnet56, resnet21]", "unknown model 'resnet21' in pair res56"),
        (
            "[resnet56, resnet20]",
            "[resnet56]",
            "pair res56_res20 in .* is .*allowed: .teacher, stu",
        ),
        ("\nmodels:", "\nnets: {}\nmodels:", "unknown key 'nets' in .*protocol.yaml"),
        ("\nprotocol:", "\nprotocol: [", "is no valid yaml"),
        ("\n  kd: {}", "\n  kd:", "method kd in .* is None; allowed: a tree"),
        ("\n  kd: {}", "\n  on: {}", "methods in .* is .*allowed: a tree of keys that are text"),
        ("\n  kd: {}", "\n  kd: {T: 4.0}", "unknown key 'T' in method kd"),
        (
            "by sizes: {equal: False, unequal: True",
            "by sizes: {equal: False, uneven: True",
            "unknown sizes 'uneven' in refuses of method kdsvd",
        ),
        (
            "by channels: {equal: False, unequal: True",
            "by channels: {equal: False, unequal: 1",
            "fsp/wrn40_2_wrn40_1: refuses is 1 in .*allowed: True",
        ),
        (
            "by channels: {equal: {},",
            "by pair: {res: {},",
            "unknown pair 'res' in KDSVD",
        ),
        (
            "RESOLUTION: {by student: {ShuffleV1: 4,",
            "RESOLUTION: {by teacher: {ShuffleV0: 4,",
            "unknown teacher 'ShuffleV0' in RESOLUTION of",
        ),
        (
            "RESOLUTION: {by student: {ShuffleV1: 4,",
            "RESOLUTION: {by students: {ShuffleV1: 4,",
            "RESOLUTION of .* is .*allowed: {by teacher,",
        ),
        ("STUDENT_DIM: {of student: dim}", "STUDENT_DIM: {of pair: dim}", "STUDENT_DIM of .* is "),
        ("SHAPES: {of student: sizes}", "SHAPES: {of student: sizes, else: 1}", "SHAPES of .* is "),
        (
            "STUDENT_DIM: {of student: dim}",
            "STUDENT_DIM: {of student: dims}",
            "unknown fact 'dims'",
        ),
        (
            "\n          resnet20: 0.6",
            "",
            "reviewkd/res56_res20: .*_WEIGHT .*no value for student res",
        ),
    ],
)
def test_a_mistake_in_the_protocol_is_one_line_and_nothing_is_written(
    tmp_path, capsys, old, new, message
):
    protocol = edited(tmp_path, old, new)
    assert tool.main(["--protocol", str(protocol), "--folder", str(tmp_path / "cifar100")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert re.search(message, error), error
    assert str(protocol) in error
    assert not (tmp_path / "cifar100").exists()


def test_a_protocol_that_is_not_there_is_one_line(tmp_path, capsys):
    assert tool.main(["--protocol", str(tmp_path / "none.yaml"), "--check"]) == 2
    assert "none.yaml" in capsys.readouterr().err
