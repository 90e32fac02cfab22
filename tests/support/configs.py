"""Config files written for a test, and single values of what they mean."""

from pathlib import Path

from sdkd_plugin.config import load_config
from sdkd_plugin.settings import flatten


def value(key: str, *overrides: str, path: Path | None = None) -> object:
    return dict(flatten(load_config(path, overrides)))[key]


def yaml_file(folder: Path, text: str) -> Path:
    path = folder / "some.yaml"
    path.write_text(text)
    return path
