"""What a run's files may hold, said value by value: anybody may have written a folder, and what no
run can have written must not reach a table. Torch is not needed here.
"""

import reprlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from sdkd_plugin.errors import UserError
from sdkd_plugin.printable import printable

LARGEST = 2.0**63  # of any number that a run measures or counts
LONGEST = 200  # characters of a name; a folder's has at most 255 bytes

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 80

Test = Callable[[Any], bool]


def shown(value: Any) -> str:
    """A value as an error names it: on one line, and short however long it is."""
    return printable(_short.repr(value))


def require(test: Test, what: str, name: str, value: Any) -> None:
    """Raises UserError unless the value passes the test.

    Args:
        what: what it must be, in words.
        name: the field and its file.
    """
    if not test(value):
        raise UserError(f"{printable(name)} is {shown(value)}; it must be {what}")


def is_number(value: Any) -> bool:
    """A finite number of a size that occurs; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def is_size(value: Any) -> bool:
    """A number from 0."""
    return is_number(value) and value >= 0


def is_percentage(value: Any) -> bool:
    """A number from 0 to 100."""
    return is_number(value) and 0 <= value <= 100


def is_count(value: Any) -> bool:
    """A whole number from 0."""
    return type(value) is int and 0 <= value <= LARGEST


def is_positive(value: Any) -> bool:
    """A whole number from 1."""
    return is_count(value) and value > 0


def is_name(value: Any) -> bool:
    """Text that a method, model or data set may be called by."""
    return isinstance(value, str) and 0 < len(value) <= LONGEST and _is_whole(value)


def is_name_or_none(value: Any) -> bool:
    """A name, or None."""
    return value is None or is_name(value)


def is_object(value: Any) -> bool:
    """A json object."""
    return isinstance(value, dict)


def is_flat(value: Any) -> bool:
    """What an identity's key may hold: a plain value, or a list of such."""
    if isinstance(value, list):
        return all(not isinstance(each, list) and is_flat(each) for each in value)
    if isinstance(value, str):
        return _is_whole(value)
    # a number of 400 digits is none that can be compared with a float
    return value is None or (isinstance(value, int | float) and abs(value) <= 1e300)


def check_identity(identity: Mapping[str, Any]) -> None:
    """Raises UserError for an identity that no run can have, or that lacks what a table needs."""
    needed: dict[str, Test] = {
        "DISTILLER.TYPE": is_name,
        "DISTILLER.STUDENT": is_name,
        "SOLVER.SEED": is_count,
        "SOLVER.EPOCHS": is_positive,
        "DATASET.VAL_FRACTION": lambda value: is_number(value) and 0 <= value < 1,
        "data": is_name,
    }
    wrong = [key for key, test in needed.items() if not test(identity.get(key))]
    wrong += [
        key
        for key in ("teacher", "DISTILLER.TEACHER", "host")
        if not is_name_or_none(identity.get(key, 0 if key == "teacher" else None))
    ]
    if wrong:
        raise UserError(f"identity lacks or has no valid {', '.join(wrong)}")
    named = _are_names(tuple(identity))
    for key, value in identity.items():
        if not (named and is_flat(value)):  # asked first: it is asked a million times
            require(is_name, "a name", "a key of the identity", key)
            require(is_flat, "a plain value or a list", f"{key} in the identity", value)


@lru_cache  # many runs have the same keys
def _are_names(keys: tuple[Any, ...]) -> bool:
    return all(map(is_name, keys))


def check_environment(environment: Mapping[str, Any]) -> None:
    """Raises UserError where what a table shows of an environment is of another kind."""
    tests: dict[str, tuple[Test, str]] = {
        "command": (_is_words, "a list of words"),
        "versions": (_is_text_by_name, "text by name"),
        "device": (_is_text, "text"),
        "threads": (is_positive, "a whole number from 1"),
        "commit": (_is_text, "text"),
        "uncommitted_changes": (lambda value: isinstance(value, bool), "true or false"),
        "plugins": (_are_plugins, "modules, each with its name and its hash"),
    }
    for key, (test, what) in tests.items():
        if environment.get(key) is not None:
            require(test, what, f"environment.{key}", environment[key])


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_words(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _are_plugins(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_plugin, value))


def _is_plugin(value: Any) -> bool:
    if not isinstance(value, dict) or not is_name(value.get("module")):
        return False
    given = value.get("given")  # a path may be long
    return is_name_or_none(value.get("sha256", 0)) and (given is None or _is_text(given))


def _is_text_by_name(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


def _is_whole(text: str) -> bool:
    """Whether text can be written into a file: no NUL, and no half of a surrogate pair."""
    return "\0" not in text and (text.isascii() or not any(map(_is_half, text)))


def _is_half(letter: str) -> bool:
    return "\ud800" <= letter <= "\udfff"
