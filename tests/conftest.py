"""What every test shares: where the real data lies, if it does, and slow tests only when asked for."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture
def shared() -> Path:
    """The folder with real CIFAR-100 and teachers; the test is skipped, saying so, where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the real CIFAR-100 and teachers in {SHARED}, which are not part of this repository")
    return SHARED
