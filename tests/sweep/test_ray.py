"""The sweep on a real Ray cluster of two nodes, of which one dies during it."""

import threading
import time
from pathlib import Path

import pytest
import yaml

from sdkd_plugin.sweep.command import SweepOptions, run_sweep

pytestmark = pytest.mark.slow


def test_a_node_dies_during_the_sweep_and_nothing_is_lost(tmp_path, monkeypatch):
    told = "THE RAY EXECUTOR IS NOT TESTED: no Ray here; pip install 'sdkd-plugin[cluster]'"
    pytest.importorskip("ray", reason=told)
    from ray.cluster_utils import Cluster

    monkeypatch.chdir(tmp_path)
    sweep = {
        "methods": ["vanilla"],
        "pairs": ["res56_res20"],
        "seeds": [0, 1, 2, 3],
        "overrides": {"DATASET.TYPE": "digits", "SOLVER.EPOCHS": 4, "SOLVER.SCHEDULE_EPOCHS": 240},
    }
    Path("sweep.yaml").write_text(yaml.safe_dump(sweep))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    doomed = cluster.add_node(num_cpus=1)
    killed = []

    def kill_when_training() -> None:
        deadline = time.monotonic() + 300
        while len(list(tmp_path.rglob("student_latest"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        killed.append(len(list(tmp_path.rglob("result.json"))))
        cluster.remove_node(doomed, allow_graceful=False)

    killer = threading.Thread(target=kill_when_training)
    killer.start()
    try:
        run_sweep(SweepOptions(Path("sweep.yaml"), jobs=2, executor="ray", address=cluster.address))
    finally:
        killer.join()
        import ray

        ray.shutdown()
        cluster.shutdown()
    assert killed and killed[0] < 4, "the node died too late to test anything"
    assert len(list(tmp_path.rglob("result.json"))) == 4
