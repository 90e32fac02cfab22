"""`attention`: where teacher, students and SDKD's proxy look on the same images, as one picture and
as a number.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from sdkd_plugin.data.batches import EvalBatches
from sdkd_plugin.distillers.sdkd import SDKD
from sdkd_plugin.errors import UserError, unknown
from sdkd_plugin.registry import FORMATS
from sdkd_plugin.studies.attention_views import Attention, correlation_grid, correlations, draw
from sdkd_plugin.studies.figure import write_rows
from sdkd_plugin.studies.gradcam import ProxyNetwork, grad_cam, last_stage
from sdkd_plugin.studies.networks import (
    OpenedRun,
    check_same_images,
    collect,
    listed,
    open_run,
    run_names,
    spread,
)
from sdkd_plugin.table.page.looks import ATTENTION
from sdkd_plugin.table.report import Report, TableOptions

TEACHER = "teacher"
MOST = 40  # images in a picture


@dataclass(frozen=True)
class AttentionOptions:
    """What `attention` takes.

    Args:
        folders: of the runs, all of one teacher and one data set.
        index: positions among the evaluated images, to be drawn.
        of_class: draw images of this class; None: of all.
        disagree: draw images of which the networks do not all say the same.
        count: how many are drawn, unless `index` says which.
        predicted: the maps are of the class that each network predicts, not of the label.
        images: how many the numbers are over, spread over the classes; 0: all.
        output: a folder.
    """

    folders: tuple[Path, ...]
    index: tuple[int, ...] = ()
    of_class: str | None = None
    disagree: bool = False
    count: int = 6
    predicted: bool = False
    images: int = 500
    output: str = "attention"
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Watched:
    """A network and the run that its images are normalised as by."""

    name: str
    run: OpenedRun
    network: nn.Module

    def batches(self, positions: Tensor) -> EvalBatches:
        """These of the run's evaluated images."""
        dataset = self.run.dataset
        chosen = replace(dataset, test=dataset.test.take(positions.numpy()))
        return EvalBatches(chosen, self.run.cfg, self.run.device)


def run_attention(options: AttentionOptions) -> None:
    """Writes attention.png and attention.csv, and prints the rank correlation of each network's
    maps with its teacher's.

    Raises:
        UserError: runs of several teachers or data sets, or without one, or images that there are
            not.
    """
    _check(options)
    runs = [open_run(path, options.overrides) for path in options.folders]
    watched = watch(runs)
    dataset = runs[0].dataset
    pool = spread(dataset.test.targets, options.images, dataset.num_classes)
    shown = choose(options, runs[0], watched, pool)
    positions = torch.cat([shown, pool[~torch.isin(pool, shown)]])
    found = [attend(each, positions, options.predicted) for each in watched]

    folder = Path(options.output)
    drawn = [each.take(range(len(shown))) for each in found]
    draw(folder / f"{ATTENTION}.png", dataset, shown, drawn, options.predicted)
    in_pool = torch.isin(positions, pool).nonzero()[:, 0]
    rows = correlations([each.take(in_pool.tolist()) for each in found])
    write_rows(folder / f"{ATTENTION}.csv", rows)
    grid = correlation_grid(rows, options.predicted)
    print(FORMATS["terminal"].build(Report(TableOptions(), (grid,))), end="")
    print(f"{folder}/attention.png, attention.csv")


def watch(runs: Sequence[OpenedRun]) -> list[Watched]:
    """The runs' teacher, then each run's student and, of SDKD, its proxy.

    Raises:
        UserError: the runs have no teacher or several, or different images.
    """
    check_same_images(runs)
    taught = [run for run in runs if run.teacher_file is not None]
    hashes = {run.teacher_hash for run in taught}
    if len(hashes) != 1:
        many = "no trained teacher" if not hashes else "different teachers"
        raise UserError(f"{listed(runs)} have {many}; give runs of one teacher")

    teacher = taught[0].teacher()
    assert teacher is not None
    found = [Watched(f"{TEACHER} {taught[0].cfg.DISTILLER.TEACHER}", taught[0], teacher)]
    names = run_names(runs)
    for name, run in zip(names, runs, strict=True):
        found.append(Watched(name, run, run.student()))
        if run.cfg.DISTILLER.TYPE == "SDKD":
            method = run.method()
            run.restore(method, run.path / "latest")
            if isinstance(method, SDKD) and method.proxy is not None:
                found.append(Watched(f"{name}'s proxy", run, ProxyNetwork(method).eval()))
    return found


def choose(
    options: AttentionOptions, run: OpenedRun, watched: Sequence[Watched], pool: Tensor
) -> Tensor:
    """Positions of the images that are drawn.

    Raises:
        UserError: there are no such images.
    """
    test = run.dataset.test
    if options.index:
        outside = [index for index in options.index if not 0 <= index < len(test)]
        if outside:
            raise UserError(f"--index is {outside[0]}; allowed: 0 to {len(test) - 1}")
        return torch.tensor(list(dict.fromkeys(options.index)))

    left = pool
    if options.of_class is not None:
        classes = run.dataset.classes
        if options.of_class not in classes:
            raise unknown("class", options.of_class, classes, "--class")
        left = torch.arange(len(test))[test.targets == classes.index(options.of_class)]
        if not len(left):
            raise UserError(f"no test image is of class {options.of_class!r}; name another --class")
    if options.disagree:
        said = [collect(w.network, w.batches(left), w.name).predicted for w in watched]
        left = left[(torch.stack(said) != said[0]).any(0)]
    if not len(left):
        raise UserError("no such image: all networks say the same; leave --disagree out")
    # spread over what is left, which is ordered by nothing or by class
    places = torch.linspace(0, len(left) - 1, min(options.count, len(left))).round().long()
    return left[places]


def attend(watched: Watched, positions: Tensor, predicted: bool) -> Attention:
    """A network's predictions and maps of these images.

    Args:
        predicted: whether the maps are of the predicted class, else of the label.
    """
    outputs = collect(watched.network, watched.batches(positions), watched.name)
    confidence, said = outputs.logits.double().softmax(1).max(1)
    layer = last_stage(watched.network)
    images = (image for image, _ in watched.batches(positions))
    maps = grad_cam(watched.network, layer, images, said if predicted else outputs.target)
    return Attention(watched.name, said, confidence, maps)


def _check(options: AttentionOptions) -> None:
    if len(options.index) > MOST:
        raise UserError(f"--index names {len(options.index)} images; allowed: 1 to {MOST}")
    if not 1 <= options.count <= MOST:
        raise UserError(f"--count is {options.count}; allowed: 1 to {MOST} images in a picture")
    if options.images < 0 or options.images == 1:
        raise UserError(f"--images is {options.images}; allowed: 0 (all) or 2 and more")
    if options.index and (options.of_class is not None or options.disagree):
        raise UserError("--index says which images; leave --class and --disagree out")
