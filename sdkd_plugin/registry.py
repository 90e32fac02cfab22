"""Names to implementations: methods, models, data sets and formats register themselves here by
decorator, the package's own and those of plugins alike.
"""

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from sdkd_plugin.errors import TakenError, unknown
from sdkd_plugin.plugins import load_entry_points


@dataclass(frozen=True)
class Entry:
    """One registered implementation and what it declared about itself."""

    name: str
    build: Any  # a class or function; what it must offer depends on the registry
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """Where the implementation stands, as file:line."""
        build = self.build.func if isinstance(self.build, functools.partial) else self.build
        try:
            return f"{inspect.getsourcefile(build)}:{inspect.getsourcelines(build)[1]}"
        except (OSError, TypeError):  # typed at a prompt, or no Python
            return repr(self.build)


class Registry:
    """A dict of entries that refuses duplicates and names the nearest entry when one is missing."""

    def __init__(self, kind: str, where: str, package: str):
        self.kind, self.where, self.package = kind, where, package
        self._entries: dict[str, Entry] = {}
        self._sources: dict[str, Callable[[str], Entry]] = {}
        self._imported = False

    def register(self, name: str, **info: Any) -> Callable[[Callable], Callable]:
        """Returns a decorator that files a class or function under `name`; `info` is kept beside
        it.

        Raises:
            TakenError: the name is taken; both places are named.
        """

        def add(build: Callable) -> Callable:
            entry = Entry(name, build, info)
            if name in self._entries:
                raise TakenError(
                    f"{self.kind} {name!r} is registered twice: {self._entries[name].place} and "
                    f"{entry.place}"
                )
            self._entries[name] = entry
            return build

        return add

    def source(self, prefix: str) -> Callable[[Callable[[str], Entry]], Callable[[str], Entry]]:
        """Returns a decorator for a function that finds the entry of any name written as
        "prefix:name".
        """

        def add(find: Callable[[str], Entry]) -> Callable[[str], Entry]:
            self._sources[prefix] = find
            return find

        return add

    def __getitem__(self, name: str) -> Entry:
        """`find` of what the registry's own config key says."""
        return self.find(name, self.where)

    def find(self, name: str, where: str) -> Entry:
        """The entry that is registered under `name`, or that a source has for it.

        Args:
            where: the name was given, for the message.
        Raises:
            UserError: there is none; the nearest known name is told.
        """
        self.load()
        prefix, _, rest = name.partition(":")
        if rest and prefix in self._sources:
            return self._sources[prefix](rest)
        if name not in self._entries:
            known = [*self._entries, *(f"{prefix}:NAME" for prefix in self._sources)]
            raise unknown(self.kind, name, known, where)
        return self._entries[name]

    def __iter__(self) -> Iterator[Entry]:
        self.load()
        return iter([self._entries[name] for name in sorted(self._entries)])

    def load(self) -> None:
        """Imports every module of the registry's package, so that each file registers itself, then
        the plugins of installed distributions.
        """
        if not self._imported:  # to look at the folder again takes a millisecond for each name
            package: ModuleType = importlib.import_module(self.package)
            for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
                importlib.import_module(module.name)
            self._imported = True
        load_entry_points()


METHODS = Registry("method", "DISTILLER.TYPE", "sdkd_plugin.distillers")
MODELS = Registry("model", "DISTILLER.TEACHER or DISTILLER.STUDENT", "sdkd_plugin.models")
DATASETS = Registry("data set", "DATASET.TYPE", "sdkd_plugin.data")
FORMATS = Registry("format", "--format", "sdkd_plugin.table.formats")
