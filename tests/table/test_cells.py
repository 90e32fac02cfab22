from dataclasses import replace
from pathlib import Path

import pytest
from support.runs import bare_run

from sdkd_plugin.errors import UserError
from sdkd_plugin.runs.find import Rejected
from sdkd_plugin.runs.read import Run
from sdkd_plugin.table.cells import compare_runs


def test_seeds_are_averaged_and_compared_with_the_vanilla_student():
    runs = [bare_run(seed=seed, top1=70.0 + seed) for seed in (0, 1, 2)]
    runs += [bare_run("NONE", seed, 69.0) for seed in (0, 1, 2)] + [bare_run("SDKD", 0, 72.0)]
    comparison = compare_runs(runs, [])
    assert [column.label for column in comparison.columns] == ["resnet56/resnet20"]
    assert comparison.rows == ["student", "KD", "SDKD"]

    kd, sdkd, student = (comparison.cells[row, 0] for row in ("KD", "SDKD", "student"))
    assert (kd.summary("last").mean, kd.summary("last").sd, kd.summary("last").n) == (71.0, 1.0, 3)
    assert kd.summary("best").mean == 72.0
    assert (kd.gain, sdkd.gain, student.gain) == (2.0, 3.0, None)
    assert (kd.rank, sdkd.rank, student.rank) == (2, 1, 3)
    assert (kd.other_seeds, sdkd.other_seeds) == (False, True)
    assert comparison.teacher_score(0) == 72.34


def test_equal_means_share_a_rank():
    tops = {"KD": 70.0, "DKD": 70.0, "CRD": 69.0}
    comparison = compare_runs([bare_run(method, top1=top1) for method, top1 in tops.items()], [])
    assert [comparison.cells[row, 0].rank for row in ("KD", "DKD", "CRD")] == [1, 1, 3]


def test_unfinished_runs_do_not_count():
    runs = [bare_run(seed=0), bare_run(seed=1, top1=99.0, finished=False)]
    comparison = compare_runs([*runs, bare_run("DKD", finished=False)], [])
    assert comparison.cells["KD", 0].summary("last").n == 1
    assert len(comparison.cells["KD", 0].unfinished) == 1
    assert comparison.cells["DKD", 0].rank is None


def test_two_settings_in_one_cell_are_refused_with_both_paths():
    runs = [bare_run(seed=0, path="first"), bare_run(seed=0, path="second", KD__TAU=2.0)]
    told = "first and second both claim the cell KD, resnet56/resnet20 .* KD.TAU 4.0 against 2.0"
    with pytest.raises(UserError, match=told):
        compare_runs(runs, [])
    with pytest.raises(UserError, match="--split KD.TAU"):  # the other seed does not excuse it
        compare_runs([runs[0], bare_run(seed=1, KD__TAU=2.0)], [])


def test_split_gives_each_setting_a_row():
    runs = [bare_run(top1=70.0), bare_run(top1=71.0, KD__TAU=2.0), bare_run("SDKD")]
    comparison = compare_runs(runs, [], ["KD.TAU"])
    assert comparison.rows == ["KD (TAU=2.0)", "KD (TAU=4.0)", "SDKD"]
    assert comparison.cells["KD (TAU=2.0)", 0].summary("last").mean == 71.0
    told = "unknown method setting 'KD.TUA' in --split: did you mean 'KD.TAU'"
    with pytest.raises(UserError, match=told):
        compare_runs(runs, [], ["KD.TUA"])


def test_split_at_a_value_leaves_the_methods_own_row_to_it():
    runs = [bare_run(top1=70.0), bare_run(top1=71.0, KD__TAU=2.0), bare_run("SDKD")]
    comparison = compare_runs(runs, [], ["KD.TAU=4.0"])
    assert comparison.rows == ["KD", "KD (TAU=2.0)", "SDKD"]
    assert comparison.cells["KD", 0].summary("last").mean == 70.0
    with pytest.raises(UserError, match="value of KD.TAU '4' in --split: .*known: 2.0, 4.0"):
        compare_runs(runs, [], ["KD.TAU=4"])
    with pytest.raises(UserError, match="--split has KD.TAU twice"):
        compare_runs(runs, [], ["KD.TAU=4.0", "KD.TAU=2.0"])


def test_split_shows_the_settings_that_depart():
    settings = {"alone": {}, "tau": {"KD__TAU": 2.0}, "both": {"KD__TAU": 2.0, "KD__P": 1}}
    runs = [bare_run(path=path, **{"KD__P": 0, **each}) for path, each in settings.items()]
    comparison = compare_runs(runs, [], ["KD.TAU=4.0", "KD.P=0"])
    assert comparison.rows == ["KD", "KD (TAU=2.0)", "KD (TAU=2.0, P=1)"]


def test_equal_runs_count_once_the_finished_one_first():
    runs = [
        bare_run(path="a", finished=False),
        bare_run(path="b", top1=70.5),
        bare_run(path="c", top1=70.5, SOLVER__TRAINER="crd"),
    ]
    comparison = compare_runs(runs, [])
    assert [str(kept.path) for kept in comparison.counted] == ["b"]
    duplicates = [(str(out.path), str(kept.path)) for out, kept in comparison.duplicates]
    assert duplicates == [("a", "b"), ("c", "b")]


def test_dot_is_part_of_the_method_as_it_is_published():
    dot = {"SOLVER__OPTIMIZER": "dot", "SOLVER__DOT__DELTA": 0.075}
    runs = [bare_run("NONE"), bare_run(), bare_run(top1=71.0, **dot), bare_run("DKD", **dot)]
    comparison = compare_runs(runs, [])
    assert len(comparison.columns) == 1
    assert comparison.rows == ["student", "KD", "KD+DOT", "DKD+DOT"]
    assert comparison.cells["KD+DOT", 0].gain == 1.0
    other = bare_run(seed=1, **{**dot, "SOLVER__DOT__DELTA": 0.05})
    with pytest.raises(UserError, match="the cell KD.DOT, .* SOLVER.DOT.DELTA 0.075 against 0.05"):
        compare_runs([*runs, other], [])
    split = compare_runs([*runs, other], [], ["SOLVER.DOT.DELTA"])
    assert "KD+DOT (DOT.DELTA=0.05)" in split.rows


def test_rows_stand_as_papers_print_them():
    methods = ["SDKD", "ZZZ", "CRD", "FITNET", "KD", "NONE"]
    rows = compare_runs([bare_run(method) for method in methods], []).rows
    assert rows == ["student", "KD", "FitNet", "CRD", "ZZZ", "SDKD"]


def test_standardised_logits_are_a_row_of_their_own_never_averaged_with_the_others():
    runs = [bare_run(seed=0, top1=70.0), bare_run(seed=1, top1=71.0)]
    runs += [bare_run(seed=0, top1=72.0, KD__LOGIT_STANDARD=True)]
    runs += [bare_run("SDKD"), bare_run("DKD", DKD__LOGIT_STANDARD=True)]
    runs += [bare_run("FITNET", FITNET__LOGIT_STANDARD=True), bare_run("CRD")]
    comparison = compare_runs(runs, [])
    # those that a table prints stand where it does, FitNet's before SDKD
    assert comparison.rows == ["KD", "CRD", "KD+LSKD", "DKD+LSKD", "FitNet+LSKD", "SDKD"]
    assert comparison.cells["KD", 0].summary("last").mean == 70.5
    assert comparison.cells["KD+LSKD", 0].summary("last").mean == 72.0


def test_no_usable_run_tells_why():
    with pytest.raises(UserError, match="no run can be used; bad: torn"):
        compare_runs([], [Rejected(Path("bad"), "torn")])


def test_many_unusable_folders_are_counted():
    rejected = [Rejected(Path(f"bad{number}"), "torn") for number in range(2000)]
    with pytest.raises(UserError, match="bad4: torn; and 1995 more$"):
        compare_runs([], rejected)


def test_costs_are_those_of_runs_alone():
    """KD's seed 1 was trained with seven others, DKD's only run, too."""

    def costing(run: Run, seconds: float, group_size: int) -> Run:
        record = replace(run.record, wall_seconds=seconds, group_size=group_size)
        return replace(run, result=record)

    kd = [costing(bare_run(seed=0), 7200.0, 1), costing(bare_run(seed=1), 360.0, 8)]
    dkd = costing(bare_run("DKD"), 360.0, 8)
    comparison = compare_runs([*kd, dkd], [])
    assert comparison.cells["KD", 0].hours == 2.0
    assert comparison.cells["KD", 0].summary("last").n == 2
    assert comparison.cells["DKD", 0].hours is None
    assert comparison.cells["DKD", 0].mean_of("peak_memory_mib") is None
