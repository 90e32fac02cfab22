"""The one exception for everything a user can cause."""

import difflib
from collections.abc import Callable, Iterable

SHOWN = 200  # characters of a value in an error


class UserError(ValueError):
    """Says what was wrong, the value, the allowed ones and where to fix it; the command line prints
    it and exits 2.
    """


class TakenError(UserError, KeyError):
    """A name that something else is registered under; a KeyError, too, as of any dict."""

    __str__ = UserError.__str__  # KeyError's would put the message in quotes


def shown(value: object, text: Callable[[object], str] = repr) -> str:
    """What a user gave, cut to SHOWN characters: an error is a line that can be read."""
    said = text(value)
    return said if len(said) <= SHOWN else f"{said[: SHOWN - 3]}..."


def unknown(kind: str, name: object, known: Iterable[str], where: str) -> UserError:
    """Builds the error for a name that nobody registered, with the nearest known name first.

    Args:
        kind: what the name was meant to be, such as "model".
        name: the name the user gave.
        known: every name that would have been accepted.
        where: the config key or argument to change.
    """
    known = sorted(known)
    folded = {candidate.lower(): candidate for candidate in reversed(known)}
    near = difflib.get_close_matches(str(name).lower(), list(folded), n=1, cutoff=0.5)
    hint = f"did you mean {folded[near[0]]!r}? " if near else ""
    return UserError(f"unknown {kind} {shown(name)} in {where}: {hint}known: {', '.join(known)}")
