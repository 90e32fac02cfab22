"""The metric a table shows: what the runs' records say it means, and how its values are written."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from sdkd_plugin.errors import UserError, unknown
from sdkd_plugin.runs.read import Run
from sdkd_plugin.runs.record import ACCURACIES, HEADLINE, Metric


@dataclass(frozen=True)
class ShownMetric:
    """A metric by its name in the records, such as "top1", with its meaning there."""

    name: str
    meaning: Metric

    @property
    def headline(self) -> bool:
        """Whether it is the one that published numbers are of."""
        return self.name == HEADLINE

    @property
    def label(self) -> str:
        return self.meaning.label

    @property
    def title(self) -> str:
        """As over a table: "Top-1 accuracy (%)"."""
        return self._with_unit(self.meaning.title)

    @property
    def axis(self) -> str:
        """As beside a picture's axis: "top-1 (%)"."""
        return self._with_unit(self.meaning.label)

    @property
    def lower_is_better(self) -> bool:
        return self.meaning.better == "lower"

    @property
    def absent(self) -> str:
        """What stands in place of a value that a record does not have."""
        return f"no {self.label}"

    @property
    def notes(self) -> list[str]:
        """What a reader who takes more for better must be told."""
        said = f"{self.label}: lower is better; a negative gain or difference is an improvement"
        return [said] if self.lower_is_better else []

    def measured(self, run: Run) -> bool:
        """Whether a run is finished and its record has the metric; an older version's may not."""
        return run.result is not None and self.name in run.result.metrics

    def show(self, value: float) -> str:
        return self.meaning.show(value)

    def signed(self, value: float) -> str:
        """A difference, with its sign also where it is positive."""
        return f"{value:+.{self.meaning.decimals}f}"

    def amount(self, value: float) -> str:
        """With the unit: "71.00 %"."""
        return f"{self.show(value)} {self.meaning.unit}".rstrip()

    def best(self, values: Iterable[float]) -> float:
        return min(values) if self.lower_is_better else max(values)

    def rank(self, value: float, rivals: Collection[float]) -> int:
        """1 + how many of `rivals` are better; equal ones share a rank."""
        if self.lower_is_better:
            return 1 + sum(rival < value for rival in rivals)
        return 1 + sum(rival > value for rival in rivals)

    def _with_unit(self, words: str) -> str:
        return f"{words} ({self.meaning.unit})" if self.meaning.unit else words


def find_metric(runs: Sequence[Run], name: str) -> ShownMetric:
    """The metric called `name`, as the runs' records explain it.

    Raises:
        UserError: no record has it, or two give it another unit or direction, so that their
            values cannot be compared.
    """
    recorded = [run for run in runs if run.result is not None]
    known = {HEADLINE}.union(*(run.record.metrics for run in recorded))
    if name not in known:
        raise unknown("metric", name, known, "--metric")

    holders = [run for run in recorded if name in run.record.metrics]
    if not holders:  # all are unfinished: the headline is what they will have
        return ShownMetric(name, ACCURACIES[HEADLINE])
    first = holders[0]
    meaning = first.record.metrics[name]
    for run in holders:
        own = run.record.metrics[name]
        if (own.unit, own.better) != (meaning.unit, meaning.better):
            raise UserError(
                f"metric {name} is in {meaning.unit!r}, better {meaning.better}, in {first.path} "
                f"but in {own.unit!r}, better {own.better}, in {run.path}; leave one out"
            )
    return ShownMetric(name, meaning)
