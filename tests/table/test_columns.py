import pytest
from support.runs import bare_run

from sdkd_plugin.table.cells import compare_runs
from sdkd_plugin.table.columns import _letter


def labels(comparison) -> list[str]:
    return [column.label for column in comparison.columns]


def test_vanilla_stands_beside_every_teacher_of_its_student():
    runs = [bare_run(), bare_run(teacher="resnet110"), bare_run(student="resnet32")]
    comparison = compare_runs([*runs, bare_run("NONE", top1=69.0)], [])
    assert labels(comparison) == ["resnet56/resnet20", "resnet110/resnet20", "resnet56/resnet32"]
    assert [("student", at) in comparison.cells for at in range(3)] == [True, True, False]


def test_vanilla_under_another_schedule_is_no_baseline():
    comparison = compare_runs([bare_run(), bare_run("NONE", SOLVER__EPOCHS=10)], [])
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
    comparison = compare_runs([bare_run(seed=0), bare_run(seed=1, **change)], [])
    assert len(comparison.columns) == 2
    assert {cell.summary("last").n for cell in comparison.cells.values()} == {1}
    (key,) = (name.replace("__", ".") for name in change)
    assert [key in own for own in comparison.differing.values()] == [True, True]


def test_another_checkpoint_of_the_teacher_is_another_column():
    runs = [bare_run(seed=0), bare_run("NONE")]
    odd = bare_run(seed=1, teacher="resnet56", **{"teacher__": 0})
    comparison = compare_runs([*runs, odd], [])
    assert len(comparison.columns) == 2  # the odd key alone splits here; the hash must do so too:

    other = bare_run(seed=1, path="other")
    other.identity["teacher"] = "retrained"
    comparison = compare_runs([*runs, other], [])
    assert labels(comparison) == ["resnet56/resnet20 [a]", "resnet56/resnet20 [b]"]
    assert comparison.differing == {
        "a": {"teacher checkpoint": "resnet56-hash"},
        "b": {"teacher checkpoint": "retrained"},
    }
    assert ("student", 0) in comparison.cells and ("student", 1) in comparison.cells


def test_a_teacher_trained_along_joins_its_pair():
    peer = bare_run("DML", top1=71.0)
    peer.identity["teacher"] = None
    both = compare_runs([peer, bare_run(), bare_run(teacher="resnet110"), bare_run("NONE")], [])
    assert [both.cells.get(("DML", at)) is not None for at in range(2)] == [True, False]
    alone = compare_runs([bare_run("NONE"), peer], [])
    assert labels(alone) == ["resnet56/resnet20"] and alone.rows == ["student", "DML"]
    assert alone.teacher_score(0) is None


def test_a_model_that_only_teaches_is_listed():
    runs = [bare_run(), bare_run("NONE", student="resnet56")]
    comparison = compare_runs([*runs, bare_run("NONE")], [])
    assert labels(comparison) == ["resnet56/resnet20"]
    assert [teacher.student for teacher in comparison.teachers] == ["resnet56"]

    learns = compare_runs([*runs, bare_run(teacher="resnet110", student="resnet56")], [])
    assert learns.teachers == []
    assert ("student", labels(learns).index("resnet110/resnet56")) in learns.cells


def test_letters_go_on_after_z():
    assert [_letter(number) for number in (0, 25, 26, 51, 52)] == ["a", "z", "aa", "az", "ba"]
