"""What runs of record schema 1 called a setting that has another name today. Needs no torch."""

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


def todays(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity of any schema with today's names of keys and values."""
    current = {SCHEMA_1.get(key, key): value for key, value in identity.items()}
    for key, values in RENAMED_VALUES.items():
        if isinstance(current.get(key), str):
            current[key] = values.get(current[key], current[key])
    return current
