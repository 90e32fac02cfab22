"""What a sweep file may say: it works, or is refused in one line, and nothing is dropped."""

import time
from pathlib import Path

import pytest

from sdkd_plugin.__main__ import main
from sdkd_plugin.errors import UserError
from sdkd_plugin.sweep.file import read_sweep_file
from sdkd_plugin.sweep.jobs import read_sweep, unfinished

USUAL = "methods: [kd]\npairs: [res56_res20]\nseeds: [0]\noverrides: {DATASET.TYPE: digits}\n"


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write_file(text: str) -> Path:
        Path("sweep.yaml").write_text(text)
        return Path("sweep.yaml")

    return write_file


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("methods: [1]\npairs: [a]\nseeds: [0]", "methods in sweep.yaml: 1 is no name"),
        ("methods: [[kd]]\npairs: [a]\nseeds: [0]", r"methods in .*: \['kd'\] is no name"),
        ("methods: [kd]\npairs: [~]\nseeds: [0]", "pairs in sweep.yaml: None is no name"),
        ("methods: [2024-13-45]\npairs: [a]\nseeds: [0]", "unknown method '2024-13-45'"),
        ("methods: [kd]\npairs: [res56_res20]\nseeds: [2024-01-01]", "seeds in .*'2024-01-01'"),
        ("methods: [kd]\npairs: [res56_res20]\nseeds: [0.5]", "seeds in .*: 0.5; allowed: whole"),
        ("methods: [kd]\npairs: [res56_res20]\nseeds: [-1]", "seeds in .*: -1"),
        ("methods: [kd]\npairs: [res56_res20]\nseeds: [true]", "seeds in .*: True"),
        (f"methods: [kd]\npairs: [x]\nseeds: [{2**63}]", "seeds in .*: 9223372036854775808"),
        (USUAL.replace("digits", "{a: 1}"), "DATASET.TYPE is {'a': 1}; write its keys in full"),
        (USUAL.replace("digits", ""), "overrides in sweep.yaml: DATASET.TYPE has no value"),
        (USUAL.replace("DATASET.TYPE", "-x"), "option -x stands among"),
        (USUAL.replace("DATASET.TYPE", "~"), "overrides in sweep.yaml: None is no name"),
        (USUAL + "variants: {sdkd: {a: {}}}", "unknown method 'sdkd' in variants of sweep.yaml"),
        (USUAL + "variants: {kd: {}}", "variants of kd in sweep.yaml: {}; allowed: labels"),
        (USUAL + "variants: {kd: }", "variants of kd in sweep.yaml: None; allowed: labels"),
        (USUAL + "variants: {kd: [a]}", "variants of kd in sweep.yaml: .*; allowed: labels"),
        (USUAL + "variants: {kd: {a: b}}", "variants of kd in sweep.yaml, a: 'b'; allowed: config"),
        (USUAL + "variants: {kd: {~: {}}}", "None is no label"),
        (USUAL + "variants: {kd: {true: {}}}", "True is no label"),
        (USUAL + "variants: {kd: {1: {}, '1': {}}}", "the label '1' stands there twice"),
        (USUAL + 'variants: {kd: {"a\\nb": {}}}', "in one line"),
        (USUAL + f"variants: {{kd: {{{'x' * 300}: {{}}}}}}", "up to 200 characters"),
        (USUAL + "teachers: {resnet56: 3}", "teachers in sweep.yaml: resnet56 is 3, which is no"),
        (USUAL + "teachers: {resnet56: nix}", "resnet56 is 'nix', which is no file"),
        (USUAL + "teachers: {resnet65: sweep.yaml}", "unknown teacher 'resnet65' in teachers of"),
        (USUAL + "teachers: {1: sweep.yaml}", "unknown teacher 1 in teachers of"),
        (USUAL.replace("res56_res20", "../kd/res56_res20"), "unknown model '..' in pair"),
        (USUAL.replace("res56_res20", "resnet56/nix"), "unknown model 'nix' in pair resnet56/nix"),
        (USUAL.replace("DATASET.TYPE", "SOLVER.EPOCH"), "kd/res56_res20 of sweep.yaml: unknown co"),
        (USUAL.replace("}", ", DISTILLER.TEACHER_CKPT: nix}"), "teacher checkpoint nix"),
    ],
)
def test_what_a_sweep_file_cannot_mean_is_refused_in_one_line(text, message, write, capsys):
    path = write(text)
    with pytest.raises(UserError, match=message):
        read_sweep(path)
    assert main(["sweep", str(path), "--plan"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert [found.name for found in Path().iterdir()] == ["sweep.yaml"]


def test_labels_are_text_and_nothing_after_a_key_is_nothing(write):
    labels = "variants: {kd: {1: {KD.TEMPERATURE: 1.0}, 4.5: , 2024-01-01: {KD.TEMPERATURE: 2}}}"
    path = write(USUAL + labels + "\nteachers:\n")
    file = read_sweep_file(path, ("SOLVER.EPOCHS", "2"))
    wanted = {"1": {"KD.TEMPERATURE": "1.0"}, "4.5": {}, "2024-01-01": {"KD.TEMPERATURE": "2"}}
    assert file.variants == {"kd": wanted} and file.teachers == {}
    assert file.overrides == {"DATASET.TYPE": "digits", "SOLVER.EPOCHS": "2"}
    assert [job.label for job in read_sweep(path).students] == [
        f"kd/res56_res20 {label} seed 0" for label in wanted
    ]


def test_twenty_thousand_seeds_are_expanded_soon(write):
    path = write(USUAL.replace("kd", "vanilla").replace("[0]", str(list(range(20_000)))))
    began = time.process_time()
    sweep = read_sweep(path)
    assert len(list(unfinished(sweep.students))) == 20_000
    assert time.process_time() - began < 10


def test_the_inputs_that_broke_it_once_work_or_are_refused(shared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in sorted(Path(shared, "cases", "sweep").glob("*.yaml")):
        try:
            read_sweep(file)
        except UserError as error:
            assert str(error)
    assert not list(tmp_path.iterdir())
