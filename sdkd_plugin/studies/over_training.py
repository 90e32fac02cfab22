"""`proxy`: what SDKD's proxy teacher does over training, from the checkpoints that a run kept."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tensorboardX.summary import scalar
from torch import Tensor
from tqdm import tqdm

from sdkd_plugin.distillers.sdkd import SDKD
from sdkd_plugin.engine.events import event, open_events
from sdkd_plugin.errors import UserError
from sdkd_plugin.runs.metrics import read_metrics
from sdkd_plugin.studies.figure import make_folder, new_figure, write_figure, write_rows
from sdkd_plugin.studies.networks import OpenedRun, Outputs, open_run
from sdkd_plugin.studies.representation import LinearCka, mean_kl
from sdkd_plugin.table.page.looks import STUDIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NETWORKS = ("student", "proxy", "teacher")
PAIRS = (("student", "proxy"), ("student", "teacher"), ("proxy", "teacher"))
Row = dict[str, float]


@dataclass(frozen=True)
class Look:
    """What the three networks make of a batch.

    Args:
        logits: [N, K] by network.
        maps: by network, for each fused stage k, in order: s_k, f_k and the teacher's map that f_k
            is fused with, [N, C, H, W] each.
    """

    logits: dict[str, Tensor]
    maps: dict[str, list[Tensor]]


@torch.no_grad()
def look(method: SDKD, image: Tensor) -> Look:
    """Runs student, proxy and teacher on a batch without changing any of them.

    Args:
        method: in the mode that it is in, with a proxy.
        image: [N, 3, H, W].
    """
    proxy = method.proxy
    assert proxy is not None
    if proxy.sync == "step":  # else its own copies, as the last step left them
        proxy.refresh(method.student, 0)
    z_s, student_feats = method.student(image)  # [N, K]
    z_t, teacher_feats = method.teacher(image)  # [N, K]
    s = student_feats[proxy.family.maps]
    t = method.teacher_maps(teacher_feats)
    z_p, f = proxy.fuse(image, s, t)  # [N, K]
    return Look(
        {"student": z_s, "proxy": z_p, "teacher": z_t},
        {
            "student": [s[k] for k in method.pairs],
            "proxy": [f[k] for k in method.pairs],
            "teacher": list(t.values()),
        },
    )


def measure(method: SDKD, batches: Sequence[tuple[Tensor, Tensor]], tau: float) -> Row:
    """Top-1 of each network, KL of each to each at tau, and CKA of each two at each fused stage.

    Args:
        batches: (image, target), gone through once.
    """
    logits: dict[str, list[Tensor]] = {name: [] for name in NETWORKS}
    targets = []
    ckas = {(pair, k): LinearCka() for pair in PAIRS for k in method.pairs}
    for image, target in batches:
        seen = look(method, image)
        targets.append(target)
        for name in NETWORKS:
            logits[name].append(seen.logits[name].float())
        for (one, two), (place, k) in itertools.product(PAIRS, enumerate(method.pairs)):
            ckas[(one, two), k].add(seen.maps[one][place], seen.maps[two][place])

    outputs = {n: Outputs(torch.cat(logits[n]), torch.cat(targets)) for n in NETWORKS}
    row: Row = {f"top1_{name}": outputs[name].top1 for name in NETWORKS}
    for one, two in itertools.permutations(NETWORKS, 2):
        row[f"kl_{one}_{two}"] = mean_kl(outputs[one].logits, outputs[two].logits, tau)
    for ((one, two), k), cka in ckas.items():
        row[f"cka_{one}_{two}_stage{k}"] = cka.value
    return row


def run_over_training(
    path: Path, overrides: Sequence[str], images: int, tau: float, output: str | None
) -> None:
    """Measures every checkpoint of an SDKD run; writes proxy.csv, proxy.png and TensorBoard scalars
    to `output`, by default the run's own folder studies.

    Raises:
        UserError: no such run, it has no proxy, or kept no checkpoints.
    """
    if not tau > 0:
        raise UserError(f"--tau is {tau}; allowed: above 0")
    run = open_run(path, overrides, images)
    method = run.method()
    if not isinstance(method, SDKD) or method.proxy is None:
        raise UserError(
            f"{path} is a run of {run.cfg.DISTILLER.TYPE} without a proxy teacher; give one of "
            "SDKD with one of its proxy's weights above 0"
        )
    folder = Path(output) if output is not None else path / STUDIES
    rows = list(_rows(run, method, tau))
    write_rows(folder / "proxy.csv", rows)
    write_events(folder / "proxy.events", rows)
    draw(folder / "proxy.png", rows, f"{len(run.dataset.test)} {run.dataset.evaluates} images", tau)
    print(f"{len(rows)} epochs of {path}: {folder}/proxy.csv, proxy.png, proxy.events")


def _rows(run: OpenedRun, method: SDKD, tau: float) -> Iterator[Row]:
    batches = list(run.batches())
    for file in tqdm(checkpoints(run.path), "epochs", disable=None, leave=False):
        epoch = run.restore(method, file)
        yield {"epoch": epoch, **measure(method.eval(), batches, tau)}


def checkpoints(path: Path) -> list[Path]:
    """A run's kept checkpoints by epoch, the last complete epoch's among them.

    Raises:
        UserError: there is only the last, which shows nothing over training.
    """
    kept = {int(p.name[6:]): p for p in path.glob("epoch_*") if p.name[6:].isdecimal()}
    if not kept:
        raise UserError(
            f"{path} kept no checkpoint but the last; train with LOG.SAVE_CHECKPOINT_FREQ 1, which "
            "makes no other run of it"
        )
    files = [kept[epoch] for epoch in sorted(kept)]
    return files if read_metrics(path).epochs in kept else [*files, path / "latest"]


def write_events(folder: Path, rows: Sequence[Row]) -> None:
    """Writes a row's values as scalars at its epoch, for TensorBoard."""
    make_folder(folder.parent)
    events = open_events(folder, int(rows[0]["epoch"]))
    for row in rows:
        for key, value in row.items():
            if key != "epoch":
                name = "/".join(["proxy", *key.split("_", 1)])
                events.write(event(step=int(row["epoch"]), summary=scalar(name, value)))
    events.flush()
    events.close()


def draw(path: Path, rows: Sequence[Row], images: str, tau: float) -> None:
    """Draws accuracy, KL and CKA over epochs."""
    stages = sorted({int(key.rsplit("stage", 1)[1]) for key in rows[0] if key.startswith("cka_")})
    figure = new_figure(4.2 * (2 + len(stages)), 4)
    panels = figure.subplots(1, 2 + len(stages))
    accuracies = {name: f"top1_{name}" for name in NETWORKS}
    _draw_lines(panels[0], rows, accuracies, "top-1 (%)")
    kls = {f"{a} to {b}": f"kl_{a}_{b}" for a, b in itertools.permutations(NETWORKS, 2)}
    _draw_lines(panels[1], rows, kls, f"KL (nats), tau {tau:g}")
    panels[1].set_yscale("symlog", linthresh=0.01)
    panels[1].yaxis.set_major_formatter("{x:g}")  # the scale's own would be in math
    for panel, k in zip(panels[2:], stages, strict=True):
        ckas = {f"{a}, {b}": f"cka_{a}_{b}_stage{k}" for a, b in PAIRS}
        _draw_lines(panel, rows, ckas, f"linear CKA of the maps, stage {k}")
        panel.set_ylim(-0.05, 1.05)
    figure.suptitle(f"Student, proxy and teacher on {images}", size=11)
    write_figure(path, figure)


def _draw_lines(axes: "Axes", rows: Sequence[Row], names: dict[str, str], label: str) -> None:
    marks = itertools.cycle(zip("os^vDx", ("-", "--", "-.", ":", "-", "--"), strict=True))
    for (name, key), (mark, style) in zip(names.items(), marks, strict=False):
        epochs = [row["epoch"] for row in rows]
        values = [row[key] for row in rows]
        axes.plot(epochs, values, marker=mark, linestyle=style, markersize=4, label=name)
    axes.set(xlabel="epoch", title=label)
    axes.locator_params(axis="x", integer=True)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
