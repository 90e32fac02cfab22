"""Doors for code from outside: a module that registers a method, a model, a data set or a format.

It comes in by an entry point of an installed distribution (group GROUP, loaded when a registry is
first asked) or by `--import` (loaded before the command begins).
"""

import importlib
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import Distribution, distribution, entry_points, packages_distributions
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from sdkd_plugin.errors import UserError
from sdkd_plugin.files import sha256

GROUP = "sdkd_plugin.plugins"
INSTALLED = {"site-packages", "dist-packages"}  # folders whose modules have a version
STDLIB = sysconfig.get_path("stdlib")
PROGRAM = ("__main__", "__mp_main__")  # whatever runs, which nobody let in


@dataclass(frozen=True)
class Plugin:
    """A module from outside, as a run's environment.json names it.

    Args:
        module: its name.
        given: what `--import` named, or the entry point; None for what another plugin imports.
        distribution, version: of what installed it; None for a loose file.
        sha256: of its file, first 16 hex digits; None for what has no file.
    """

    module: str
    given: str | None
    distribution: str | None
    version: str | None
    sha256: str | None


@dataclass
class _Doors:
    """What this process has let in.

    Args:
        plugins: by the module's name.
        requested: what `--import` named, in that order, each once.
        opened: whether the entry points have been loaded, or are being loaded.
        failure: why they could not be; told again whenever a registry is asked.
    """

    plugins: dict[str, Plugin]
    requested: list[str]
    opened: bool = False
    failure: UserError | None = None


_doors = _Doors({}, [])


def import_plugins(names: Iterable[str]) -> None:
    """Imports what `--import` names, in that order; what is imported already is left alone.

    Args:
        names: importable names, looked for in the working directory, too, or paths of .py files,
            whose folders are searched for what they import themselves.
    Raises:
        UserError: no such module or file, or it raises when it is imported.
    """
    for name in names:
        if name in _doors.requested:
            continue
        known = set(sys.modules)
        owner = None
        if name.endswith(".py") or "/" in name:
            module = _import_file(name)
        else:
            module = _import_name(name)
            owners = packages_distributions().get(name.partition(".")[0], ())
            owner = distribution(owners[0]) if owners else None
        _let_in(module, name, owner, known)
        _doors.requested.append(name)


def requested_imports() -> tuple[str, ...]:
    """What `--import` has named so far: a process that is to do the same work needs the same."""
    return tuple(_doors.requested)


def load_entry_points() -> None:
    """Imports the module of every entry point in GROUP, once in a process.

    Raises:
        UserError: one cannot be imported; its distribution is named.
    """
    if _doors.opened:
        if _doors.failure:
            raise _doors.failure
        return

    # before, since the modules may ask a registry themselves
    _doors.opened = True
    for entry in entry_points(group=GROUP):
        owner = entry.dist
        assert owner is not None  # those that are found in this environment have one
        source = f"entry point {entry.name!r} of distribution {owner.name} {owner.version}"
        known = set(sys.modules)
        try:
            _let_in(_guarded(entry.value, source), entry.value, owner, known)
        except UserError as error:
            _doors.failure = error
            raise


def describe_plugins() -> list[dict[str, str | None]]:
    """Every module that was let in, as plain values."""
    return [asdict(plugin) for _, plugin in sorted(_doors.plugins.items())]


def _let_in(module: ModuleType, given: str, owner: Distribution | None, known: set[str]) -> None:
    """Takes down a module, and the loose files that it imported itself: they are its code, too.

    Args:
        known: the names of the modules that were there before it.
    """
    _take_down(module, given, owner)
    for name in sorted(sys.modules.keys() - known - _doors.plugins.keys()):
        if _is_loose(name):
            _take_down(sys.modules[name], None, owner)


def _take_down(module: ModuleType, given: str | None, owner: Distribution | None) -> None:
    name = module.__name__
    file = getattr(module, "__file__", None)
    _doors.plugins[name] = Plugin(
        name,
        given,
        owner.name if owner else None,
        owner.version if owner else None,
        sha256(file) if file else None,
    )


def _is_loose(name: str) -> bool:
    """Whether a module is a file that no version names: neither Python's, nor this package's, nor
    installed.
    """
    top = name.partition(".")[0]
    if top in {__package__, *PROGRAM, *sys.stdlib_module_names}:
        return False
    file = Path(getattr(sys.modules[name], "__file__", None) or "")
    if INSTALLED & {*file.parts} or file.is_relative_to(STDLIB):  # some names are in no list
        return False
    # some modules that are made at run time have a name for a file that is none
    return file.is_absolute() and file.is_file()


def _import_name(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise UserError(
            f"--import {name!r} is no module; allowed: an importable name, such as my_method, or "
            f"the path of a .py file"
        )
    here = str(Path.cwd())
    _search(here)

    try:
        return _guarded(name, "--import")
    except UserError as error:
        missing = error.__cause__
        # of the module itself, or of a package that it should lie in
        if isinstance(missing, ModuleNotFoundError) and f"{name}.".startswith(f"{missing.name}."):
            raise UserError(
                f"--import {name}: there is no module {missing.name!r}, neither installed nor in "
                f"the working directory {here}"
            ) from missing
        raise


def _import_file(name: str) -> ModuleType:
    path = Path(name).resolve()
    if path.suffix != ".py" or not path.stem.isidentifier():
        raise UserError(
            f"--import {name!r} is no path of a module; allowed: the path of a .py file with a "
            f"name that Python can import, or an importable name"
        )
    if not path.is_file():
        raise UserError(f"--import {name}: the file does not exist")

    there = sys.modules.get(path.stem)
    if there is not None:
        if Path(getattr(there, "__file__", None) or "").resolve() == path:
            return there
        raise UserError(
            f"--import {name}: a module named {path.stem!r} is there already, from "
            f"{getattr(there, '__file__', None) or 'Python itself'}; rename the file"
        )
    _search(str(path.parent))
    return _guarded(name, "--import", _load_file)


def _load_file(name: str) -> ModuleType:
    path = Path(name).resolve()
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None  # the name ends in .py
    module = module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:  # as the import statement does: what is half made must not be found
        del sys.modules[path.stem]
        raise
    return module


def _search(folder: str) -> None:
    """Last, so that nothing that is installed is shadowed."""
    if folder not in sys.path:
        sys.path.append(folder)


def _guarded(
    name: str, source: str, load: Callable[[str], ModuleType] = importlib.import_module
) -> ModuleType:
    """Loads the module; whatever the foreign code raises becomes one line that names it."""
    try:
        return load(name)
    except UserError as error:  # such as a name that is taken: it says all by itself
        raise UserError(f"module {name} ({source}) cannot be imported: {error}") from error
    except (Exception, SystemExit) as error:  # a script without a main guard may exit
        raise UserError(
            f"module {name} ({source}) cannot be imported: {type(error).__name__}: {error}"
            f"{_place(error)}"
        ) from error


def _place(error: BaseException) -> str:
    """Where it was raised, if not by Python's own import."""
    own = ("<frozen ", str(Path(importlib.__file__).parent), __file__)
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(own)
    ]
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
