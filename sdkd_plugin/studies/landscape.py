"""`landscape`: the loss of finished students along random directions of their weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from tqdm import tqdm

from sdkd_plugin.errors import UserError
from sdkd_plugin.randomness import keyed_generator
from sdkd_plugin.registry import FORMATS
from sdkd_plugin.studies.figure import new_figure, write_figure, write_rows
from sdkd_plugin.studies.networks import OpenedRun, check_same_images, open_run, run_names
from sdkd_plugin.table.grids import Cell, Grid
from sdkd_plugin.table.report import Report, TableOptions

MOST_POINTS = 1001
Row = dict[str, Any]


@dataclass(frozen=True)
class LandscapeOptions:
    """What `landscape` takes.

    Args:
        folders: of the runs, all of one student and the same images.
        points: values of alpha, an odd number, so that 0 is one.
        span: alpha goes from -span to span.
        directions: how many random ones.
        images: of the evaluated ones, spread over the classes; 0: all.
        seed: of the directions.
        output: a folder.
    """

    folders: tuple[Path, ...]
    points: int = 21
    span: float = 1.0
    directions: int = 1
    images: int = 1000
    seed: int = 0
    output: str = "landscape"
    overrides: tuple[str, ...] = ()


def run_landscape(options: LandscapeOptions) -> None:
    """Writes landscape.png and landscape.csv, and prints how much the loss rises.

    Raises:
        UserError: runs of several students or data sets, or an option out of its range.
    """
    _check(options)
    runs = [open_run(path, options.overrides, options.images) for path in options.folders]
    check_same_images(runs)
    students = {run.cfg.DISTILLER.STUDENT for run in runs}
    if len(students) > 1:
        raise UserError(
            f"the runs' students are {', '.join(sorted(students))}: a direction is of one model's "
            "weights; give runs of one student"
        )

    half = options.points // 2
    # 0 exactly, and each with both signs
    alphas = [options.span * step / half for step in range(-half, half + 1)]
    rows = [
        {"network": name, **row}
        for name, run in zip(run_names(runs), runs, strict=True)
        for row in walk(run, alphas, options.directions, options.seed)
    ]
    folder = Path(options.output)
    images = f"{len(runs[0].dataset.test)} {runs[0].dataset.evaluates} images"
    write_rows(folder / "landscape.csv", rows)
    draw(folder / "landscape.png", rows, images)
    grid = rise_grid(rows, images)
    print(FORMATS["terminal"].build(Report(TableOptions(), (grid,))), end="")
    print(f"{folder}/landscape.png, landscape.csv")


def filter_direction(parameters: Mapping[str, Tensor], seed: int, number: int) -> dict[str, Tensor]:
    """A random direction d with ||d_i|| = ||w_i|| for each filter i; 0 for biases and norms.

    The numbers before that scaling depend on (seed, number) and the parameters' shapes alone, so
    networks of one architecture have the same.

    Args:
        parameters: by name; of two axes or more is a weight, whose first axis counts its filters.
        number: which of the directions.
    Source: Li et al., Visualizing the Loss Landscape of Neural Nets, NeurIPS 2018, section 4.
    """
    draws = keyed_generator(seed, "landscape", number)
    direction = {}
    for name, weight in parameters.items():
        if weight.dim() < 2:
            direction[name] = torch.zeros_like(weight)
            continue
        drawn = torch.from_numpy(draws.standard_normal(tuple(weight.shape))).to(weight)
        filters, wanted = drawn.flatten(1), weight.detach().flatten(1)  # [filters, D]
        scale = wanted.norm(dim=1, keepdim=True) / filters.norm(dim=1, keepdim=True)
        direction[name] = (filters * scale).reshape(weight.shape)
    return direction


@torch.no_grad()
def losses_along(
    network: nn.Module,
    direction: Mapping[str, Tensor],
    alphas: Sequence[float],
    batches: Sequence[tuple[Tensor, Tensor]],
) -> list[Row]:
    """Mean cross entropy, in nats, and top-1, in %, at w + alpha d for each alpha.

    The network is left as it is. In eval mode its norms keep the running statistics of w, as in the
    paper's plots: what rises is the loss of this network with other weights, not of one that has
    seen images with them.

    Args:
        network: image -> (logits, feats).
        batches: (image, target), gone through once for each alpha.
    """
    weights = dict(network.named_parameters())
    count = sum(len(target) for _, target in batches)
    rows = []
    for alpha in tqdm(alphas, "alpha", disable=None, leave=False):
        moved = {name: weight + alpha * direction[name] for name, weight in weights.items()}
        loss = right = 0.0
        for image, target in batches:
            logits = functional_call(network, moved, (image,))[0].double()
            loss += F.cross_entropy(logits, target, reduction="sum").item()
            right += (logits.argmax(1) == target).sum().item()
        rows.append({"alpha": float(alpha), "loss": loss / count, "top1": 100 * right / count})
    return rows


def walk(run: OpenedRun, alphas: Sequence[float], directions: int, seed: int) -> list[Row]:
    """A run's student along each direction, one after the other."""
    network = run.student()
    batches = list(run.batches())
    rows = []
    for number in range(directions):
        direction = filter_direction(dict(network.named_parameters()), seed, number)
        found = losses_along(network, direction, alphas, batches)
        rows += [{"direction": number, **row} for row in found]
    return rows


def rise_grid(rows: Sequence[Row], images: str) -> Grid:
    """Each network's loss at its weights, and how much higher it is half way out and at the ends:
    the mean over both signs and all directions.
    """
    span = max(row["alpha"] for row in rows)
    cells = []
    for name in dict.fromkeys(row["network"] for row in rows):
        own = [row for row in rows if row["network"] == name]
        here = next(row["loss"] for row in own if row["alpha"] == 0)
        line = [Cell(name), Cell(f"{here:.4f}", here)]
        for share in (0.5, 1.0):
            # the nearest on the grid, which has each alpha with both signs
            alpha = min((row["alpha"] for row in own), key=lambda a: abs(a - share * span))
            rise = fmean(row["loss"] for row in own if abs(row["alpha"]) == alpha) - here
            line.append(Cell(f"{rise:.4f} at {alpha:g}", rise))
        cells.append(line)
    head = ["network", "loss", "rise half way", "rise at the end"]
    notes = [
        "cross entropy in nats; rise: mean over both signs and all directions",
        "norms keep their running statistics; flat along random directions is not flat along all",
    ]
    return Grid(
        "landscape", f"Loss along filter-normalised directions, {images}", head, cells, notes
    )


def draw(path: Path, rows: Sequence[Row], images: str) -> None:
    """Draws loss and top-1 over alpha, the mean of the directions and the band of all."""
    figure = new_figure(9, 4)
    panels = figure.subplots(1, 2)
    styles = ("-", "--", "-.", ":")
    for number, name in enumerate(dict.fromkeys(row["network"] for row in rows)):
        own = [row for row in rows if row["network"] == name]
        alphas = sorted({row["alpha"] for row in own})
        for axes, key in zip(panels, ("loss", "top1"), strict=True):
            values = np.array([[r[key] for r in own if r["alpha"] == a] for a in alphas])
            style = styles[number % len(styles)]
            axes.plot(alphas, values.mean(1), style, color=f"C{number}", label=name)
            axes.fill_between(alphas, values.min(1), values.max(1), color=f"C{number}", alpha=0.2)
    panels[0].set(ylabel="cross entropy (nats)", yscale="log")
    for which in (panels[0].yaxis.set_major_formatter, panels[0].yaxis.set_minor_formatter):
        which("{x:g}")  # the scale's own would be in math
    panels[1].set(ylabel="top-1 (%)")
    for axes in panels:
        axes.set(xlabel="alpha")
        axes.grid(alpha=0.3)
    lines, names = panels[0].get_legend_handles_labels()
    figure.legend(lines, names, fontsize=8, loc="outside lower center", ncols=min(3, len(names)))
    figure.suptitle(f"Students along filter-normalised random directions, {images}", size=11)
    write_figure(path, figure)


def _check(options: LandscapeOptions) -> None:
    if not (3 <= options.points <= MOST_POINTS and options.points % 2):
        raise UserError(f"--points is {options.points}; allowed: odd, 3 to {MOST_POINTS}")
    if not 0 < options.span < float("inf"):
        raise UserError(f"--span is {options.span}; allowed: above 0")
    if options.directions < 1:
        raise UserError(f"--directions is {options.directions}; allowed: 1 or more")
