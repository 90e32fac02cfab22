"""How fast and how large a training step is, as ratios of variants timed in turn within one run.

    python benchmarks/throughput.py [--rounds 3] [--steps 40] [--data FILE.npz] [--methods AT ...]

Variants, each in its own process: `plain` is DKD written as one writes it first (contiguous memory,
PIL transforms in a DataLoader with two workers); `DKD`, `KD`, `CRD`, `SDKD` are this package's
loop. resnet56 -> resnet20, batch 64, a whole step's work with data; of a method with several
phases, the last. With --methods each of these is timed against KD instead. Without --data the
images are random, which costs the same.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from measuring import command_line, say_environment, settled, spread
from PIL import Image
from torchvision import transforms

from sdkd_plugin.config import configs_folder, load_config
from sdkd_plugin.data.batches import TrainBatches
from sdkd_plugin.data.dataset import Dataset, Images
from sdkd_plugin.distillers.dkd import dkd_terms
from sdkd_plugin.engine.build import build_distiller
from sdkd_plugin.engine.device import make_accelerator
from sdkd_plugin.engine.memory import peak_memory
from sdkd_plugin.engine.trainer import Trainer
from sdkd_plugin.models import build_model

TEACHER, STUDENT, BATCH, WARM_STEPS = "resnet56", "resnet20", 64, 5
# with an untrained teacher some losses are too large for the real one
CALM = ("SOLVER.LR", "0.0001")
# (numerator, denominator of images per second, what the ratio should be)
RATIOS = (
    ("DKD", "plain", "this loop's throughput over the plain one's, wanted: at least 1.3"),
    ("KD", "SDKD", "SDKD's step time over KD's, wanted: at most 1.7"),
    ("KD", "CRD", "CRD's step time over KD's"),
)


def load_images(path: str | None) -> Dataset:
    """The training images of an npz file, or random ones of the same shape."""
    if path:
        with np.load(path) as arrays:
            images, targets = (
                torch.from_numpy(arrays["x_train"]),
                torch.from_numpy(arrays["y_train"]).long(),
            )
    else:
        images = torch.randint(0, 256, (50000, 32, 32, 3), dtype=torch.uint8)
        targets = torch.arange(50000) % 100
    split = Images(images, targets)
    return Dataset("benchmark", [str(c) for c in range(100)], split, split.take(np.arange(1000)))


class PilImages(torch.utils.data.Dataset):
    """What torchvision's CIFAR100 does for each image: a PIL image through the usual transforms."""

    def __init__(self, split: Images, mean: Sequence[float], std: Sequence[float]):
        self.images, self.targets = split.images.numpy(), split.targets.tolist()
        steps = [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
        ]
        self.transform = transforms.Compose([*steps, transforms.Normalize(mean, std)])

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[i])), self.targets[i]


def plain_steps(dataset: Dataset) -> Iterator[None]:
    """DKD as one writes it first; yields after each step."""
    student, teacher = build_model(STUDENT, 100).train(), build_model(TEACHER, 100).eval()
    images = PilImages(dataset.train, dataset.mean, dataset.std)
    loader = torch.utils.data.DataLoader(images, batch_size=BATCH, shuffle=True, num_workers=2)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for image, target in loader:
        logits_student, _ = student(image)
        with torch.no_grad():
            logits_teacher, _ = teacher(image)
        tckd, nckd = dkd_terms(logits_student, logits_teacher, target, tau=4.0)
        loss = F.cross_entropy(logits_student, target) + tckd + 8 * nckd
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        yield


def package_steps(method: str, dataset: Dataset) -> Iterator[None]:
    """The package's own loop, step by step, with the settings of configs/cifar100/."""
    name = f"vanilla/{STUDENT}" if method == "NONE" else f"{method.lower()}/res56_res20"
    cfg = load_config(
        configs_folder() / "cifar100" / f"{name}.yaml", ["SOLVER.BATCH_SIZE", str(BATCH), *CALM]
    )
    image = next(TrainBatches(dataset, cfg, "cpu").epoch(1)).image
    teacher = settled(TEACHER, dataset.num_classes, image)
    distiller = build_distiller(cfg, dataset, teacher)
    trainer = Trainer(cfg, distiller, dataset, make_accelerator(cfg))
    phase = trainer.method.phases(trainer.cfg)[-1]
    trainer.enter(phase, begin=True)
    running = trainer.begin(1)
    for batch in trainer.train_batches.epoch(1):
        trainer.take(running, batch)
        yield


def measure(variant: str, steps: int, path: str | None) -> dict[str, float]:
    """images/s over `steps` steps after a few warm ones, and the process's peak memory in MiB."""
    dataset = load_images(path)
    running = plain_steps(dataset) if variant == "plain" else package_steps(variant, dataset)
    for _ in range(WARM_STEPS):
        next(running)
    began = time.perf_counter()
    for _ in range(steps):
        next(running)
    seconds = time.perf_counter() - began
    return {
        "images_per_second": steps * BATCH / seconds,
        "peak_mib": peak_memory(torch.device("cpu")) / 2**20,
    }


def main() -> None:
    """Times every variant in turn, `rounds` times, and prints figures and ratios with their
    spread.
    """
    parser = command_line(__doc__, rounds=3, steps=40)
    parser.add_argument("--data", help="npz file with x_train and y_train")
    parser.add_argument("--methods", nargs="+", default=[], help="time these against KD")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.steps, options.data)))
        return
    ratios = [("KD", name, f"{name}'s step time over KD's") for name in options.methods] or RATIOS
    variants = sorted({name for ratio in ratios for name in ratio[:2]})
    figures: dict[str, list[dict[str, float]]] = {variant: [] for variant in variants}
    for _ in range(options.rounds):
        for variant in variants:
            command = [sys.executable, __file__, "--one", variant, "--steps", str(options.steps)]
            command += ["--data", options.data] if options.data else []
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            figures[variant].append(json.loads(done.stdout.splitlines()[-1]))
    say_environment()
    for variant in variants:
        speed, memory = (
            [row[key] for row in figures[variant]] for key in ("images_per_second", "peak_mib")
        )
        print(f"{variant:6} images/s {spread(speed)}   peak MiB {spread(memory)}")
    for upper, lower, text in ratios:
        pairs = zip(figures[upper], figures[lower], strict=True)
        print(
            f"{upper}/{lower} "
            f"{spread([a['images_per_second'] / b['images_per_second'] for a, b in pairs])}   "
            f"{text}"
        )


if __name__ == "__main__":
    main()
