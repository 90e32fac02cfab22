"""What a config key may hold: small objects that check a value and say in a few words what they
allow.

They stand beside the defaults, in defaults.py and in each method's file; `check_config` asks them
before data or a teacher are touched, and the methods' cards print their texts.
"""

import math
import reprlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from sdkd_plugin.errors import UserError, shown, unknown


class Allowed(ABC):
    """Some set of values; `str` of it is the text that errors and cards show."""

    @abstractmethod
    def admits(self, value: Any) -> bool:
        """Whether the value is in the set."""

    def check(self, key: str, value: Any) -> None:
        """Raises UserError, naming key, value and what is allowed, unless the value is allowed."""
        if not self.admits(value):
            raise UserError(f"{key} is {shown(value, str)}; allowed: {self}")


@dataclass(frozen=True)
class Anything(Allowed):
    """Every value of the default's type, which is all that is asked of switches and free text."""

    def __str__(self) -> str:
        return "any of its type"

    def admits(self, value: Any) -> bool:
        return True


@dataclass(frozen=True)
class OneOf(Allowed):
    """One of some names.

    Args:
        names: all of them, in the order in which they are shown.
        kind: what a name is called in the error for an unknown one.
    """

    names: tuple[str, ...]
    kind: str = "value"

    def __str__(self) -> str:
        return ", ".join(self.names)

    def admits(self, value: Any) -> bool:
        return value in self.names

    def check(self, key: str, value: Any) -> None:
        if not self.admits(value):
            raise unknown(self.kind, value, self.names, key)


@dataclass(frozen=True)
class FolderName(Allowed):
    """What becomes a folder below LOG.PREFIX, or folders, as `project/part`: nothing that leads out
    of it, and nothing that a terminal, a table or another system would trip over.
    """

    longest: int = 240  # bytes of a part, of the 255 that a file system allows; a hash may follow

    def __str__(self) -> str:
        return (
            f"a name of printable characters, at most {self.longest} bytes, or several joined by "
            "/, none of them .. and the first not empty"
        )

    def admits(self, value: Any) -> bool:
        if not value.isprintable():
            return False
        parts = value.replace("\\", "/").split("/")
        fit = all(len(part.encode()) <= self.longest for part in parts)
        return fit and ".." not in parts and (len(parts) == 1 or parts[0] != "")

    def check(self, key: str, value: Any) -> None:
        if not self.admits(value):
            raise UserError(f"{key} is {reprlib.repr(value)}; allowed: {self}")


@dataclass(frozen=True)
class FilePath(Allowed):
    """A path, which may lead anywhere: what the system can open and a log can print."""

    def __str__(self) -> str:
        return "a path of printable characters"

    def admits(self, value: Any) -> bool:
        # bytes that are no UTF-8 are halves of surrogates in Python, and a path may have them
        return "".join(part for part in value if not "\udc80" <= part <= "\udcff").isprintable()

    def check(self, key: str, value: Any) -> None:
        if not self.admits(value):
            raise UserError(f"{key} is {reprlib.repr(value)}; allowed: {self}")


@dataclass(frozen=True)
class Above(Allowed):
    """Finite numbers above `low`."""

    low: float

    def __str__(self) -> str:
        return f"above {self.low}"

    def admits(self, value: Any) -> bool:
        return is_finite(value) and value > self.low


@dataclass(frozen=True)
class AtLeast(Allowed):
    """`low` and every finite number above it."""

    low: float

    def __str__(self) -> str:
        return f"{self.low} or more"

    def admits(self, value: Any) -> bool:
        return is_finite(value) and value >= self.low


@dataclass(frozen=True)
class Between(Allowed):
    """Finite numbers from `low` to `high`.

    Args:
        low: the smallest.
        high: the largest; None: there is none.
        without_low, without_high: whether this end itself is left out.
    """

    low: float
    high: float | None = None
    without_low: bool = False
    without_high: bool = False

    def __str__(self) -> str:
        start = f"{'above' if self.without_low else 'from'} {self.low}"
        end = "any" if self.high is None else self.high
        return f"{start} to {'below ' if self.without_high else ''}{end}"

    def admits(self, value: Any) -> bool:
        if not is_finite(value) or value < self.low:
            return False
        if self.high is not None and value > self.high:
            return False
        left_out = [self.low] * self.without_low + [self.high] * self.without_high
        return value not in left_out


@dataclass(frozen=True)
class Odd(Allowed):
    """Odd whole numbers from 1."""

    def __str__(self) -> str:
        return "odd numbers from 1"

    def admits(self, value: Any) -> bool:
        return is_finite(value) and value > 0 and value % 2 == 1


@dataclass(frozen=True)
class SomeOf(Allowed):
    """A list of some of these names, each at most once."""

    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"a list of {', '.join(self.names)}, each at most once"

    def admits(self, value: Any) -> bool:
        known = all(isinstance(name, str) and name in self.names for name in value)
        return known and len(set(value)) == len(value)


@dataclass(frozen=True)
class Numbers(Allowed):
    """A list of finite numbers.

    Args:
        text: what they are, for errors and cards.
        each: what every one of them must be, too; None: nothing more.
        length: how many; None: as many as one likes.
        whole: whether 1.0 is refused where 1 is meant.
        ascending: whether each must be at least as large as the one before.
        different: whether a number may stand there only once.
        optional: whether the list may be empty, whatever `length` says.
    """

    text: str
    each: Allowed | None = None
    length: int | None = None
    whole: bool = False
    ascending: bool = False
    different: bool = False
    optional: bool = False

    def __str__(self) -> str:
        return self.text

    def admits(self, value: Any) -> bool:
        if self.optional and not value:
            return True
        if not all(is_finite(number) for number in value):
            return False
        if self.each is not None and not all(self.each.admits(number) for number in value):
            return False
        if self.length is not None and len(value) != self.length:
            return False
        if self.whole and not all(isinstance(number, int) for number in value):
            return False
        if self.ascending and sorted(value) != list(value):
            return False
        return not self.different or len(set(value)) == len(value)


def is_text(text: str) -> bool:
    """Whether a file could hold this text and a file's name all its characters: it is not with a
    NUL, nor with a surrogate, half a character, which has no bytes in UTF-8.
    """
    return not any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in text)


def is_finite(value: Any) -> bool:
    """Whether this is a number, neither NaN nor infinite; True and False are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, int) or math.isfinite(value)
