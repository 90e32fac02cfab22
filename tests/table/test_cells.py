from dataclasses import replace
from pathlib import Path

import pytest
from support.runs import RESULT

from sdkd_plugin.errors import UserError
from sdkd_plugin.runs.read import Rejected, Run
from sdkd_plugin.table.cells import _letter, compare_runs


def run(
    method="KD",
    seed=0,
    top1=70.0,
    teacher="resnet56",
    student="resnet20",
    finished=True,
    path=None,
    **changes,
) -> Run:
    """A run with the fewest keys; `changes` with __ for the dot are added to its identity."""
    identity = {
        "DISTILLER.TYPE": method,
        "DISTILLER.STUDENT": student,
        "SOLVER.SEED": seed,
        "SOLVER.EPOCHS": 240,
        "DATASET.VAL_FRACTION": 0.0,
        "data": "d",
        "teacher": None if method == "NONE" else f"{teacher}-hash",
    }
    if method != "NONE":
        identity |= {"DISTILLER.TEACHER": teacher, f"{method}.TAU": 4.0}
    identity |= {key.replace("__", "."): value for key, value in changes.items()}
    result = replace(RESULT, last={"top1": top1}, best={"top1": top1 + 1})
    name = path or "-".join(map(str, (method, teacher, student, seed, *changes.values())))
    return Run(Path(name), identity, result if finished else None, 240, {})


def labels(comparison) -> list[str]:
    return [column.label for column in comparison.columns]


def test_seeds_are_averaged_and_compared_with_the_vanilla_student():
    runs = [run(seed=seed, top1=70.0 + seed) for seed in (0, 1, 2)]
    runs += [run("NONE", seed, 69.0) for seed in (0, 1, 2)] + [run("SDKD", 0, 72.0)]
    comparison = compare_runs(runs, [])
    assert labels(comparison) == ["resnet56/resnet20"] and comparison.rows == [
        "student",
        "KD",
        "SDKD",
    ]
    kd, sdkd, student = (comparison.cells[row, 0] for row in ("KD", "SDKD", "student"))
    assert (kd.summary("last").mean, kd.summary("last").sd, kd.summary("last").n) == (71.0, 1.0, 3)
    assert kd.summary("best").mean == 72.0
    assert (kd.gain, sdkd.gain, student.gain) == (2.0, 3.0, None)
    assert (kd.rank, sdkd.rank, student.rank) == (2, 1, 3)
    assert (kd.other_seeds, sdkd.other_seeds) == (False, True)
    assert comparison.teacher_top1(0) == 72.34


def test_equal_means_share_a_rank():
    comparison = compare_runs(
        [run("KD", top1=70.0), run("DKD", top1=70.0), run("CRD", top1=69.0)], []
    )
    assert [comparison.cells[row, 0].rank for row in ("KD", "DKD", "CRD")] == [1, 1, 3]


def test_vanilla_stands_beside_every_teacher_of_its_student():
    runs = [run(), run(teacher="resnet110"), run(student="resnet32"), run("NONE", top1=69.0)]
    comparison = compare_runs(runs, [])
    assert labels(comparison) == ["resnet56/resnet20", "resnet110/resnet20", "resnet56/resnet32"]
    assert [("student", at) in comparison.cells for at in range(3)] == [True, True, False]


def test_vanilla_under_another_schedule_is_no_baseline():
    comparison = compare_runs([run(), run("NONE", SOLVER__EPOCHS=10)], [])
    assert labels(comparison) == ["resnet56/resnet20 [a]", "-/resnet20 [b]"]
    assert comparison.cells["KD", 0].gain is None
    assert comparison.differing == {"a": {"SOLVER.EPOCHS": 240}, "b": {"SOLVER.EPOCHS": 10}}
    assert comparison.shared == {"DATASET.VAL_FRACTION": 0.0, "data": "d", "host": "sdkd_plugin"}


@pytest.mark.parametrize(
    "change",
    [
        {"SOLVER__EPOCHS": 10},
        {"SOLVER__LR": 0.1},
        {"data": "other"},
        {"DATASET__VAL_FRACTION": 0.1},
        {"SOLVER__NEW": 1},
    ],
)
def test_other_protocols_are_never_mixed(change):
    comparison = compare_runs([run(seed=0), run(seed=1, **change)], [])
    assert len(comparison.columns) == 2
    assert {cell.summary("last").n for cell in comparison.cells.values()} == {1}
    (key,) = (name.replace("__", ".") for name in change)
    assert [key in own for own in comparison.differing.values()] == [True, True]


def test_another_checkpoint_of_the_teacher_is_another_column():
    comparison = compare_runs(
        [run(seed=0), run(seed=1, teacher="resnet56", **{"teacher__": 0}), run("NONE")], []
    )
    assert len(comparison.columns) == 2  # the odd key alone splits here; the hash must do so too:
    other = run(seed=1, path="other")
    other.identity["teacher"] = "retrained"
    comparison = compare_runs([run(seed=0), other, run("NONE")], [])
    assert labels(comparison) == ["resnet56/resnet20 [a]", "resnet56/resnet20 [b]"]
    assert comparison.differing == {
        "a": {"teacher checkpoint": "resnet56-hash"},
        "b": {"teacher checkpoint": "retrained"},
    }
    assert ("student", 0) in comparison.cells and ("student", 1) in comparison.cells


def test_a_teacher_trained_along_joins_its_pair():
    peer = run("DML", top1=71.0)
    peer.identity["teacher"] = None
    both = compare_runs([peer, run(), run(teacher="resnet110"), run("NONE")], [])
    assert [both.cells.get(("DML", at)) is not None for at in range(2)] == [True, False]
    alone = compare_runs([run("NONE"), peer], [])
    assert labels(alone) == ["resnet56/resnet20"] and alone.rows == ["student", "DML"]
    assert alone.teacher_top1(0) is None


def test_a_model_that_only_teaches_is_listed():
    comparison = compare_runs([run(), run("NONE", student="resnet56"), run("NONE")], [])
    assert labels(comparison) == ["resnet56/resnet20"]
    assert [teacher.student for teacher in comparison.teachers] == ["resnet56"]
    learns = compare_runs(
        [run(), run("NONE", student="resnet56"), run(teacher="resnet110", student="resnet56")], []
    )
    assert (
        learns.teachers == []
        and ("student", labels(learns).index("resnet110/resnet56")) in learns.cells
    )


def test_unfinished_runs_do_not_count():
    comparison = compare_runs(
        [run(seed=0), run(seed=1, top1=99.0, finished=False), run("DKD", finished=False)], []
    )
    assert comparison.cells["KD", 0].summary("last").n == 1
    assert len(comparison.cells["KD", 0].unfinished) == 1
    assert comparison.cells["DKD", 0].rank is None


def test_two_settings_in_one_cell_are_refused_with_both_paths():
    runs = [run(seed=0, path="first"), run(seed=0, path="second", KD__TAU=2.0)]
    with pytest.raises(
        UserError,
        match="first and second both claim the cell KD, resnet56/resnet20 .* KD.TAU 4.0 "
        "against 2.0",
    ):
        compare_runs(runs, [])
    with pytest.raises(UserError, match="--split KD.TAU"):  # the other seed does not excuse it
        compare_runs([runs[0], run(seed=1, KD__TAU=2.0)], [])


def test_split_gives_each_setting_a_row():
    runs = [run(top1=70.0), run(top1=71.0, KD__TAU=2.0), run("SDKD")]
    comparison = compare_runs(runs, [], ["KD.TAU"])
    assert comparison.rows == ["KD (TAU=2.0)", "KD (TAU=4.0)", "SDKD"]
    assert comparison.cells["KD (TAU=2.0)", 0].summary("last").mean == 71.0
    with pytest.raises(
        UserError, match="unknown method setting 'KD.TUA' in --split: did you mean 'KD.TAU'"
    ):
        compare_runs(runs, [], ["KD.TUA"])


def test_equal_runs_count_once_the_finished_one_first():
    runs = [
        run(path="a", finished=False),
        run(path="b", top1=70.5),
        run(path="c", top1=70.5, SOLVER__TRAINER="crd"),
    ]
    comparison = compare_runs(runs, [])
    assert [str(kept.path) for kept in comparison.counted] == ["b"]
    assert [(str(out.path), str(kept.path)) for out, kept in comparison.duplicates] == [
        ("a", "b"),
        ("c", "b"),
    ]


def test_rows_stand_as_papers_print_them():
    methods = ["SDKD", "ZZZ", "CRD", "FITNET", "KD", "NONE"]
    assert compare_runs([run(method) for method in methods], []).rows == [
        "student",
        "KD",
        "FitNet",
        "CRD",
        "ZZZ",
        "SDKD",
    ]


def test_no_usable_run_tells_why():
    with pytest.raises(UserError, match="no run can be used; bad: torn"):
        compare_runs([], [Rejected(Path("bad"), "torn")])


def test_letters_go_on_after_z():
    assert [_letter(number) for number in (0, 25, 26, 51, 52)] == ["a", "z", "aa", "az", "ba"]
