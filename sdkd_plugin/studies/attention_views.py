"""What `attention` shows: the picture, and the table of how alike the maps are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sdkd_plugin.data.dataset import Dataset
from sdkd_plugin.printable import printable
from sdkd_plugin.studies.figure import new_figure, write_figure
from sdkd_plugin.studies.gradcam import enlarged, rank_correlation
from sdkd_plugin.table.grids import Cell, Grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Attention:
    """What a network makes of some images.

    Args:
        predicted: [N] class numbers.
        confidence: [N] their softmax probability.
        maps: [N, H, W], see `gradcam.grad_cam`.
    """

    name: str
    predicted: Tensor
    confidence: Tensor
    maps: Tensor

    def take(self, places: Sequence[int]) -> "Attention":
        """What it makes of some of them."""
        chosen = torch.tensor(list(places))
        return Attention(
            self.name, self.predicted[chosen], self.confidence[chosen], self.maps[chosen]
        )


def correlations(found: Sequence[Attention]) -> list[dict]:
    """For each network but the first, the teacher: mean, standard deviation, median and quartiles
    over images of the rank correlation of its maps with the teacher's; how many images count; and
    the mean correlation with the teacher's map of another image, which is what maps have in common
    whatever they see.
    """
    teacher, *others = found
    rows = []
    for each in others:
        values = rank_correlation(each.maps, teacher.maps)
        # half of all further: of another class also where images stand in the order of these
        away = teacher.maps.roll(len(values) // 2, 0)
        elsewhere = rank_correlation(each.maps, away)
        known = values[~np.isnan(values)]
        quartiles = np.percentile(known, [25, 50, 75]) if len(known) else [np.nan] * 3
        rows.append(
            {
                "network": each.name,
                "images": len(known),
                "undefined": len(values) - len(known),
                "mean": _mean(known),
                "sd": float(known.std(ddof=1)) if len(known) > 1 else float("nan"),
                "low_quartile": float(quartiles[0]),
                "median": float(quartiles[1]),
                "high_quartile": float(quartiles[2]),
                "other_image_mean": _mean(elsewhere[~np.isnan(elsewhere)]),
            }
        )
    return rows


def correlation_grid(rows: Sequence[dict], predicted: bool) -> Grid:
    """The correlations as a table."""
    numbers = ("mean", "sd", "low_quartile", "median", "high_quartile", "other_image_mean")
    cells = [
        [
            Cell(row["network"]),
            Cell(str(row["images"]), row["images"]),
            *(Cell(f"{row[name]:.3f}", row[name]) for name in numbers),
        ]
        for row in rows
    ]
    whose = "the class that each predicts" if predicted else "the label"
    notes = [
        f"Grad-CAM of {whose}, before its ReLU; sd is over images of one run, not over seeds",
        "other image: with the teacher's map of another image",
    ]
    undefined = sum(row["undefined"] for row in rows)
    if undefined:
        notes.append(f"{undefined} maps are the same everywhere and do not count")
    head = ["network", "images", "mean", "sd", "quartile", "median", "quartile", "other image"]
    title = "Rank correlation of maps with the teacher's (Spearman)"
    return Grid("attention", title, head, cells, notes)


def draw(
    path: Path,
    dataset: Dataset,
    shown: Tensor,
    found: Sequence[Attention],
    predicted: bool,
) -> None:
    """Draws the images with each network's map over them, its prediction and its confidence."""
    columns = 1 + len(found)
    figure = new_figure(1.7 * columns, 1.95 * len(shown) + 0.6)
    panels = figure.subplots(len(shown), columns, squeeze=False)
    classes = [printable(name) for name in dataset.classes]
    for place, position in enumerate(shown.tolist()):
        pixels = dataset.test.pixels(position)
        label = int(dataset.test.targets[position])
        _draw_image(panels[place, 0], pixels, f"{classes[label]}\nimage {position}")
        for axes, each in zip(panels[place, 1:], found, strict=True):
            said = int(each.predicted[place])
            mark = "right" if said == label else "wrong"
            told = f"{classes[said]}\n{100 * each.confidence[place]:.0f} %, {mark}"
            _draw_image(axes, pixels, told)
            heat = enlarged(each.maps[place : place + 1], pixels.shape[:2])[0].numpy()
            axes.imshow(heat, cmap="inferno", alpha=0.55, vmin=0, vmax=1)
    for axes, name in zip(panels[0], ["image", *(each.name for each in found)], strict=True):
        axes.set_title(f"{printable(name)}\n{axes.get_title()}", size=8)
    of = "each network's prediction" if predicted else "the label"
    figure.suptitle(f"Grad-CAM of {of} in the last stage", size=10)
    write_figure(path, figure)


def _draw_image(axes: "Axes", pixels: np.ndarray, title: str) -> None:
    axes.imshow(pixels)
    axes.set_title(title, size=7)
    axes.set(xticks=[], yticks=[])


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
