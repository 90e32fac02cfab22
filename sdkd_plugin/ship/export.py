"""`export`: a student's file for deployment, that gives what the checkpoint gives, and its latency
and size beside the teacher's.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.benchmark import Measurement, Timer
from yacs.config import CfgNode as CN

from sdkd_plugin import __version__, weights
from sdkd_plugin.config import load_config
from sdkd_plugin.data.batches import EvalBatches
from sdkd_plugin.data.dataset import Dataset, load_dataset
from sdkd_plugin.data.spec import DataSpec
from sdkd_plugin.engine.deploy import load_network
from sdkd_plugin.engine.score import locate, own_words
from sdkd_plugin.errors import UserError
from sdkd_plugin.models import build_model
from sdkd_plugin.registry import METHODS
from sdkd_plugin.ship.deployed import Deployed
from sdkd_plugin.ship.styles import STYLES, Run, Style
from sdkd_plugin.table.command import write_output

IMAGES = 1024  # evaluated images that both are compared on, at most
TOLERANCE = 1e-4  # of the largest logit: another order of sums moves the last digits
BATCHES = (1, 64)  # images at a time that are timed
SECONDS = 0.9  # that each timing takes, at least,
TURNS = 3  # in so many pieces


@dataclass(frozen=True)
class Parity:
    """How a file compares with its checkpoint.

    Args:
        images: that were compared.
        largest: absolute difference of two logits.
        scale: absolute value of the checkpoint's largest logit.
        agree: share of the images to which both give the same class.
    """

    images: int
    largest: float
    scale: float
    agree: float

    @property
    def good(self) -> bool:
        """Whether the file gives what the checkpoint gives, but for rounding."""
        return self.largest <= TOLERANCE * max(1.0, self.scale)

    def __str__(self) -> str:
        return (
            f"on {self.images} images the logits differ by at most {self.largest:.2g} (the largest "
            f"is {self.scale:.3g}), {100 * self.agree:.2f} % of the classes agree"
        )


def export(
    target: Path, name: str, output: str | None, normalise: bool, overrides: Sequence[str]
) -> Path:
    """Writes the student as a file of the format, prints how it compares, and returns its path.

    Args:
        target: a run's folder, or a student's file in one.
        name: one of STYLES.
        output: where to; None: beside the checkpoint.
        normalise: whether the file does (x - mean) / std itself.
        overrides: KEY VALUE words.
    Raises:
        UserError: no such run, an extra that is missing, or logits that differ, of which nothing is
            written.
    """
    style = STYLES[name]
    if not target.exists():
        raise UserError(f"{target} does not exist; give a run, such as output/.../seed0")
    path, run = locate(target)
    if run is None:
        raise UserError(f"{target} lies in no run's folder; give a run, such as output/.../seed0")
    spec = DataSpec.in_file(weights.load(path), path)
    config = run / "config.yaml"
    cfg = load_config(config, [*own_words(path, config, spec), *overrides])
    dataset = load_dataset(cfg)
    said, network = load_network(str(path), cfg.DISTILLER.STUDENT, dataset.num_classes)

    norms = (dataset.mean, dataset.std) if normalise else (None, None)
    about = _about(cfg, dataset, normalise)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"student.{style.suffix}")
        found = _write_and_load(style, Deployed(network, *norms), dataset, file, about)
        parity = compare(network, found, dataset, cfg, normalise)
        if not parity.good:
            raise UserError(
                f"--format {name} does not give what {path} gives: {parity}; nothing was written"
            )
        place = path.with_suffix(f".{style.suffix}") if output is None else Path(output)
        write_output(place, file.read_bytes())
        print(f"{place}: {said}; {about['input']}")
        print(f"parity with {path}: {parity}")
        _show_cost(style, cfg, dataset, found, file, Path(folder), norms)
    return place


def _about(cfg: CN, dataset: Dataset, normalise: bool) -> dict[str, Any]:
    """What whoever loads the file must know; it lies in the file, too."""
    spec = DataSpec.of(dataset)
    side = spec.image_size
    values = "values from 0 to 1"
    if not normalise:
        values = f"values from 0 to 1, minus mean {spec.mean}, over std {spec.std}"
    taught = METHODS[cfg.DISTILLER.TYPE].build.teacher_from != "none"
    return {
        **spec.entry(),
        "input": f"float32 [N, 3, {side}, {side}], RGB, {values}",
        "output": f"logits [N, {len(spec.classes)}]",
        "normalises": normalise,
        "student": cfg.DISTILLER.STUDENT,
        "method": cfg.DISTILLER.TYPE,
        "teacher": cfg.DISTILLER.TEACHER if taught else None,
        "made_by": f"sdkd_plugin {__version__}",
    }


def _write_and_load(
    style: Style, network: Deployed, dataset: Dataset, file: Path, about: dict[str, Any]
) -> Run:
    side = dataset.image_size
    style.write(network, torch.zeros(2, 3, side, side), file, about)
    return style.load(file)


@torch.no_grad()
def compare(network: nn.Module, found: Run, dataset: Dataset, cfg: CN, normalise: bool) -> Parity:
    """Compares a file with its checkpoint on the evaluated images.

    Args:
        network: the checkpoint's, which gets images normalised as in training.
        found: what the file gives for images as its `input` says.
    """
    network.eval()
    seen, same, largest, scale = 0, 0, 0.0, 0.0
    pixels = replace(dataset, mean=(0.0,) * 3, std=(1.0,) * 3) if normalise else dataset
    both = zip(EvalBatches(dataset, cfg, "cpu"), EvalBatches(pixels, cfg, "cpu"), strict=True)
    for (image, target), (given, _) in both:
        logits = found(given.contiguous())
        expected = network(image)
        expected = expected if isinstance(expected, Tensor) else expected[0]
        largest = max(largest, (logits - expected).abs().max().item())
        scale = max(scale, expected.abs().max().item())
        same += int((logits.argmax(1) == expected.argmax(1)).sum())
        seen += len(target)
        if seen >= IMAGES:
            break
    return Parity(seen, largest, scale, same / seen)


def _show_cost(
    style: Style,
    cfg: CN,
    dataset: Dataset,
    student: Run,
    file: Path,
    folder: Path,
    norms: tuple[Any, Any],
) -> None:
    """Prints latency and size of teacher and student, in the same format."""
    sides = [(f"student {cfg.DISTILLER.STUDENT}", student, file)]
    if METHODS[cfg.DISTILLER.TYPE].build.teacher_from != "none":
        # neither depends on the weights, and the teacher's file may be elsewhere by now
        teacher = build_model(cfg.DISTILLER.TEACHER, dataset.num_classes)
        theirs = folder / f"teacher.{style.suffix}"
        found = _write_and_load(style, Deployed(teacher, *norms), dataset, theirs, {})
        sides.insert(0, (f"teacher {cfg.DISTILLER.TEACHER}", found, theirs))
    times = latencies([run for _, run, _ in sides], dataset.image_size)
    rows = [
        (label, [place.stat().st_size / 2**20, *took])
        for (label, _, place), took in zip(sides, times, strict=True)
    ]

    heads = [f"ms an image, {n} at a time" for n in BATCHES]
    table = Table("", "MiB", *heads)
    for label, values in rows:
        table.add_row(label, *(f"{value:.3g}" for value in values))
    if len(rows) == 2:
        ratios = (t / s for t, s in zip(rows[0][1], rows[1][1], strict=True))
        table.add_row("teacher over student", *(f"{ratio:.2f}" for ratio in ratios))
    Console(width=100).print(table)
    print(f"measured here, on the CPU, threads: {torch.get_num_threads()}")


@torch.no_grad()
def latencies(runs: Sequence[Run], side: int) -> list[list[float]]:
    """For each network milliseconds an image at each of BATCHES: the median of as many passes as
    SECONDS hold.

    They take turns, so that what else the machine does meets all of them, and their first passes,
    in which a format may still compile, do not count: torch's timer makes a dozen before it counts.
    """
    took: list[list[float]] = [[] for _ in runs]
    for n in BATCHES:
        image = torch.rand(n, 3, side, side)
        timers = [_timer(run, image) for run in runs]
        turns = [
            [timer.blocked_autorange(min_run_time=SECONDS / TURNS) for timer in timers]
            for _ in range(TURNS)
        ]
        for place, measured in zip(took, zip(*turns, strict=True), strict=True):
            (whole,) = Measurement.merge(measured)
            place.append(1000 * whole.median / n)
    return took


def _timer(run: Run, image: Tensor) -> Timer:
    given = {"run": run, "image": image}
    return Timer("run(image)", globals=given, num_threads=torch.get_num_threads())
