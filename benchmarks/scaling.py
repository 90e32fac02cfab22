"""How a step's time and memory grow, what a method holds while it trains, and how much of the
machine's convolution speed is used.

    python benchmarks/scaling.py [--rounds 3] [--steps 8]

resnet56 -> resnet20, random images, whole steps with data, each point in a process of its own.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from measuring import command_line, say_environment, settled
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sdkd_plugin.config import configs_folder, load_config
from sdkd_plugin.data.dataset import Dataset, Images
from sdkd_plugin.engine.build import build_distiller
from sdkd_plugin.engine.device import make_accelerator
from sdkd_plugin.engine.memory import peak_memory
from sdkd_plugin.engine.trainer import Trainer

WARM_STEPS = 2
USUAL = {"method": "kd", "batch": 64, "size": 32, "classes": 100, "images": 50_000}
# each axis: the method it is shown on, and the values
AXES: dict[str, tuple[str, tuple[int, ...]]] = {
    "batch": ("kd", (16, 32, 64, 128, 256)),
    "size": ("kd", (16, 32, 64)),
    "classes": ("kd", (100, 1_000, 10_000)),
    "images": ("crd", (50_000, 100_000, 200_000)),
}
HELD = ("vanilla", "kd", "sdkd", "dml", "crd")


def random_images(count: int, size: int, classes: int) -> Dataset:
    """Images [count, size, size, 3] of evenly many classes."""
    images = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8)
    split = Images(images, torch.arange(count) % classes)
    test = Images(images[:classes], torch.arange(classes))
    return Dataset("benchmark", [str(c) for c in range(classes)], split, test)


def build(method: str, batch: int, size: int, classes: int, images: int) -> Trainer:
    """A trainer in its last phase, its norms fed once so that no loss overflows."""
    name = "vanilla/resnet20" if method == "vanilla" else f"{method}/res56_res20"
    words = ["SOLVER.BATCH_SIZE", str(batch), "SOLVER.LR", "0.0001"]
    cfg = load_config(configs_folder() / "cifar100" / f"{name}.yaml", words)
    dataset = random_images(images, size, classes)
    image = torch.randn(32, 3, size, size)
    teacher = None if method == "vanilla" else settled("resnet56", classes, image)
    trainer = Trainer(cfg, build_distiller(cfg, dataset, teacher), dataset, make_accelerator(cfg))
    trainer.reach(trainer.schedule[-1][0])
    return trainer


def measure(point: dict[str, Any], steps: int) -> dict[str, float]:
    """ms a step, the process's peak MiB, FLOPs of a step, and what is held while it trains."""
    trainer = build(**point)
    running = trainer.begin(1)
    batches = trainer.train_batches.epoch(1)
    for _ in range(WARM_STEPS):
        trainer.take(running, next(batches))
    began = time.perf_counter()
    for _ in range(steps):
        trainer.take(running, next(batches))
    seconds = (time.perf_counter() - began) / steps
    peak = peak_memory(torch.device("cpu")) / 2**20

    batch = next(batches)
    with FlopCounterMode(display=False) as counter:
        trainer.take(running, batch)
    return {
        "ms": 1000 * seconds,
        "peak_mib": peak,
        "gflop": counter.get_total_flops() / 1e9,
        "state_mib": held(trainer) / 2**20,
        "saved_mib": saved(trainer, next(batches)) / 2**20,
    }


def held(trainer: Trainer) -> int:
    """Bytes of what is trained: parameters, their gradients and momenta; and of all buffers."""
    method = trainer.method
    trained = sum(p.numel() * p.element_size() for p in method.get_learnable_parameters())
    return 3 * trained + sum(b.numel() * b.element_size() for b in method.buffers())


def saved(trainer: Trainer, batch: Any) -> int:
    """Bytes that autograd keeps for the backward pass of one step, each storage once, without the
    parameters.
    """
    parameters = {p.untyped_storage().data_ptr() for p in trainer.method.parameters()}
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    running = trainer.begin(1)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        trainer.take(running, batch)
    return sum(storages.values())


def convolution_peak(rounds: int) -> float:
    """GFLOP/s of the fastest of some 3x3 convolutions in the layout that training uses."""
    best = 0.0
    for channels, size in ((64, 16), (128, 16), (128, 32), (256, 16)):
        image = torch.randn(64, channels, size, size).to(memory_format=torch.channels_last)
        weight = torch.randn(channels, channels, 3, 3).to(memory_format=torch.channels_last)
        flop = 2 * image.numel() * channels * 9
        with torch.no_grad():
            F.conv2d(image, weight, padding=1)
            for _ in range(5 * rounds):
                began = time.perf_counter()
                F.conv2d(image, weight, padding=1)
                best = max(best, flop / (time.perf_counter() - began) / 1e9)
    return best


def run(point: dict[str, Any], steps: int) -> dict[str, float]:
    """A point in a process of its own."""
    command = [sys.executable, __file__, "--one", json.dumps(point), "--steps", str(steps)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def repeated(points: list[dict[str, Any]], options: argparse.Namespace) -> list[dict[str, float]]:
    """Each point's median over the rounds, which take the points in turn."""
    rounds = [[run(point, options.steps) for point in points] for _ in range(options.rounds)]
    return [
        {key: statistics.median(each[number][key] for each in rounds) for key in rounds[0][number]}
        for number in range(len(points))
    ]


def told(options: argparse.Namespace) -> Iterator[str]:
    """The measured figures as markdown."""
    peak = convolution_peak(options.rounds)
    yield f"Fastest 3x3 convolution of the machine: {peak:.0f} GFLOP/s.\n"

    yield "| method | ms a step | GFLOP/s, share of the peak | state MiB | saved activations MiB |"
    yield "|---|---|---|---|---|"
    rows = repeated([{**USUAL, "method": method} for method in HELD], options)
    for method, row in zip(HELD, rows, strict=True):
        speed = row["gflop"] / row["ms"] * 1000
        yield (
            f"| {method} | {row['ms']:.0f} | {speed:.0f}, {100 * speed / peak:.0f} % | "
            f"{row['state_mib']:.1f} | {row['saved_mib']:.0f} |"
        )

    for axis, (method, values) in AXES.items():
        yield f"\n| {axis} ({method}) | ms a step | peak MiB of the process |"
        yield "|---|---|---|"
        rows = repeated([{**USUAL, "method": method, axis: value} for value in values], options)
        for value, row in zip(values, rows, strict=True):
            yield f"| {value} | {row['ms']:.0f} | {row['peak_mib']:.0f} |"


def main() -> None:
    """Prints the tables."""
    parser = command_line(__doc__, rounds=3, steps=8)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(json.loads(options.one), options.steps)))
        return
    say_environment()
    for line in told(options):
        print(line, flush=True)


if __name__ == "__main__":
    main()
