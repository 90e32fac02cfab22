"""An ablation's table: a sweep file's variants by name, each against the first, paired by seed."""

import csv
import io
from pathlib import Path

import pytest
import yaml
from support.runs import write_run
from support.tables import report_of_runs, table

from sdkd_plugin.__main__ import main
from sdkd_plugin.config import configs_folder
from sdkd_plugin.sweep.file import read_sweep_file
from sdkd_plugin.sweep.variants import read_variants

NO_MUTUAL = ["SDKD.LOSS.MUTUAL_WEIGHT", "0.0"]
VARIANTS = {
    "whole": {},
    "the whole again": {},
    "no mutual term": {"SDKD.LOSS.MUTUAL_WEIGHT": 0.0},
    "never run": {"SDKD.PROXY_BN": "student"},
}


def write_sweep(folder: Path, **changes) -> Path:
    path = folder / "ablation.yaml"
    tree = {"methods": ["sdkd"], "pairs": ["res56_res20"], "seeds": [0]}
    path.write_text(
        yaml.safe_dump({**tree, "variants": {"sdkd": VARIANTS}, **changes}, sort_keys=False)
    )
    return path


@pytest.fixture
def ablation(tmp_path) -> tuple[Path, Path]:
    """A sweep file, and a folder with runs of it and others."""
    runs = tmp_path / "runs"
    for seed, top1 in enumerate((70.0, 71.0, 72.0)):
        write_run(runs, "SDKD", seed, [10.0, top1])
        write_run(runs, "SDKD", seed, [10.0, 69.0], NO_MUTUAL)  # -1, -2, -3
        write_run(runs, "SDKD", seed, [10.0, 1.0], ["SDKD.FUSION", "gate"])
    write_run(runs, "KD", 0, [10.0, 68.0])
    return write_sweep(tmp_path), runs


def test_each_variant_stands_against_the_first(ablation, capsys):
    file, runs = ablation
    assert main(["table", str(runs), "--variants", str(file), "--format", "md"]) == 0
    shown = capsys.readouterr().out
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in shown.splitlines()
        if line.startswith("|")
    ]
    found = {row[0]: row[1:] for row in rows}
    half = 4.302652729911275 / 3**0.5  # of differences -1, -2, -3, whose sd is 1
    interval = f"{-2 - half:+.2f} to {-2 + half:+.2f}"
    assert found["no mutual term"][:4] == ["69.00 ± 0.00 (3)", "3", "-2.00", interval]
    # KD has one seed: no test beside this one to correct for
    assert found["no mutual term"][4:] == ["0.2500", "0.2500", "0.2500"]
    assert found["whole"] == ["**71.00 ± 1.00 (3)**", *[""] * 6]
    assert found["KD"][:3] == ["68.00 (1)†", "1", "-2.00"]
    assert [row[0] for row in rows if row[0] in found][2:] == [
        *("teacher", "KD", "whole", "no mutual term")
    ]
    assert "3 runs of SDKD are of no variant and left out" in shown
    assert "difference to whole" in shown


def test_another_may_be_the_one_that_all_are_compared_with(ablation):
    file, runs = ablation
    variants = tuple(read_variants(file))
    report = report_of_runs(runs, variants=variants, versus="no mutual term")
    rows = {row[0].text: [cell.text for cell in row] for row in report.grids[0].rows}
    assert rows["whole"][3] == "+2.00" and rows["no mutual term"][3] == ""


@pytest.mark.parametrize("style", ["terminal", "latex", "csv", "json", "html"])
def test_every_format_names_the_variants(ablation, style):
    file, runs = ablation
    shown = table(runs, style, variants=tuple(read_variants(file)))
    assert "no mutual term" in shown and "the whole again" not in shown


def test_csv_has_the_variants_as_rows(ablation):
    file, runs = ablation
    text = table(runs, "csv", variants=tuple(read_variants(file)))
    rows = {row["method"]: row for row in csv.DictReader(io.StringIO(text))}
    assert rows["no mutual term"]["versus_difference"] == "2.0"  # whole minus this


def test_the_shipped_ablation_has_a_name_for_each_of_its_runs():
    file = configs_folder() / "sweeps" / "ablation.yaml"
    variants = list(read_variants(file))
    kinds = {variant.kind for variant in variants}
    assert len(kinds) == len(variants) == len(read_sweep_file(file).variants["sdkd"])
    assert variants[0].label == "full"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variants": {}}, "has no variants"),
        ({"variants": {"sdkd": {"a": {"SDKD.FUSE": 1}}}}, "SDKD.FUSE"),
        ({"methods": ["sdk"], "variants": {}}, "variants"),
    ],
)
def test_what_is_no_ablation_is_one_line(changes, message, ablation, tmp_path, capsys):
    _, runs = ablation
    file = write_sweep(tmp_path, **changes)
    assert main(["table", str(runs), "--variants", str(file)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line


def test_runs_of_no_variant_are_one_line(ablation, tmp_path, capsys):
    file, _ = ablation
    write_run(tmp_path / "kd", "KD", 0, [10.0, 68.0])
    assert main(["table", str(tmp_path / "kd"), "--variants", str(file)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no run here is of one of the variants" in line


def test_variants_without_runs_are_one_line(ablation, capsys):
    file, _ = ablation
    assert main(["table", "--variants", str(file), "--published", "poster"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--variants needs runs" in line
