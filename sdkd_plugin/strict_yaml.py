"""Reads the yaml files that users write: configs and sweeps. What a file says is what is meant, or
it is refused with the line: no key twice, no tags, no file that grows or nests without bound.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from sdkd_plugin.allowed import is_text
from sdkd_plugin.errors import UserError, shown
from sdkd_plugin.files import require_regular

# Far beyond any file that a person or a script of theirs writes; what is read within them takes
# about a second.
MAX_BYTES = 2**20
MAX_VALUES = 50_000  # aliases count with all that they stand for
MAX_DEPTH = 32
MAX_DIGITS = 64  # characters of a number, date and the like

TEXT = "tag:yaml.org,2002:str"
DATE = "tag:yaml.org,2002:timestamp"
MERGE = "tag:yaml.org,2002:merge"


def read_yaml(path: str | Path, kind: str, advice: str) -> dict[Any, Any]:
    """The tree in a yaml file: dicts, lists, text, numbers, True, False and None. Dates are text.

    Args:
        path: the file.
        kind: what it is called in errors, such as "config file".
        advice: what to do where it cannot be read.
    Raises:
        UserError: no regular file, unreadable, larger than MAX_BYTES, no UTF-8, no valid yaml, more
            than one document, no tree of keys, a key twice (both lines are named), a key that is
            no single value, a tag, more than MAX_VALUES values, nested deeper than MAX_DEPTH, a
            number of more than MAX_DIGITS characters, text that no file name could hold.
    """
    named = f"{kind} {shown(str(path))}"
    try:
        # before it is opened: to open a FIFO waits for a writer, for ever if there is none
        require_regular(path)
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise UserError(f"{named} has more than {MAX_BYTES:,} bytes, which no such file needs")
        tree = _Document(content.decode("utf-8-sig")).value()
    except OSError as error:
        raise UserError(f"{named} cannot be read: {error.strerror}; {advice}") from error
    except UserError:
        raise
    # ValueError: no UTF-8, a NUL in the path, or what _Document refuses
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{named} is no valid yaml: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise UserError(f"{named} holds {type(tree).__name__}, not a tree of keys")
    return tree


class _Document:
    """The values of one yaml text, built from the parser's events: they come one by one, so that
    nothing is done for what lies behind the first fault.
    """

    def __init__(self, text: str):
        fast = yaml.__with_libyaml__
        self.loader: Any = yaml.CSafeLoader(text) if fast else yaml.SafeLoader(text)
        self.values = 0
        self.anchors: dict[str, tuple[Any, int]] = {}  # value, and how many values it holds

    def value(self) -> Any:
        """The only document's value; None for an empty file. Raises ValueError and YAMLError."""
        self.loader.get_event()  # the stream's start
        if self.loader.check_event(yaml.StreamEndEvent):
            return None
        self.loader.get_event()
        value = self._next(1)
        self.loader.get_event()
        if not self.loader.check_event(yaml.StreamEndEvent):
            line = _line(self.loader.peek_event())
            raise ValueError(f"a second document begins in line {line}; allowed: one")
        return value

    def _next(self, depth: int) -> Any:
        event = self.loader.get_event()
        line = _line(event)
        if depth > MAX_DEPTH:
            raise ValueError(f"line {line} is nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.AliasEvent):
            # what is still being read is no value yet, so that nothing can hold itself
            if event.anchor not in self.anchors:
                raise ValueError(
                    f"alias {shown(event.anchor)} in line {line} stands for nothing before it"
                )
            value, size = self.anchors[event.anchor]
            self._count(size, line)
            return value

        tag = getattr(event, "tag", None)
        if tag not in (None, "!", TEXT):
            raise ValueError(f"line {line} has the tag {shown(tag)}; tags are not read here")
        before = self.values
        self._count(1, line)
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = [self._next(depth + 1) for _ in self._until(yaml.SequenceEndEvent)]
        else:
            value = self._mapping(depth)
        if event.anchor:
            self.anchors[event.anchor] = (value, self.values - before)
        return value

    def _until(self, end: type) -> Iterator[None]:
        while not self.loader.check_event(end):
            yield
        self.loader.get_event()

    def _count(self, values: int, line: int) -> None:
        self.values += values
        if self.values > MAX_VALUES:
            raise ValueError(
                f"up to line {line}, aliases counted with what they stand for, there are more than "
                f"{MAX_VALUES:,} values"
            )

    def _scalar(self, event: yaml.ScalarEvent) -> Any:
        tag = TEXT if event.tag == TEXT else self._tag(event)
        if tag in (TEXT, DATE):  # a date is no setting; NAME: 2024-01-01 is meant as it is written
            if not is_text(event.value):
                raise ValueError(
                    f"the text in line {_line(event)} holds NUL or half a character (a surrogate)"
                )
            return event.value
        if len(event.value) > MAX_DIGITS:
            raise ValueError(
                f"the number in line {_line(event)} has {len(event.value)} characters; allowed: up "
                f"to {MAX_DIGITS}"
            )
        try:
            return self.loader.construct_object(yaml.ScalarNode(tag, event.value))
        except (ValueError, OverflowError) as error:  # 0x_ is none; 1:1:1.5 counts in base 60
            raise ValueError(f"{event.value!r} in line {_line(event)}: {error}") from error

    def _tag(self, event: yaml.ScalarEvent) -> str:
        return self.loader.resolve(yaml.ScalarNode, event.value, event.implicit)

    def _mapping(self, depth: int) -> dict[Any, Any]:
        own: dict[Any, Any] = {}
        merged: dict[Any, Any] = {}
        lines: dict[Any, int] = {}
        for _ in self._until(yaml.MappingEndEvent):
            event = self.loader.peek_event()
            line = _line(event)
            merges = isinstance(event, yaml.ScalarEvent) and self._tag(event) == MERGE
            key = MERGE if merges else self._next(depth + 1)
            if isinstance(key, dict | list):
                raise ValueError(f"a key in line {line} is a {type(key).__name__}, no single value")
            if key in lines:
                said = "<<" if merges else shown(key)
                raise ValueError(f"{said} stands in line {lines[key]} and again in line {line}")
            lines[key] = line
            if merges:
                self.loader.get_event()
                merged = _merged(self._next(depth + 1), line)
            else:
                own[key] = self._next(depth + 1)
        return {**merged, **own}


def _merged(value: Any, line: int) -> dict[Any, Any]:
    """What `<<: value` adds to a mapping: of several, the first that has a key."""
    trees = value if isinstance(value, list) else [value]
    if not all(isinstance(tree, dict) for tree in trees):
        raise ValueError(f"<< in line {line} merges what is no mapping")
    return {key: tree[key] for tree in reversed(trees) for key in tree}


def _line(event: yaml.Event) -> int:
    assert event.start_mark is not None  # only events that are made by hand have none
    return event.start_mark.line + 1
