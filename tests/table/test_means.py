import json
import re

from support.tables import table


def test_every_mark_is_explained(mixed_runs):
    shown = table(mixed_runs, "terminal", versus="SDKD")
    for mark in "†‡§¶":
        assert re.search(rf"^{mark} ", shown, re.MULTILINE)
    assert "◊" not in shown and "‖" not in shown


def test_best_epoch_stands_beside_the_last_only_when_asked(mixed_runs):
    assert "80.00" not in table(mixed_runs)
    lines = table(mixed_runs, best_epoch=True).splitlines()
    assert lines[2] == "| method | resnet56/resnet20 | resnet56/resnet20 best test epoch |"
    assert lines[7] == "| SDKD | **73.50 (1)†‡** | **80.00 (1)†‡** |"


def test_columns_of_different_protocols_are_lettered(make_run, tmp_path):
    make_run("KD", 0, [70.0])
    make_run("KD", 1, [71.0], data="half", overrides=["DATASET.SUBSET", "0.5"])
    shown = table(tmp_path)
    assert "| method | resnet56/resnet20 [a] | resnet56/resnet20 [b] |" in shown
    assert "- [a] DATASET.SUBSET 0.5, data half" in shown
    assert "- [b] DATASET.SUBSET 1.0, data 123fff178151842b" in shown
    published = [line for line in shown.splitlines() if "70.66" in line]
    assert len(published) == 1 and "[b]" in published[0]  # none beside the half


def test_validation_scores_are_named(make_run, tmp_path):
    make_run("KD", 0, [70.0], ["DATASET.VAL_FRACTION", "0.1"], data="held")
    shown = table(tmp_path, best_epoch=True)
    assert "on the val images" in shown and "best val epoch" in shown and "70.66" not in shown


def test_other_imported_code_is_named_with_its_rows(make_run, tmp_path):
    """Of a run whose code changed on the way both; none where all have the same."""

    def record(run, *digests: str) -> None:
        path = run / "result.json"
        tree = json.loads(path.read_text())
        tree["environment"]["plugins"] = [
            {"module": "mine", "given": "mine.py", "sha256": each * 16} for each in digests
        ]
        path.write_text(json.dumps(tree))

    record(make_run("KD", 0, [70.0]), "a")
    record(make_run("KD", 1, [70.0]), "a")
    make_run("NONE", 0, [60.0])  # without it
    assert "imported code" not in table(tmp_path)
    record(make_run("CRD", 0, [71.0]), "b")
    record(make_run("DKD", 0, [71.0]), "a", "b")
    assert (
        "- imported code differs between runs: mine aaaaaaaa in DKD and KD, bbbbbbbb in CRD and DKD"
    ) in table(tmp_path)
