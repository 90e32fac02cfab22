"""A tiny run that trackers follow."""

from pathlib import Path

from support.tiny import tiny_config


def config(folder: Path, names: list[str], **changes):
    return tiny_config(folder, {"LOG.TRACKERS": names, "SOLVER.EPOCHS": 2, **changes})
