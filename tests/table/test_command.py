import subprocess
import sys

import pytest

from sdkd_plugin.__main__ import main


def table(*arguments: object) -> int:
    return main(["table", *map(str, arguments)])


def test_poster_alone(capsys):
    assert table("--published", "poster", "--format", "csv") == 0
    lines = capsys.readouterr().out.splitlines()
    pairs = "wrn_40_2/wrn_16_2,wrn_40_2/wrn_40_1,resnet56/resnet20,resnet110/resnet20"
    assert lines[0] == f"method,{pairs},resnet110/resnet32"
    assert lines[-1] == "Gain,2.59,3.02,3.05,3.07,3.10"


@pytest.mark.parametrize("style", ["terminal", "md", "latex", "csv", "html"])
def test_every_format_prints_and_writes_the_same(make_run, tmp_path, capsys, style):
    def lines(text: str) -> list[str]:
        return [line for line in text.splitlines() if "Made " not in line]

    folder = make_run("KD", 0, [70.0]).parents[1]
    assert table(folder, "--format", style) == 0
    printed = capsys.readouterr().out
    assert table(folder, "--format", style, "--output", tmp_path / "out") == 0
    assert capsys.readouterr().out == ""
    assert lines((tmp_path / "out").read_text()) == lines(printed) != []


def test_published_chooses_which_numbers_stand_beside(make_run, capsys):
    folder = make_run("DKD", 0, [70.0])
    assert table(folder) == 0 and "71.97" in capsys.readouterr().out
    assert table(folder, "--published", "poster") == 0 and "71.97" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to tabulate: give folders"),
        (("--published", "postr"), "did you mean 'poster'"),
        (("--published", "poster", "--versus", "SDKD"), "--versus needs runs"),
        (("--published", "poster", "--best"), "--best needs runs"),
        (("/no/such/folder",), "/no/such/folder does not exist"),
        (("RUNS", "--versus", "DKD"), "unknown method 'DKD' in --versus: did you mean 'KD'"),
        (("RUNS", "--split", "KD.TAO"), "unknown method setting 'KD.TAO' in --split"),
        (("RUNS", "--output", "no/such/folder/t.md"), "there is no folder no/such/folder"),
        (("RUNS", "--output", "."), "--output . is a folder"),
    ],
)
def test_bad_input_is_told_in_one_line(make_run, capsys, arguments, message):
    runs = str(make_run("KD", 0, [70.0]))
    assert table(*(runs if word == "RUNS" else word for word in arguments)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error


def test_conflict_is_told_with_both_paths(make_run, tmp_path, capsys):
    first = make_run("KD", 0, [70.0])
    second = make_run("KD", 0, [71.0], ["KD.TEMPERATURE", "2.0"])
    assert table(tmp_path) == 2
    error = capsys.readouterr().err
    assert str(first) in error and str(second) in error
    assert "KD.TEMPERATURE" in error and "4.0" in error and "2.0" in error
    assert table(tmp_path, "--split", "KD.TEMPERATURE") == 0
    assert "KD (TEMPERATURE=2.0)" in capsys.readouterr().out


def test_a_failed_call_keeps_the_old_file(make_run, tmp_path):
    runs, output = make_run("KD", 0, [70.0]), tmp_path / "table.md"
    output.write_text("old")
    assert table(runs, "--format", "md", "--output", output, "--versus", "nobody") == 2
    assert output.read_text() == "old"


def imported_by(*arguments: object) -> set[str]:
    """Which of the slow packages a command line imports in a process of its own."""
    code = (
        "import sys\n"
        "from sdkd_plugin.__main__ import main\n"
        "try:\n"
        "    code = main(sys.argv[1:])\n"
        "except SystemExit as left:\n"
        "    code = left.code\n"
        "slow = [name for name in ('torch', 'matplotlib', 'scipy') if name in sys.modules]\n"
        "print('\\n', code, *slow)\n"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    code, *slow = shown.splitlines()[-1].split()
    assert code == ("2" if "mistyped" in arguments else "0")
    return set(slow)


def test_a_table_on_the_screen_needs_no_torch(make_run, tmp_path):
    make_run("KD", 0, [70.0])
    make_run("SDKD", 0, [70.0])
    assert imported_by("table", "--published", "poster") == set()
    for style in ("terminal", "md", "latex", "csv"):
        assert imported_by("table", tmp_path, "--metric", "ece", "--format", style) == set()
    needed = imported_by("table", tmp_path, "--metric", "ece", "--format", "html")
    assert needed == {"matplotlib"}
    assert "torch" not in imported_by("table", tmp_path, "--metric", "ece", "--versus", "KD")


def test_help_and_a_mistyped_option_import_nothing_slow():
    assert imported_by("--help") == set()
    assert imported_by("table", "--help") == set()
    assert imported_by("table", "--published", "poster", "--format", "mistyped") == set()
    assert imported_by("table", "mistyped", "--nix") == set()
