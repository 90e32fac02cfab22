"""metrics.csv, a row for each epoch, read by columns; torch is not needed here."""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sdkd_plugin.errors import UserError
from sdkd_plugin.files import read_text
from sdkd_plugin.printable import printable
from sdkd_plugin.runs.names import SCHEMA_1_COLUMNS
from sdkd_plugin.runs.record import HEADLINE
from sdkd_plugin.runs.valid import LARGEST, is_number, shown

FILE = "metrics.csv"
SECONDS = ("train_seconds", "test_seconds")

Column = Sequence[str]
Points = tuple[tuple[int, float], ...]  # (epoch, value), phases counted through


@dataclass(frozen=True)
class Metrics:
    """What is needed of metrics.csv.

    Args:
        epochs: rows, which are the complete epochs of all phases.
        seconds: of training and evaluation, all rows together.
        scores: by metric, a value for each row; None in an epoch that is not scored.
    """

    epochs: int
    seconds: float
    scores: Mapping[str, Sequence[float | None]]

    def last(self, metric: str) -> float | None:
        """A metric in the last row."""
        values = self.scores.get(metric)
        return values[-1] if values else None


NOTHING = Metrics(0, 0.0, {})


class Curves(Mapping[str, Points]):
    """A run's curves by metric, read from its folder when first asked for: only pictures want them,
    and those of ten thousand runs would not fit into memory.
    """

    def __init__(self, folder: Path):
        self._folder = folder

    @cached_property
    def _points(self) -> dict[str, Points]:
        return {
            name: tuple((n, value) for n, value in enumerate(values, 1) if value is not None)
            for name, values in read_metrics(self._folder).scores.items()
        }

    def __getitem__(self, metric: str) -> Points:
        return self._points[metric]

    def __iter__(self) -> Iterator[str]:
        return iter(self._points)

    def __len__(self) -> int:
        return len(self._points)


def read_metrics(folder: Path) -> Metrics:
    """The epochs of a run; none where there is no file, as of a run killed in its first one.

    Raises:
        UserError: the file is torn, foreign, no file, or skips an epoch.
    """
    try:
        return _of_columns(*_split(read_text(folder / FILE)))
    except FileNotFoundError:
        return NOTHING
    except OSError as error:
        raise UserError(f"{FILE} cannot be read: {error.strerror}") from error
    except UserError:
        raise
    except (ValueError, csv.Error) as error:
        raise UserError(f"{FILE} is torn or foreign ({shown(str(error))})") from error


def _split(text: str) -> tuple[list[str], list[Column]]:
    """The head, and a column for each of its names; ValueError for rows of another length."""
    if '"' in text:  # a name with a comma, which no method or metric here has
        head, *rows = csv.reader(io.StringIO(text))
        return head, list(zip(*rows, strict=True)) or [()] * len(head)

    # several times as fast as csv, which is most of what reading a run takes
    first, *lines = text.removesuffix("\n").split("\n")
    head = first.split(",")
    if any(line.count(",") != len(head) - 1 for line in lines):
        raise ValueError("a row has more or fewer values than the head")
    flat = ",".join(lines).split(",") if lines else []
    return head, [flat[place :: len(head)] for place in range(len(head))]


def _of_columns(head: list[str], values: list[Column]) -> Metrics:
    names = [SCHEMA_1_COLUMNS.get(name, name) for name in head]
    columns = dict(zip(names, values, strict=True))
    for name in ("phase", "epoch", *SECONDS, f"test_{HEADLINE}"):
        if name not in columns:
            raise ValueError(f"no column {name}")

    _check_epochs(columns["phase"], columns["epoch"])
    seconds = [value for name in SECONDS for value in _numbers(name, columns[name]) if value]
    scores = {
        name.removeprefix("test_"): _numbers(name, values)
        for name, values in columns.items()
        if name.startswith("test_") and name not in SECONDS
    }
    return Metrics(len(columns["epoch"]), sum(seconds), scores)


def _check_epochs(phases: Column, epochs: Column) -> None:
    # one phase after the other, each from 1; the usual case in one comparison
    if len(set(phases)) == 1 and list(epochs) == list(map(str, range(1, len(epochs) + 1))):
        return
    before, wanted = None, 1
    for phase, epoch in zip(phases, epochs, strict=True):
        wanted = wanted + 1 if phase == before else 1
        if int(epoch) != wanted:
            raise UserError(f"{FILE} skips to epoch {shown(int(epoch))} of phase {shown(phase)}")
        before = phase


def _numbers(name: str, texts: Column) -> Sequence[float | None]:
    """A column's values; None where there is none."""
    numbers = [float(text) for text in texts if text]
    # the sum is NaN as soon as one of them is, which no comparison tells
    if numbers and not (
        -LARGEST <= min(numbers) <= max(numbers) <= LARGEST and sum(numbers) < math.inf
    ):
        wrong = next(number for number in numbers if not is_number(number))
        raise UserError(f"{printable(name)} in {FILE} is {wrong}; it must be a number")
    if len(numbers) == len(texts):
        return numbers
    values = iter(numbers)
    return [next(values) if text else None for text in texts]
