import subprocess
import sys

import pytest

from sdkd_plugin.__main__ import main
from sdkd_plugin.table.command import FORMATS


def table(*arguments: object) -> int:
    return main(["table", *map(str, arguments)])


def test_poster_alone(capsys):
    assert table("--published", "poster", "--format", "csv") == 0
    lines = capsys.readouterr().out.splitlines()
    pairs = "wrn_40_2/wrn_16_2,wrn_40_2/wrn_40_1,resnet56/resnet20,resnet110/resnet20"
    assert lines[0] == f"method,{pairs},resnet110/resnet32"
    assert lines[-1] == "Gain,2.59,3.02,3.05,3.07,3.10"


@pytest.mark.parametrize("style", FORMATS)
def test_every_format_prints_and_writes_the_same(make_run, tmp_path, capsys, style):
    folder = make_run("KD", 0, [70.0]).parents[1]
    assert table(folder, "--format", style) == 0
    printed = capsys.readouterr().out
    assert table(folder, "--format", style, "--output", tmp_path / "out") == 0
    assert capsys.readouterr().out == ""
    assert [
        line for line in (tmp_path / "out").read_text().splitlines() if "Made " not in line
    ] == [line for line in printed.splitlines() if "Made " not in line]


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


def test_a_table_on_the_screen_needs_no_torch():
    code = (
        "import sys; from sdkd_plugin.__main__ import main; main(['table', '--published', "
        "'poster']); "
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code + "sys.exit('torch' in sys.modules)"], capture_output=True
        ).returncode
        == 0
    )
