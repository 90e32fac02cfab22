"""This package beside the real mdistiller: the same method, pair, batch and machine, in turn.

    python benchmarks/against.py --mdistiller CHECKOUT --data cifar100.npz
        [--rounds 3] [--steps 30] [--methods vanilla kd dkd crd]
        [--pairs res56_res20 wrn40_2_wrn16_2]

Each side runs in processes of its own, with the threads and loader workers that a user gets who
sets nothing: mdistiller by its own datasets, loaders, distillers and `trainer.train_iter`, here by
the training loop. CIFAR-100 whole (CRD's negatives are drawn from all of it), batch 64, steps
after a few warm ones, then `validate` on the first test images. mdistiller needs CUDA: `.cuda()`
gives the same object in its process, which costs nothing. SDKD and DML, which mdistiller has not,
are timed here against KD.
"""

import argparse
import contextlib
import io
import itertools
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import command_line, say_environment, settled, spread
from torch import nn

from sdkd_plugin.config import configs_folder, load_config
from sdkd_plugin.data.batches import EvalBatches
from sdkd_plugin.data.dataset import load_dataset
from sdkd_plugin.engine.build import build_distiller
from sdkd_plugin.engine.device import make_accelerator
from sdkd_plugin.engine.evaluate import evaluate
from sdkd_plugin.engine.trainer import Trainer

METHODS = ("vanilla", "kd", "dkd", "crd")  # of both
OURS = ("sdkd", "dml")  # against our own KD
PAIRS = ("res56_res20", "wrn40_2_wrn16_2")
WARM_STEPS, EVAL_BATCHES = 5, 20


@dataclass(frozen=True)
class Speed:
    """Images per second that one process trained and evaluated."""

    train: float
    test: float


def file_of(method: str, pair: str) -> Path:
    """The yaml file of a method and a pair; of the student alone for vanilla."""
    folder = configs_folder() / "cifar100"
    if method != "vanilla":
        return folder / method / f"{pair}.yaml"
    student = load_config(folder / "kd" / f"{pair}.yaml").DISTILLER.STUDENT
    return folder / method / f"{student}.yaml"


def timed(steps: Iterator[Any], count: int) -> float:
    """Seconds of `count` steps after the warm ones."""
    for _ in range(WARM_STEPS):
        next(steps)
    began = time.perf_counter()
    for _ in range(count):
        next(steps)
    return time.perf_counter() - began


def here(method: str, pair: str, data: str, count: int) -> Speed:
    """This package's loop."""
    words = ["DATASET.TYPE", "npz", "DATASET.ROOT", data, "SOLVER.LR", "0.0001"]
    cfg = load_config(file_of(method, pair), words)
    dataset = load_dataset(cfg)
    sample = next(iter(EvalBatches(dataset, cfg, "cpu")))[0]
    teacher = (
        None if method == "vanilla" else settled(cfg.DISTILLER.TEACHER, dataset.num_classes, sample)
    )
    trainer = Trainer(cfg, build_distiller(cfg, dataset, teacher), dataset, make_accelerator(cfg))
    trainer.reach(trainer.schedule[-1][0])
    running = trainer.begin(1)

    steps = (trainer.take(running, batch) for batch in trainer.train_batches.epoch(1))
    seconds = timed(steps, count)
    trainer.distiller.eval()
    network = trainer.method.deployed()
    batches = itertools.islice(trainer.eval_batches, EVAL_BATCHES)
    began = time.perf_counter()
    evaluate(lambda image: network(image)[0], batches)
    tested = time.perf_counter() - began
    batch = cfg.SOLVER.BATCH_SIZE
    return Speed(count * batch / seconds, EVAL_BATCHES * cfg.DATASET.TEST.BATCH_SIZE / tested)


class First:
    """The first batches of a loader, for `validate`."""

    def __init__(self, loader: Iterable[Any], count: int):
        self.loader = loader
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(iter(self.loader), self.count)


def there(method: str, pair: str, count: int) -> Speed:
    """mdistiller's loop; runs in a checkout's folder, with its packages importable."""
    import torchvision.datasets.cifar
    from mdistiller.dataset import get_dataset
    from mdistiller.distillers import distiller_dict
    from mdistiller.engine import trainer_dict
    from mdistiller.engine.cfg import CFG as cfg
    from mdistiller.engine.utils import AverageMeter, validate
    from mdistiller.models import cifar_model_dict

    for kind in (torch.Tensor, nn.Module):
        kind.cuda = lambda self, *arguments, **options: self  # type: ignore[method-assign]
    torchvision.datasets.cifar.check_integrity = lambda *arguments: True

    cfg.merge_from_file(str(file_of(method, pair)))  # its keys are mdistiller's
    cfg.merge_from_list(["SOLVER.LR", 0.0001, "LOG.WANDB", False])
    train_loader, val_loader, num_data, num_classes = get_dataset(cfg)
    student = cifar_model_dict[cfg.DISTILLER.STUDENT][0](num_classes=num_classes)
    arguments: list[Any] = [student]
    if method != "vanilla":
        teacher = cifar_model_dict[cfg.DISTILLER.TEACHER][0](num_classes=num_classes)
        image = next(iter(val_loader))[0]
        known = settled(cfg.DISTILLER.TEACHER, num_classes, image)
        teacher.load_state_dict(known.state_dict())
        arguments += [teacher, cfg, *([num_data] if method == "crd" else [])]
    distiller = nn.DataParallel(distiller_dict[cfg.DISTILLER.TYPE](*arguments))
    trainer = trainer_dict[cfg.SOLVER.TRAINER]("speed", distiller, train_loader, val_loader, cfg)

    names = ("training_time", "data_time", "losses", "top1", "top5")
    meters = {name: AverageMeter() for name in names}
    distiller.train()
    steps = (trainer.train_iter(batch, 1, meters) for batch in train_loader)
    seconds = timed(steps, count)
    steps.close()

    began = time.perf_counter()
    with contextlib.redirect_stderr(io.StringIO()):
        validate(First(val_loader, EVAL_BATCHES), distiller)
    tested = time.perf_counter() - began
    batch = cfg.SOLVER.BATCH_SIZE
    return Speed(count * batch / seconds, EVAL_BATCHES * cfg.DATASET.TEST.BATCH_SIZE / tested)


def write_cifar(data: str, folder: Path) -> None:
    """CIFAR-100 in the format that torchvision reads."""
    folder.mkdir(parents=True)
    with np.load(data) as arrays:
        for name, split in (("train", "train"), ("test", "test")):
            images = arrays[f"x_{split}"].transpose(0, 3, 1, 2).reshape(-1, 3072)
            labels = arrays[f"y_{split}"].astype(int).tolist()
            (folder / name).write_bytes(pickle.dumps({"data": images, "fine_labels": labels}))
    names = {"fine_label_names": [f"class {number}" for number in range(100)]}
    (folder / "meta").write_bytes(pickle.dumps(names))


def run(side: str, method: str, pair: str, options: argparse.Namespace, work: Path) -> Speed:
    """One process of one side."""
    words = ["--one", side, "--methods", method, "--pairs", pair, "--steps", str(options.steps)]
    words += ["--data", str(Path(options.data).resolve()), "--mdistiller", "."]
    path = [str(Path(__file__).resolve().parents[1]), *([str(work)] if side == "there" else [])]
    done = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), *words],
        cwd=work,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{side} {method} {pair} failed:\n{done.stderr[-3000:]}")
    return Speed(**json.loads(done.stdout.splitlines()[-1]))


def copy_checkout(options: argparse.Namespace, work: Path) -> None:
    """mdistiller with the data where it looks for them."""
    source = Path(options.mdistiller).resolve()
    shutil.copytree(source / "mdistiller", work / "mdistiller")  # it looks for data beside itself
    write_cifar(options.data, work / "data" / "cifar-100-python")


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each method and pair: images/s of both sides, by round."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        copy_checkout(options, work)
        cells = list(itertools.product(options.pairs, (*options.methods, *OURS)))
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        for _ in range(options.rounds):
            for pair, method in cells:
                row = rows.setdefault(
                    (pair, method), {"pair": pair, "method": method, "here": [], "there": []}
                )
                row["here"].append(run("here", method, pair, options, work))
                if method not in OURS:
                    row["there"].append(run("there", method, pair, options, work))
    return list(rows.values())


def told(rows: list[dict[str, Any]]) -> Iterator[str]:
    """A markdown table of the rows."""
    yield (
        "| pair | method | trained here, images/s | by mdistiller | here / mdistiller | "
        "evaluated: here / mdistiller | step / KD's step here |"
    )
    yield "|---|---|---|---|---|---|---|"
    kd = {row["pair"]: row["here"] for row in rows if row["method"] == "kd"}
    for row in rows:
        mine, other = row["here"], row["there"]
        pairs = list(zip(mine, other, strict=False))
        cells = [
            row["pair"],
            row["method"],
            spread([speed.train for speed in mine]),
            spread([speed.train for speed in other]) if other else "has none",
            spread([a.train / b.train for a, b in pairs]) if other else "",
            spread([a.test / b.test for a, b in pairs]) if other else "",
        ]
        base = kd.get(row["pair"])
        ratios = [b.train / a.train for a, b in zip(mine, base, strict=True)] if base else []
        yield "| " + " | ".join([*cells, spread(ratios) if ratios else ""]) + " |"


def parse() -> argparse.Namespace:
    """The command line."""
    parser = command_line(__doc__, rounds=3, steps=30)
    parser.add_argument("--mdistiller", required=True, help="a checkout of commit a08d46f")
    parser.add_argument("--data", required=True, help="CIFAR-100 as npz")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--pairs", nargs="+", default=PAIRS)
    parser.add_argument("--one", choices=["here", "there"], help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Prints the table."""
    options = parse()
    if options.one:
        (method,), (pair,) = options.methods, options.pairs
        if options.one == "here":
            speed = here(method, pair, options.data, options.steps)
        else:
            speed = there(method, pair, options.steps)
        print(json.dumps(vars(speed)))
        return
    say_environment()
    print("\n".join(told(measure(options))))


if __name__ == "__main__":
    main()
