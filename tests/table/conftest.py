"""One small set of runs for all tests of the table; its numbers are computed by hand."""

from functools import partial
from pathlib import Path

import pytest
from support.runs import write_run


@pytest.fixture(scope="session")
def mixed_runs(tmp_path_factory) -> Path:
    """Finished runs, and one of each status that does not count."""
    folder = tmp_path_factory.mktemp("runs")
    make_run = partial(write_run, folder)
    for seed, top1 in enumerate((68.0, 69.0, 70.0)):
        make_run("NONE", seed, [50.0, top1])
        make_run("KD", seed, [60.0, top1 + 1 + seed])  # 69, 71, 73: differences 1, 2, 3
    make_run("SDKD", 0, [80.0, 73.5], seconds=3600.0)

    make_run("SDKD", 1, [60.0], ["SOLVER.EPOCHS", "2"], finished=False)
    (make_run("KD", 9, [1.0, 2.0]) / "result.json").write_text("{")
    make_run("KD", 0, [60.0, 69.0], name="copy")
    make_run("NONE", 0, [1.0, 72.0], student="resnet56")
    return folder
