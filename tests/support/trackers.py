"""A tiny run that trackers follow, and a server of one of them."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.tiny import tiny_config

SERVER = (
    "mlflow server --host 127.0.0.1 --port {port} --workers 1 --backend-store-uri sqlite:///{db}"
)


def config(folder: Path, names: list[str], **changes):
    return tiny_config(folder, {"LOG.TRACKERS": names, "SOLVER.EPOCHS": 2, **changes})


@contextmanager
def mlflow_server(folder: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    """A real one on this machine, which holds its things in `folder`: its address and process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = SERVER.format(port=port, db=folder / "server.db").split()
    process = subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    uri = f"http://127.0.0.1:{port}"
    try:
        _wait_for(uri)
        yield uri, process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 9)
        process.wait()


def _wait_for(uri: str) -> None:
    for _ in range(1200):  # half a minute of a processor, which others may share
        try:
            urllib.request.urlopen(f"{uri}/health", timeout=2)
            return
        except OSError:
            time.sleep(0.5)
    raise AssertionError("the server has not started")
