"""What runs of record schema 1 called a setting that has another name today. Needs no torch."""

import sys
from collections.abc import Mapping
from typing import Any

from sdkd_plugin.defaults import RENAMED_VALUES

# Said by each method, too, as `renamed`, for configs; here for readers that import no method.
SCHEMA_1 = {
    "AB.TEMPERATURE": "AB.TAU",
    "DML.T": "DML.TAU",
    "FITNET.TEMPERATURE": "FITNET.TAU",
    "FSP.TEMPERATURE": "FSP.TAU",
    "NORM.T": "NORM.TAU",
    "SEMCKD.T": "SEMCKD.TAU",
    "SOTEACHER.KD.T": "SOTEACHER.KD.TAU",
    "SRRL.T": "SRRL.TAU",
}
SCHEMA_1_COLUMNS = {"stage": "phase"}  # of metrics.csv, and so of the history in a checkpoint


# What changes nothing, and so is no part of an identity; earlier versions wrote it into theirs.
# Said by each method, too, as `idle`.
IDLE = (
    "CRD.FEAT.STUDENT_DIM",
    "CRD.FEAT.TEACHER_DIM",
    "FITNET.INPUT_SIZE",
    "REVIEWKD.IN_CHANNELS",
    "REVIEWKD.OUT_CHANNELS",
    "REVIEWKD.OUT_SHAPES",
    "REVIEWKD.SHAPES",
    "SOLVER.DOT.DELTA",
    "SOLVER.TRAINER",
    "VID.INPUT_SIZE",
)


def todays(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity of any schema with today's names of keys and values, and without idle keys."""
    # each name once in memory, whatever the number of runs
    current = {
        sys.intern(SCHEMA_1.get(key, key)): value
        for key, value in identity.items()
        if key not in IDLE
    }
    for key, values in RENAMED_VALUES.items():
        if isinstance(current.get(key), str):
            current[key] = values.get(current[key], current[key])
    return current
