"""`examine`: a closer look at finished runs: accuracy by class, calibration, fidelity, what classes
are taken for alike, t-SNE.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from sdkd_plugin.errors import UserError, unknown
from sdkd_plugin.studies import agreement, calibration, embedding
from sdkd_plugin.studies.figure import write_rows
from sdkd_plugin.studies.networks import OpenedRun, Outputs, collect, open_run, spread
from sdkd_plugin.table.page.looks import CALIBRATION, FIDELITY, PER_CLASS, STUDIES

TSNE_IMAGES = 1000  # of t-SNE, whose time grows faster than their number


@dataclass(frozen=True)
class Seen:
    """What a look at a run begins with.

    Args:
        teacher: None for a method without one.
        folder: where the look writes.
        images: which were looked at, in words.
    """

    run: OpenedRun
    student: Outputs
    teacher: Outputs | None
    folder: Path
    images: str

    @property
    def networks(self) -> dict[str, Outputs]:
        found = {"student": self.student, "teacher": self.teacher}
        return {name: outputs for name, outputs in found.items() if outputs is not None}


def run_examine(
    path: Path,
    only: Sequence[str],
    images: int = 0,
    output: str | None = None,
    overrides: Sequence[str] = (),
) -> None:
    """Takes the looks at a run that are asked for; writes each as PNG and csv.

    Args:
        only: names in LOOKS; empty: all.
        output: a folder; None: `studies` in the run's.
    Raises:
        UserError: no such look, no such run, or one without a teacher for a look that needs one.
    """
    for name in only:
        if name not in LOOKS:
            raise unknown("look", name, LOOKS, "--only")
    run = open_run(path, overrides, images)
    folder = path / STUDIES if output is None else Path(output)
    told = _examine(run, folder, only)
    print(f"{path}: {'; '.join(told)}; in {folder}")


def _examine(run: OpenedRun, folder: Path, only: Sequence[str]) -> list[str]:
    chosen = [name for name in LOOKS if name in only or not only]
    student = run.student()
    teacher = run.teacher()
    if teacher is None:
        lacking = [name for name in only if name in WITH_TEACHER]
        if lacking:
            raise UserError(
                f"{run.path} has no teacher, which {', '.join(lacking)} compares with; allowed for "
                f"it: {', '.join(name for name in LOOKS if name not in WITH_TEACHER)}"
            )
        chosen = [name for name in chosen if name not in WITH_TEACHER]

    seen = _see(run, folder, student, teacher)
    return [LOOKS[name](seen) for name in chosen]


def _see(run: OpenedRun, folder: Path, student: nn.Module, teacher: nn.Module | None) -> Seen:
    networks = {"student": student, "teacher": teacher}
    outputs = {
        name: None if network is None else collect(network, run.batches(), name, features=True)
        for name, network in networks.items()
    }
    ours = outputs["student"]
    assert ours is not None
    words = f"{len(ours.target)} {run.dataset.evaluates} images"
    return Seen(run, ours, outputs["teacher"], folder, words)


def _per_class(seen: Seen) -> str:
    rows = agreement.per_class(seen.student, seen.teacher, seen.run.dataset.classes)
    write_rows(seen.folder / PER_CLASS, rows)
    agreement.draw_per_class(seen.folder / "per_class.png", rows, seen.images)
    return f"top-1 {seen.student.top1:.2f} %"


def _calibration(seen: Seen) -> str:
    networks = {name: calibration.reliability(each) for name, each in seen.networks.items()}
    rows = [{"network": name, **row} for name, each in networks.items() for row in each]
    write_rows(seen.folder / CALIBRATION, rows)
    calibration.draw_reliability(seen.folder / "calibration.png", networks, seen.images)
    return f"ECE {calibration.expected_error(networks['student']):.2f} %"


def _fidelity(seen: Seen) -> str:
    assert seen.teacher is not None
    values = agreement.fidelity(seen.student, seen.teacher)
    write_rows(seen.folder / FIDELITY, [values])
    agreement.draw_fidelity(seen.folder / "fidelity.png", values, seen.images)
    return f"agreement {values['agreement']:.2f} %"


def _correlation(seen: Seen) -> str:
    assert seen.teacher is not None
    gap, mean = agreement.correlation_gap(seen.student, seen.teacher)
    classes = seen.run.dataset.classes
    rows = [
        {"class": name, **dict(zip(classes, values, strict=True))}
        for name, values in zip(classes, gap.tolist(), strict=True)
    ]
    write_rows(seen.folder / "correlation.csv", rows)
    agreement.draw_correlation(seen.folder / "correlation.png", gap, mean, seen.images)
    return f"class correlations differ by {mean:.4f}"


def _tsne(seen: Seen) -> str:
    classes = seen.run.dataset.classes
    chosen = spread(seen.student.target, TSNE_IMAGES, len(classes))
    target = seen.student.target[chosen].numpy()
    points = {
        name: embedding.embed(replace(each, pooled=each.pooled[chosen]))
        for name, each in seen.networks.items()
        if each.pooled is not None
    }
    rows = [
        {"network": name, "image": image, "class": classes[label], "x": x, "y": y}
        for name, found in points.items()
        for image, label, (x, y) in zip(chosen.tolist(), target, found.tolist(), strict=True)
    ]
    write_rows(seen.folder / "tsne.csv", rows)
    images = f"{len(chosen)} of {seen.images}"
    draw = embedding.draw_embedding
    draw(seen.folder / "tsne.png", points, target, classes, images)
    return f"t-SNE of {len(chosen)} images"


LOOKS: dict[str, Callable[[Seen], str]] = {
    "per-class": _per_class,
    "calibration": _calibration,
    "fidelity": _fidelity,
    "correlation": _correlation,
    "tsne": _tsne,
}
WITH_TEACHER = ("fidelity", "correlation")
