"""Any metric that the records carry, in the direction they say; nothing here knows its name."""

from dataclasses import replace

import pytest
from support.runs import METRICS, RESULT
from support.tables import table

from sdkd_plugin.__main__ import main
from sdkd_plugin.errors import UserError
from sdkd_plugin.runs.read import read_runs
from sdkd_plugin.runs.record import ACCURACIES, HEADLINE, Metric
from sdkd_plugin.table.cells import compare_runs
from sdkd_plugin.table.metric import ShownMetric, find_metric

FLIPS = Metric("flips", "Predictions that flip", "", "lower", decimals=0)
SPREAD = Metric("spread", "Spread of the margins", "logits", "higher", decimals=3)


@pytest.fixture
def losses(make_run, tmp_path):
    """The student's losses 1, 2, 3; KD's are lower by 0.5, 0.25 and 0.75, with a lower top-1."""
    for seed, lower in enumerate((0.5, 0.25, 0.75)):
        make_run("NONE", seed, [70.0], scores={"loss": [1.0 + seed]})
        make_run("KD", seed, [60.0], scores={"loss": [1.0 + seed - lower]})
    return tmp_path


def test_the_lowest_loss_ranks_first_and_is_marked(losses):
    comparison = compare_runs(*read_runs([losses]), metric="loss")
    kd = comparison.cells["KD", 0]
    assert (kd.rank, comparison.cells["student", 0].rank) == (1, 2)
    assert (kd.summary("last").mean, kd.gain) == (1.5, -0.5)
    assert comparison.teacher_score(0) == 1.2

    shown = table(losses, metric="loss")
    assert "| student | 2.0000 ± 1.0000 (3) |" in shown
    # 0.5, 1.75, 2.25: deviations -1, 0.25, 0.75, so sd = sqrt(1.625 / 2)
    assert "| KD | **1.5000 ± 0.9014 (3)** |" in shown
    assert "| KD | 3 | **1.5000 ± 0.9014 (3)** | 1 | -0.5000 | 0.5 |" in shown
    assert "### Cross entropy (nats) on the test images, last epoch: mean" in shown
    assert "- loss: lower is better; a negative gain or difference is an improvement" in shown


def test_the_same_runs_rank_the_other_way_by_accuracy(losses):
    shown = table(losses)
    assert "| student | **70.00 ± 0.00 (3)** |" in shown and "| KD | 60.00 ± 0.00 (3) |" in shown
    assert "lower is better" not in shown


def test_paired_tests_are_of_the_metric(losses):
    shown = table(losses, metric="loss", versus="KD")
    # -0.5, -0.25, -0.75: all of one sign, 2 of 8 patterns; sd 0.25, t quantile 4.302653
    assert "| student | 3 | -0.5000 | -1.1210 to +0.1210 | 0.2500 |" in shown


def test_published_numbers_stand_beside_top1_alone(losses, capsys):
    assert "70.66" in table(losses)
    for name in ("loss", "top5", "ece"):
        shown = table(losses, metric=name)
        assert "70.66" not in shown and "published" not in shown
    arguments = ["table", str(losses), "--metric", "ece", "--published", "poster"]
    assert main(arguments) == 2
    assert "--published poster has no ece, only top1" in capsys.readouterr().err


def test_a_metric_that_nobody_here_knows_needs_no_change(make_run, tmp_path, capsys):
    metrics = {**METRICS, "flips": FLIPS, "spread": SPREAD}
    for method, flips, spread in (("KD", 12.0, 0.25), ("DKD", 7.0, 0.125)):
        scores = {"flips": [20.0, flips], "spread": [0.0, spread]}
        make_run(method, 0, [60.0, 70.0], metrics=metrics, scores=scores)

    assert main(["table", str(tmp_path), "--metric", "flips", "--format", "md"]) == 0
    shown = capsys.readouterr().out
    assert "### Predictions that flip on the test images, last epoch" in shown
    assert "| KD | 12 (1)† |" in shown and "| DKD | **7 (1)†** |" in shown
    assert "| pair | method | n | flips | rank |" in shown

    for style in ("terminal", "latex", "csv", "html"):
        assert main(["table", str(tmp_path), "--metric", "spread", "--format", style]) == 0
        assert "0.25" in capsys.readouterr().out
    shown = table(tmp_path, metric="spread")
    assert "| KD | **0.250 (1)†** |" in shown and "Spread of the margins (logits)" in shown
    assert "spread (logits) over epoch" in table(tmp_path, "html", metric="spread")


def test_best_epoch_is_said_to_be_chosen_by_top1(make_run, tmp_path):
    make_run("KD", 0, [71.0, 70.0], scores={"loss": [1.5, 1.25]})
    lines = table(tmp_path, metric="loss", best_epoch=True).splitlines()
    assert lines[2].endswith("| resnet56/resnet20 best test epoch by top-1 |")
    assert "| KD | **1.2500 (1)†** | **1.5000 (1)†** |" in lines


def test_a_metric_that_no_run_has_names_those_there_are(losses, capsys):
    assert main(["table", str(losses), "--metric", "top-5"]) == 2
    told = capsys.readouterr().err
    assert "unknown metric 'top-5' in --metric: did you mean 'top5'? known: ece, loss," in told
    assert told.count("\n") == 1


def test_a_run_that_lacks_the_metric_is_told_and_does_not_count(make_run, tmp_path):
    make_run("KD", 0, [70.0])
    old = make_run("KD", 1, [71.0], metrics=ACCURACIES)
    make_run("NONE", 0, [69.0], metrics=ACCURACIES)
    shown = table(tmp_path, metric="ece")
    assert "| KD | **5.00 (1)†‖** |" in shown and "| student | unmeasured‖ |" in shown
    assert f"- unmeasured: {old}: its record has no ece; it has top1, top5" in shown
    assert "- ‖ has unmeasured runs" in shown
    page = table(tmp_path, "html", metric="ece")
    assert ">no ECE<" in page

    by_accuracy = table(tmp_path)
    assert "unmeasured" not in by_accuracy and "| KD | **70.50 ± 0.71 (2)** |" in by_accuracy


def test_of_equal_runs_the_one_with_the_metric_counts(make_run, tmp_path):
    make_run("KD", 0, [70.0], metrics=ACCURACIES, name="a")
    make_run("KD", 0, [70.0], name="b")
    shown = table(tmp_path, metric="ece")
    assert "| KD | **5.00 (1)†** |" in shown
    assert "a/seed0 (no ECE) is the same run as " in shown


def test_all_runs_unfinished_is_a_table_of_the_headline_alone(make_run, tmp_path):
    make_run("KD", 0, [70.0], finished=False)
    assert "| KD | unfinished‡ |" in table(tmp_path)
    with pytest.raises(UserError, match="unknown metric 'loss' in --metric: known: top1$"):
        table(tmp_path, metric="loss")


@pytest.mark.parametrize("change", [{"unit": "bits"}, {"better": "higher"}])
def test_one_name_for_two_metrics_is_refused_with_both_paths(make_run, tmp_path, change):
    first = make_run("KD", 0, [70.0])
    other = replace(METRICS["loss"], **change)
    second = make_run("KD", 1, [70.0], metrics={**METRICS, "loss": other})
    with pytest.raises(UserError) as caught:
        table(tmp_path, metric="loss")
    assert str(first) in str(caught.value) and str(second) in str(caught.value)
    assert "| KD |" in table(tmp_path)  # nobody asks for it


def test_another_label_or_another_number_of_decimals_is_no_other_metric(make_run, tmp_path):
    make_run("KD", 0, [70.0])
    renamed = replace(METRICS["loss"], label="CE", decimals=2)
    make_run("KD", 1, [70.0], metrics={**METRICS, "loss": renamed})
    assert "| KD | **1.0000 ± 0.0000 (2)** |" in table(tmp_path, metric="loss")


def test_values_are_written_as_the_record_says():
    loss = ShownMetric("loss", METRICS["loss"])
    assert (loss.show(0.5), loss.signed(0.5)) == ("0.5000", "+0.5000")
    assert loss.amount(0.5) == "0.5000 nats"
    assert (loss.best([2.0, 1.0]), loss.rank(1.0, [1.0, 2.0])) == (1.0, 1)
    flips = ShownMetric("flips", FLIPS)
    assert (flips.amount(3.0), flips.title, flips.axis) == ("3", "Predictions that flip", "flips")
    top1 = ShownMetric(HEADLINE, ACCURACIES[HEADLINE])
    assert (top1.best([2.0, 1.0]), top1.rank(1.0, [1.0, 2.0])) == (2.0, 2)
    assert (top1.title, top1.axis, top1.notes) == ("Top-1 accuracy (%)", "top-1 (%)", [])


def test_the_meaning_is_the_records(make_run, tmp_path):
    make_run("KD", 0, [70.0])
    runs, _ = read_runs([tmp_path])
    assert find_metric(runs, "ece") == ShownMetric("ece", RESULT.metrics["ece"])
