"""What engine tests share."""

from pathlib import Path

import pytest
from support.tiny import save_teacher


@pytest.fixture(scope="session")
def teacher(tmp_path_factory) -> Path:
    """The checkpoint of an untrained resnet14, which nobody changes."""
    return save_teacher(tmp_path_factory.mktemp("teacher") / "ckpt.pth")
