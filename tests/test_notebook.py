"""The notebook runs within two minutes, first cell to last, and says what it should."""

import json
import os
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[1] / "examples" / "digits.ipynb"
SECONDS = 120


def texts(cell) -> str:
    """All that a cell printed and showed."""
    shown = [o.get("text") or o.get("data", {}).get("text/plain", "") for o in cell.outputs]
    return "".join(shown)


@pytest.mark.slow
def test_it_runs_and_its_students_learn(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="needs the extra notebook")
    nbclient = pytest.importorskip("nbclient", reason="needs the extra notebook")
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    # the kernel's own folder is where output/ goes
    client = nbclient.NotebookClient(
        notebook, timeout=SECONDS, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()

    codes = [cell for cell in notebook.cells if cell.cell_type == "code"]
    frame, loop, own = (texts(codes[place]) for place in (3, 5, 6))
    assert "KD" in frame and "student" in frame
    accuracies = [float(word) for word in loop.replace(",", " ").split()[-3::2]]
    assert len(accuracies) == 2 and min(accuracies) > 0.5
    assert float(own.split()[-1]) > 0.5
    assert list((tmp_path / "output" / "notebook").rglob("result.json"))


def test_no_output_is_committed():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert not any(cell.get("outputs") for cell in cells)
