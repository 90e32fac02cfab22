"""Run folders, found; torch is not needed here."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

from sdkd_plugin.runs.record import FILE

# a folder with any of these claims to be a run
MARKERS = ("identity.json", FILE, "metrics.csv")
WORKLOG = "worklog.txt"  # the log of mdistiller's trainer, which names neither method nor seed

LINK_DEPTH = 3  # levels under a linked folder that are searched: PROJECT/NAME/seed<k>

Place = tuple[int, int]  # what the system knows a folder by, whatever path leads there


@dataclass(frozen=True)
class Rejected:
    """A folder that looks like a run but cannot be trusted."""

    path: Path
    reason: str


def find_runs(folder: Path) -> tuple[dict[Place, Path], list[Rejected]]:
    """The run folders under `folder`, each once, and the folders that cannot be searched.

    Links to folders are followed after all that is really there, so that a run is called by its own
    path where it has one; a link that leads back, or to what has been searched, adds nothing.
    """
    found: dict[Place, Path] = {}
    faults: list[OSError] = []
    seen: set[Place] = set()
    tops = [str(folder)]
    for top in tops:  # grows on the way
        deepest = math.inf if top == tops[0] else top.count(os.sep) + LINK_DEPTH
        for parent, children, files in os.walk(top, onerror=faults.append):
            place = _place(parent)
            if place in seen:
                children.clear()
                continue
            seen.add(place)
            if not {*MARKERS, WORKLOG}.isdisjoint((*files, *children)):
                found[place] = Path(parent)
                children.clear()  # what lies in a run is its own
            children.sort()
            inner = [os.path.join(parent, child) for child in children]
            tops += filter(os.path.islink, inner)
            if parent.count(os.sep) >= deepest:
                children.clear()
    unread = [
        Rejected(Path(fault.filename), f"cannot be read: {fault.strerror}") for fault in faults
    ]
    return found, unread


def _place(path: str) -> Place:
    status = os.stat(path)
    return status.st_dev, status.st_ino
