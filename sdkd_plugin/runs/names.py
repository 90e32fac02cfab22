"""What earlier runs called a setting, and which settings they did not have. Needs no torch."""

import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from sdkd_plugin.defaults import DELTA, DOT, OPTIMIZER, TRAINER, todays_setting

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
    "VID.INPUT_SIZE",
)

# Keys that came later, with what runs did before: they count where they say something else, so that
# a run from before is the same run still.
LATER = {
    "DATASET.TRANSFORM": "cifar",
    "DATASET.VIEWS": 1,
    "SOLVER.TF32": False,
    OPTIMIZER: "sgd",
    "SDKD.PROXY_TAU": 0.0,
    "SDKD.HANDOVER": 0,
}
LATER_IN_METHODS = {"LOGIT_STANDARD": False}  # the same, of keys that many methods' nodes have


def todays(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity of any schema with today's names of keys and values, and without idle keys."""
    current = dict(todays_setting(name, identity[key]) for key, name in _names(tuple(identity)))
    current.pop(TRAINER, None)  # another of mdistiller's, which none here reads
    if current.get(OPTIMIZER) != DOT:
        current.pop(DELTA, None)
    return current


@lru_cache  # ten thousand runs have the keys of a few dozen methods, each once in memory
def _names(keys: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Each key that counts, with today's name of it."""
    return tuple((key, sys.intern(SCHEMA_1.get(key, key))) for key in keys if key not in IDLE)
