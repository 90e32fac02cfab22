"""How much each of the demo's students gains from its teacher, over more seeds than the demo takes.

`python benchmarks/demo.py` scores what the demo's settings were chosen on: 360 training images that
neither the teacher nor the students see. `--test` scores the demo's own runs on its test images: to
measure, not to choose. One thread; the table is printed after each seed.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from sdkd_plugin import demo
from sdkd_plugin.config import configs_folder, load_config
from sdkd_plugin.data.dataset import hold_out, load_dataset
from sdkd_plugin.engine.run import train
from sdkd_plugin.plugins import import_plugins
from sdkd_plugin.runs.record import HEADLINE

HELD_OUT = 0.25  # of the training images: as many as there are test images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--test", action="store_true", help="score the test images")
    parser.add_argument("--output", help="where the runs go (default: removed afterwards)")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="overrides for the students")
    options = parser.parse_args()
    torch.set_num_threads(1)
    import_plugins([])
    with tempfile.TemporaryDirectory() as temporary:
        output = Path(options.output or temporary)
        output.mkdir(parents=True, exist_ok=True)
        data = [] if options.test else held_out_data(output)
        measure(output, data, options.seeds, options.opts)


def measure(output: Path, data: list[str], seeds: int, overrides: list[str]) -> None:
    """Trains everything and prints mean and sample standard deviation of each method."""
    configs = configs_folder() / "cifar100"
    own = [*demo.SHARED, *data, "EXPERIMENT.PROJECT", "runs", "LOG.PREFIX", str(output)]

    def run(name: str, epochs: int, keys: list[str]) -> tuple[Path, float]:
        schedule = ["SOLVER.EPOCHS", str(epochs), "SOLVER.SCHEDULE_EPOCHS", "240"]
        began = time.process_time()
        folder = train(load_config(configs / name, [*own, *schedule, *keys]), resume=True)
        seconds.append(time.process_time() - began)
        return folder.path, folder.result.last[HEADLINE]

    seconds: list[float] = []
    teacher, top1 = run(demo.TEACHER, demo.TEACHER_EPOCHS, [])
    print(f"teacher: {top1:.2f} %, {seconds[0]:.0f} s of processor time")
    keys = [*demo.STUDENT_KEYS, *overrides]
    keys += ["DISTILLER.TEACHER_CKPT", str(teacher / "student_latest")]
    found: dict[str, list[float]] = {name: [] for name in demo.STUDENTS}
    for seed in range(seeds):
        for name, scores in found.items():
            _, top1 = run(f"{name}.yaml", demo.STUDENT_EPOCHS, [*keys, "SOLVER.SEED", str(seed)])
            scores.append(top1)
        print(f"\nafter {seed + 1} seeds, {sum(seconds):.0f} s of processor time:")
        for name, scores in found.items():
            spread = statistics.stdev(scores) if seed else float("nan")
            print(f"  {name:20} {statistics.mean(scores):6.2f} ± {spread:5.2f}  {scores}")


def held_out_data(output: Path) -> list[str]:
    """KEY VALUE words for digits whose test images are training images in disguise."""
    digits = load_dataset(load_config(None, ["DATASET.TYPE", "digits"]))
    kept, held = hold_out(digits.train, HELD_OUT, digits.classes)
    arrays = {
        f"{kind}_{split}": getattr(images, name).numpy()
        for split, images in (("train", kept), ("test", held))
        for kind, name in (("x", "images"), ("y", "targets"))
    }
    np.savez(output / "held_out.npz", classes=np.array(digits.classes), **arrays)
    return ["DATASET.TYPE", "npz", "DATASET.ROOT", str(output / "held_out.npz")]


if __name__ == "__main__":
    main()
