import csv
import io

import pytest
from support.runs import write_run
from support.tables import table

from sdkd_plugin.errors import UserError


def test_paired_test_by_hand(mixed_runs):
    lines = csv.DictReader(io.StringIO(table(mixed_runs, "csv", versus="kd")))
    rows = {row["method"]: row for row in lines}
    student = rows["student"]  # differences 1, 2, 3
    assert (student["versus_n"], student["versus_difference"]) == ("3", "2.0")
    half = 4.302652729911275 / 3**0.5
    assert float(student["versus_low"]) == pytest.approx(2 - half)
    assert float(student["versus_high"]) == pytest.approx(2 + half)
    assert (student["versus_p"], student["versus_smallest_p"]) == ("0.25", "0.25")
    assert student["versus_p_holm"] == "0.25"  # the only test: SDKD has one seed, and so p = 1
    assert (rows["SDKD"]["versus_p"], rows["SDKD"]["versus_p_holm"]) == ("1.0", "")
    assert "Holm: over all tests here but those of one seed, 1 in number" in table(
        mixed_runs, versus="kd"
    )


def test_holm_counts_every_test_of_two_seeds_and_more(make_run, tmp_path):
    for seed, gain in enumerate((1.0, 2.0, 3.0)):
        make_run("KD", seed, [70.0])
        make_run("SDKD", seed, [70.0 + gain])
        make_run("DKD", seed, [70.0 - gain])
    make_run("CRD", 0, [71.0])
    lines = csv.DictReader(io.StringIO(table(tmp_path, "csv", versus="kd")))
    corrected = {row["method"]: row["versus_p_holm"] for row in lines}
    assert corrected == {"KD": "", "SDKD": "0.5", "DKD": "0.5", "CRD": ""}  # 2 * 0.25


def test_versus_of_an_unknown_method(mixed_runs):
    with pytest.raises(UserError, match="unknown method 'SDK' in --versus: did you mean 'SDKD'"):
        table(mixed_runs, versus="SDK")


def test_versus_without_common_seed_says_so(make_run, tmp_path):
    make_run("KD", 0, [70.0])
    make_run("SDKD", 1, [71.0])
    shown = table(tmp_path, versus="SDKD")
    assert "- resnet56/resnet20: SDKD and KD have no finished seed in common" in shown
    assert "over all tests here, 0 in number" in shown


@pytest.fixture(scope="module")
def many_seeds(tmp_path_factory):
    """KD and SDKD with 31 seeds each, one more than is counted exactly."""
    folder = tmp_path_factory.mktemp("many")
    for seed in range(31):
        write_run(folder, "KD", seed, [70.0 + seed / 31])
        write_run(folder, "SDKD", seed, [70.5 + seed / 31])
    return folder


@pytest.mark.parametrize("style", ["terminal", "md", "latex", "csv", "html"])
def test_a_sampled_p_is_named_so_in_every_format(many_seeds, style):
    shown = table(many_seeds, style, versus="SDKD").replace("\\textasciicircum{}", "^")
    assert "9,999 drawn of 2^31" in shown
    if style != "csv":
        assert "9,999 sign patterns drawn with seed 0; it cannot get below 0.0001" in shown
