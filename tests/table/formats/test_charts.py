import re

import pytest
from support.tables import table

from sdkd_plugin.table.formats.charts import ticks


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


def test_an_axis_of_percentages_spans_a_percent_and_any_other_what_there_is(make_run, tmp_path):
    scores = {"loss": [1.01, 1.0]}
    make_run("KD", 0, [70.01, 70.0], scores=scores)

    def span(metric: str) -> float:
        page = table(tmp_path, "html", metric=metric)
        curves = page[page.index("<svg") :]
        marks = [float(mark) for mark in re.findall(r'text-anchor="end">([\d.]+)<', curves)]
        return max(marks) - min(marks)

    assert span("top1") >= 1.0
    assert span("loss") == pytest.approx(0.01)
