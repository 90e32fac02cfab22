"""What DATASET.CACHE is for: data that a process may not hold."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

RESIZED = ("DATASET.TRANSFORM", "imagenet", "DATASET.IMAGE_SIZE", "64")
LIMITED = """
import resource, sys
from pathlib import Path
from sdkd_plugin.config import default_config
from sdkd_plugin.data.batches import EvalBatches, TrainBatches
from sdkd_plugin.data.dataset import load_dataset

root, cache, extra = sys.argv[1], sys.argv[2], int(sys.argv[3])
cfg = default_config()
cfg.merge_from_list(["DATASET.TYPE", "imagefolder", "DATASET.ROOT", root, "DATASET.CACHE", cache,
                     "DATASET.VAL_FRACTION", 0.1, "SOLVER.BATCH_SIZE", 4,
                     "DATASET.TEST.BATCH_SIZE", 4, *sys.argv[4:]])
status = Path("/proc/self/status").read_text()
(own,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmData:"))
resource.setrlimit(resource.RLIMIT_DATA, (int(own) * 1024 + extra,) * 2)
data = load_dataset(cfg)
print(data.fingerprint, sum(batch.count for batch in TrainBatches(data, cfg, "cpu").epoch(1)),
      sum(len(target) for _, target in EvalBatches(data, cfg, "cpu")))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's own memory")
@pytest.mark.parametrize(
    "pairs", [(), ("DATASET.TRANSFORM", "imagenet", "DATASET.IMAGE_SIZE", "64")]
)
def test_a_run_needs_less_memory_than_its_data(tmp_path: Path, pairs: tuple) -> None:
    """A process that may not have three quarters of the data's size, with the cache and without."""
    side, count = 256, 640
    for split, images in (("train", count), ("test", 8)):
        for number in range(images):
            file = tmp_path / split / "ab"[number % 2] / f"{number:03}.bmp"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (side, side), (number % 256, number // 256, 7)).save(file)
    size = 3 * side * side * count

    def run(kept: str) -> subprocess.CompletedProcess:
        words = [str(tmp_path), kept, str(size * 3 // 4), "DATASET.NUM_WORKERS", "0", *pairs]
        command = [sys.executable, "-c", LIMITED, *words]
        return subprocess.run(command, capture_output=True, text=True)

    done = run(str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-2:] == [str(count * 9 // 10), str(count // 10)]
    refused = run("")
    assert refused.returncode == 1
    assert "MemoryError" in refused.stderr or "allocate memory" in refused.stderr
