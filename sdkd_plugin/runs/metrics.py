"""metrics.csv, a row for each epoch, read by columns; torch is not needed here."""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
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
        last: by metric, its value in the last row; None if that is not scored.
        scores: by metric, a value for each row; empty unless asked for.
    """

    epochs: int
    seconds: float
    last: Mapping[str, float | None]
    scores: Mapping[str, Sequence[float | None]]


NOTHING = Metrics(0, 0.0, {}, {})


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
            for name, values in read_metrics(self._folder, curves=True).scores.items()
        }

    def __getitem__(self, metric: str) -> Points:
        return self._points[metric]

    def __iter__(self) -> Iterator[str]:
        return iter(self._points)

    def __len__(self) -> int:
        return len(self._points)


def read_metrics(folder: Path, curves: bool = False) -> Metrics:
    """The epochs of a run; none where there is no file, as of a run killed in its first one.

    Args:
        curves: also read, and so check, the scores of every row; most of the work.
    Raises:
        UserError: the file is torn, foreign, no file, or skips an epoch.
    """
    try:
        return _of_columns(*_split(read_text(folder / FILE)), curves)
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

    # several times as fast as csv. A row that is too long hides one that is too short only where
    # the column of epochs then has a gap.
    first, _, body = text.removesuffix("\n").partition("\n")
    head = first.split(",")
    flat = body.replace("\n", ",").split(",") if body else []
    if len(flat) != len(head) * (body.count("\n") + 1 if body else 0):
        raise ValueError("a row has more or fewer values than the head")
    return head, [flat[place :: len(head)] for place in range(len(head))]


def _of_columns(head: list[str], values: list[Column], curves: bool) -> Metrics:
    names = [SCHEMA_1_COLUMNS.get(name, name) for name in head]
    columns = dict(zip(names, values, strict=True))
    timed: tuple[str, ...] = SECONDS
    headline: tuple[str, ...] = (f"test_{HEADLINE}",)
    if not any(name.startswith("test_") for name in columns):
        timed, headline = SECONDS[:1], ()  # a first phase, which scores nothing, is all there is
    for name in ("phase", "epoch", *timed, *headline):
        if name not in columns:
            raise ValueError(f"no column {name}")

    if not columns["epoch"]:
        return NOTHING
    _check_epochs(columns["phase"], columns["epoch"])
    seconds = sum(sum(filter(None, _numbers(name, columns[name]))) for name in timed)
    scores = {
        name.removeprefix("test_"): _numbers(name, values if curves else values[-1:])
        for name, values in columns.items()
        if name.startswith("test_") and name not in SECONDS
    }
    last = {name: values[-1] for name, values in scores.items()}
    return Metrics(len(columns["epoch"]), seconds, last, scores if curves else {})


@cache
def _counted(epochs: int) -> list[str]:
    return [str(epoch) for epoch in range(1, epochs + 1)]


def _check_epochs(phases: Column, epochs: Column) -> None:
    # one phase after the other, each from 1; the usual case in one comparison
    if len(set(phases)) == 1 and epochs == _counted(len(epochs)):
        return
    before, wanted = None, 1
    for phase, epoch in zip(phases, epochs, strict=True):
        wanted = wanted + 1 if phase == before else 1
        if int(epoch) != wanted:
            raise UserError(f"{FILE} skips to epoch {shown(int(epoch))} of phase {shown(phase)}")
        before = phase


def _numbers(name: str, texts: Column) -> Sequence[float | None]:
    """A column's values; None where there is none."""
    numbers = list(map(float, filter(None, texts)))
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
