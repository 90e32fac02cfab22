"""One small comparison in every format; the numbers are computed by hand."""

import csv
import io
import re
import struct
import sys
from functools import partial

import pytest

from sdkd_plugin.errors import UserError
from sdkd_plugin.runs.read import read_runs
from sdkd_plugin.table.cells import Comparison, compare_runs
from sdkd_plugin.table.command import comparison_text
from sdkd_plugin.table.formats.charts import ticks
from sdkd_plugin.table.formats.png import write_png
from sdkd_plugin.table.formats.text import latex, markdown, terminal
from sdkd_plugin.table.grids import Cell, Grid
from sdkd_plugin.table.published import load_published


@pytest.fixture(scope="module")
def comparison(write_run, tmp_path_factory) -> Comparison:
    folder = tmp_path_factory.mktemp("runs")
    make_run = partial(write_run, folder)
    for seed, top1 in enumerate((68.0, 69.0, 70.0)):
        make_run("NONE", seed, [50.0, top1])
        make_run("KD", seed, [60.0, top1 + 1 + seed])  # 69, 71, 73: differences 1, 2, 3
    make_run("SDKD", 0, [80.0, 73.5], seconds=3600.0)
    make_run("SDKD", 1, [60.0], ["SOLVER.EPOCHS", "2"], finished=False)
    (make_run("KD", 9, [1.0, 2.0]) / "result.json").write_text("{")
    make_run("KD", 0, [60.0, 69.0], name="copy")
    make_run("NONE", 0, [1.0, 72.0], student="resnet56")
    return compare_runs(*read_runs([folder]))


def text(
    comparison: Comparison, style: str, versus: str | None = None, best_epoch: bool = False
) -> str:
    return comparison_text(comparison, load_published(), style, versus, best_epoch)


def test_markdown(comparison):
    lines = text(comparison, "md", "sdkd").splitlines()
    assert lines[2:8] == [
        "| method | resnet56/resnet20 |",
        "| :-- | --: |",
        "| teacher | 72.34 |",
        "| student | 69.00 ± 1.00 (3) |",
        "| KD | 71.00 ± 2.00 (3) |",
        "| SDKD | **73.50 (1)†‡** |",
    ]
    assert (
        "| resnet56/resnet20 | KD | 3 | 71.00 ± 2.00 (3) | 2 | +2.00 | 70.66¶ | +0.34 | 0.5 | "
        in "\n".join(lines)
    )
    assert "| SDKD | 1 | **73.50 (1)†‡** | 1 | +4.50§ | 72.11¶ | +1.39 | 1 | " in "\n".join(lines)
    assert "| resnet56/resnet20 | KD | 1 | +4.50 | n = 1 | 1.0000 | 1.0000 | 1.0000 |" in lines
    assert "- ¶ resnet56/resnet20: SOLVER.EPOCHS 2 (published: 240)" in lines


def test_every_mark_is_explained(comparison):
    shown = text(comparison, "terminal", "SDKD")
    for mark in "†‡§¶":
        assert re.search(rf"^{mark} ", shown, re.MULTILINE)
    assert "◊" not in shown


def test_best_epoch_stands_beside_the_last_only_when_asked(comparison):
    assert "80.00" not in text(comparison, "md")
    table = text(comparison, "md", best_epoch=True).splitlines()
    assert table[2] == "| method | resnet56/resnet20 | resnet56/resnet20 best test epoch |"
    assert table[7] == "| SDKD | **73.50 (1)†‡** | **80.00 (1)†‡** |"


def test_terminal_marks_the_best_without_colours(comparison):
    shown = text(comparison, "terminal")
    assert "│ SDKD    │      73.50 (1)†‡* │" in shown and "\x1b" not in shown
    coloured = terminal(
        [Grid("g", "t", ["a"], [[Cell("1", 1.0, best=True)]])], [], width=40, colour=True
    )
    assert "\x1b[1m1*" in coloured


def test_brackets_are_no_rich_markup():
    shown = terminal(
        [Grid("g", "t", ["r56/r20 [a]"], [[Cell("[bold]x")]], ["[a] lr"])], ["[b] gone"]
    )
    assert (
        "r56/r20 [a]" in shown and "[bold]x" in shown and "[a] lr" in shown and "[b] gone" in shown
    )


@pytest.mark.parametrize("style", ["terminal", "md", "latex", "csv", "html"])
def test_folders_that_do_not_count_are_listed(comparison, style):
    shown = text(comparison, style)
    for start, name in (
        ("invalid", "seed9"),
        ("unfinished", "seed1"),
        ("duplicate", "copy"),
        ("teacher", "NONE-"),
    ):
        assert re.search(rf"{start}\b.*{name}", shown), start


def test_csv_holds_all_digits(comparison):
    rows = list(csv.DictReader(io.StringIO(text(comparison, "csv", "SDKD"))))
    cells = {row["method"]: row for row in rows if row["status"] == "cell"}
    assert [row["status"] for row in rows[3:]] == ["invalid", "unfinished", "duplicate", "teacher"]
    kd, sdkd = cells["KD"], cells["SDKD"]
    assert (kd["last_mean"], kd["last_sd"], kd["gain"], kd["gain_same_seeds"]) == (
        "71.0",
        "2.0",
        "2.0",
        "True",
    )
    assert float(kd["difference"]) == pytest.approx(71.0 - 70.66) and kd["published"] == "70.66"
    assert (sdkd["n"], sdkd["unfinished"], sdkd["last_sd"], sdkd["best_epoch_mean"]) == (
        "1",
        "1",
        "",
        "80.0",
    )
    assert (sdkd["is_best"], sdkd["hours"], sdkd["seeds"], kd["seeds"]) == (
        "True",
        "1.0",
        "0",
        "0 1 2",
    )
    assert (kd["versus"], kd["versus_n"], kd["versus_difference"], kd["versus_p"]) == (
        "SDKD",
        "1",
        "4.5",
        "1.0",
    )
    assert "versus" not in text(comparison, "csv").splitlines()[0]


def test_paired_test_by_hand(comparison):
    rows = {
        row["method"]: row for row in csv.DictReader(io.StringIO(text(comparison, "csv", "kd")))
    }
    student = rows["student"]  # differences 1, 2, 3
    half = 4.302652729911275 / 3**0.5
    assert (student["versus_n"], student["versus_difference"]) == ("3", "2.0")
    assert float(student["versus_low"]) == pytest.approx(2 - half) and float(
        student["versus_high"]
    ) == pytest.approx(2 + half)
    assert (student["versus_p"], student["versus_smallest_p"]) == ("0.25", "0.25")
    assert student["versus_p_holm"] == "0.5"  # two tests: 0.25 * 2; the other has p = 1
    assert rows["SDKD"]["versus_p_holm"] == "1.0"


def test_versus_of_an_unknown_method(comparison):
    with pytest.raises(UserError, match="unknown method 'SDK' in --versus: did you mean 'SDKD'"):
        text(comparison, "md", "SDK")


def test_versus_without_common_seed_says_so(make_run, tmp_path):
    make_run("KD", 0, [70.0])
    make_run("SDKD", 1, [71.0])
    shown = text(compare_runs(*read_runs([tmp_path])), "md", "SDKD")
    assert "- resnet56/resnet20: SDKD and KD have no finished seed in common" in shown
    assert "over all tests here, 0 in number" in shown


def test_columns_of_different_protocols_are_lettered(make_run, tmp_path):
    make_run("KD", 0, [70.0])
    make_run("KD", 1, [71.0], data="half", overrides=["DATASET.SUBSET", "0.5"])
    shown = text(compare_runs(*read_runs([tmp_path])), "md")
    assert "| method | resnet56/resnet20 [a] | resnet56/resnet20 [b] |" in shown
    assert (
        "- [a] DATASET.SUBSET 0.5, data half" in shown
        and "- [b] DATASET.SUBSET 1.0, data 123fff178151842b" in shown
    )
    published = [line for line in shown.splitlines() if "70.66" in line]
    assert len(published) == 1 and "[b]" in published[0]  # none beside the half


def test_another_teacher_than_the_published_is_named(make_run, tmp_path):
    path = make_run("KD", 0, [70.0]) / "result.json"
    assert "teacher 72.34" not in text(compare_runs(*read_runs([tmp_path])), "md")
    path.write_text(path.read_text().replace('"top1": 72.34', '"top1": 65.04'))
    assert "teacher 65.04 % (published: 72.34)" in text(compare_runs(*read_runs([tmp_path])), "md")


def test_costs_of_different_devices_are_marked(make_run, tmp_path):
    make_run("KD", 0, [70.0])
    make_run("SDKD", 0, [71.0], device="cuda Big")
    assert "cpu Test with 1 threads and on cuda Big with 1 threads" in text(
        compare_runs(*read_runs([tmp_path])), "md"
    )
    assert "do not compare them" in text(compare_runs(*read_runs([tmp_path])), "md")


def test_validation_scores_are_named(make_run, tmp_path):
    make_run("KD", 0, [70.0], ["DATASET.VAL_FRACTION", "0.1"], data="held")
    shown = text(compare_runs(*read_runs([tmp_path])), "md", best_epoch=True)
    assert "on the val images" in shown and "best val epoch" in shown and "70.66" not in shown


def test_latex_is_booktabs_and_escaped():
    grid = Grid(
        "id",
        "100 % of a_b & c",
        ["m", "w_40_2 [a]"],
        [[Cell("x#"), Cell("70.00 ± 1.00", 70.0, True, "†")]],
        ["$1"],
    )
    assert latex([grid], ["invalid: a_b"]).split("\n\n", 1)[1] == "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            r"\caption{100 \% of a\_b \& c}",
            r"\label{tab:id}",
            r"\begin{tabular}{lr}",
            r"\toprule",
            r"m & w\_40\_2 [a] \\",
            r"\midrule",
            r"x\# & \textbf{70.00 $\pm$ 1.00\textsuperscript{\dag}} \\",
            r"\bottomrule",
            r"\end{tabular}",
            r"\par\footnotesize \$1",
            r"\end{table}",
            "",
            "% Runs that do not count:",
            "",
            "% invalid: a_b",
            "",
        ]
    )


def test_markdown_keeps_pipes_in_their_cell():
    assert "| a\\|b |" in markdown([Grid("g", "t", ["m"], [[Cell("a|b")]])], [])


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (68.3, 71.2, [68, 68.5, 69, 69.5, 70, 70.5, 71, 71.5]),
        (0, 240, [0, 50, 100, 150, 200, 250]),
    ],
)
def test_ticks_are_round_and_enclose(low, high, expected):
    assert ticks(low, high) == expected


def test_ticks_of_one_value_are_two():
    marks = ticks(5.0, 5.0)
    assert len(marks) >= 2 and marks[0] <= 5.0 <= marks[-1] and marks[0] < marks[-1]


def test_png_is_a_picture(comparison, tmp_path):
    pytest.importorskip("matplotlib", reason="needs the extra plots")
    write_png(comparison, tmp_path / "table.png", "title")
    head = (tmp_path / "table.png").read_bytes()[:24]
    width, height = struct.unpack(">II", head[16:])
    assert head[:8] == b"\x89PNG\r\n\x1a\n" and width > 500 and height > 300


def test_png_without_matplotlib_names_the_extra(comparison, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(
        UserError, match=r"matplotlib; install it with: pip install 'sdkd-plugin\[plots\]'"
    ):
        write_png(comparison, tmp_path / "table.png", "title")
