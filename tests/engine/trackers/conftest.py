import os

import pytest


@pytest.fixture(autouse=True)
def own_environment(monkeypatch, tmp_path):
    """No account, server or home of whoever runs the tests."""
    for name in list(os.environ):
        if name.startswith(("WANDB_", "MLFLOW_", "TRACKIO_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
