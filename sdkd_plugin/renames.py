"""Settings that had another name at first: both names are accepted, and one is meant."""

from typing import Any

from sdkd_plugin.defaults import RENAMED_VALUES, todays_setting
from sdkd_plugin.errors import UserError
from sdkd_plugin.registry import METHODS


def renamed_keys() -> dict[str, str]:
    """The first name of every method's key that has had another, to the name it has today."""
    return {
        f"{entry.name}.{first}": f"{entry.name}.{today}"
        for entry in METHODS
        for first, today in entry.info.get("renamed", {}).items()
    }


def current_names(flat: dict[str, Any]) -> dict[str, Any]:
    """{dotted key: value} as any version wrote it, with today's names of keys and values.

    Raises:
        UserError: one key stands there under both its names, with different values.
    """
    renamed = renamed_keys()
    current: dict[str, Any] = {}
    for key, value in flat.items():
        name, value = todays_setting(renamed.get(key, key), value)
        if current.setdefault(name, value) != value:
            raise both_names({key: value, name: current[name]}, "a config")
    return current


def first_names(flat: dict[str, Any]) -> dict[str, Any]:
    """{dotted key: value} with the names that keys and values had first: what must not change when
    a name does, such as the hash in a run folder's name, is made of these.
    """
    first_keys = {today: first for first, today in renamed_keys().items()}
    first_settings = {
        today: (key, value)
        for key, names in RENAMED_VALUES.items()
        for value, today in reversed(names.items())  # of two names the one declared first
    }
    first = {}
    for key, value in current_names(flat).items():
        setting = (first_keys.get(key, key), value)
        if isinstance(value, str):
            setting = first_settings.get((key, value), setting)
        first[setting[0]] = setting[1]
    return first


def both_names(values: dict[str, Any], where: str) -> UserError:
    """The error for a key that is set under both its names, differently."""
    said = " and ".join(f"{name} {value!r}" for name, value in values.items())
    return UserError(f"{where} sets {said}, which are two names of one key; keep one of them")
