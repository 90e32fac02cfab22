"""What `examine` and `attention` left behind: csv files, which may be anybody's."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from sdkd_plugin.errors import UserError, shown
from sdkd_plugin.files import read_text

STUDIES = "studies"  # in a run's folder
PER_CLASS = "per_class.csv"
CALIBRATION = "calibration.csv"
FIDELITY = "fidelity.csv"
ATTENTION = "attention"  # a folder beside the runs, and the name of its two files

LARGEST = 2**20  # bytes of a file
ROWS = 5000

Row = dict[str, str]


@dataclass
class Reader:
    """Reads looks, and keeps what is wrong with those that cannot be read."""

    faults: list[str] = field(default_factory=list)

    def read(self, path: Path, numbers: Sequence[str]) -> list[Row]:
        """The rows of a file; none where there is no such file, or where it cannot be read.

        Args:
            numbers: columns that it must have, of numbers or nothing.
        """
        if not path.exists():
            return []
        try:
            return _rows(path, numbers)
        except UserError as error:
            self.faults.append(str(error))
            return []


def number(row: Row, name: str) -> float | None:
    """What stands in a column of numbers; None where nothing or nan does."""
    value = float(row[name] or "nan")
    return None if math.isnan(value) else value


def _rows(path: Path, numbers: Sequence[str]) -> list[Row]:
    try:
        reader = csv.DictReader(io.StringIO(read_text(path, LARGEST)), strict=True)
        rows = list(islice(reader, ROWS + 1))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {error}; make it again") from error
    head = reader.fieldnames or []
    lacking = [name for name in numbers if name not in head]
    if lacking:
        raise UserError(f"{path} has no column {', '.join(lacking)}; make it again")
    if len(rows) > ROWS:
        raise UserError(f"{path} has more than {ROWS} rows; make it again")
    for line, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise UserError(f"{path}, line {line}, is not as wide as its head; make it again")
        for name in numbers:
            if row[name] and not _is_number(row[name]):
                raise UserError(
                    f"{path}, line {line}: {name} is {shown(row[name])}, not a number; make it "
                    "again"
                )
    return rows


def _is_number(text: str) -> bool:
    try:
        return not math.isinf(float(text))
    except ValueError:
        return False
