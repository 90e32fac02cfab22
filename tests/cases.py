"""One row per method: it gives the method every shared test in tests/distillers/test_contract.py."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Case:
    """A method under settings small enough for tests.

    Args:
        name: as registered (DISTILLER.TYPE).
        overrides: config keys that differ from the defaults.
    """

    name: str
    overrides: dict[str, object] = field(default_factory=dict)


CASES = [
    Case("NONE"),
    Case("KD"),
    Case("DKD"),
    Case("CRD", {"CRD.NCE.K": 16}),
]
