"""How a student compares with its teacher: class by class, image by image, and in what it takes for
alike.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdkd_plugin.studies.figure import new_figure, write_figure
from sdkd_plugin.studies.networks import Outputs
from sdkd_plugin.studies.representation import mean_kl


def per_class(student: Outputs, teacher: Outputs | None, classes: Sequence[str]) -> list[dict]:
    """For each class its images, the student's accuracy and, where there is a teacher, that one's,
    %, and what the student most often takes it for when it errs.
    """
    rows = []
    for label, name in enumerate(classes):
        own = student.target == label
        count = int(own.sum())
        row: dict[str, Any] = {"class": name, "images": count}
        for network, outputs in (("student", student), ("teacher", teacher)):
            if outputs is not None:
                right = (outputs.predicted[own] == label).double()
                row[network] = 100 * right.mean().item() if count else None
        wrong = student.predicted[own & (student.predicted != label)]
        errors = torch.bincount(wrong, minlength=len(classes))
        row["taken_for"] = classes[int(errors.argmax())] if len(wrong) else ""
        row["times"] = int(errors.max())
        rows.append(row)
    return rows


def draw_per_class(path: Path, rows: Sequence[dict], images: str) -> None:
    """Draws each class's accuracy, the student's worst first."""
    seen = sorted((row for row in rows if row["images"]), key=lambda row: row["student"])
    figure = new_figure(max(6, 0.17 * len(seen)), 4)
    axes = figure.subplots()
    places = range(len(seen))
    if "teacher" in seen[0]:
        axes.plot(places, [row["teacher"] for row in seen], "s", mfc="none", label="teacher")
    axes.plot(places, [row["student"] for row in seen], "o", label="student")
    axes.set_xticks(places, [row["class"] for row in seen], rotation=90, size=7)
    axes.set(ylabel="accuracy (%)", title=f"Accuracy by class on {images}", ylim=(-3, 103))
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
    write_figure(path, figure)


def fidelity(student: Outputs, teacher: Outputs) -> dict[str, float]:
    """How far the student does what its teacher does; shares of images in %.

    agreement: both predict the same class, also over the images where the teacher is right and
    where it is wrong (NaN where there is none); both_right, only_student, only_teacher, both_wrong
    add up to 100; kl: KL(teacher || student) at temperature 1, in nats.

    Source: agreement as in Stanton et al., Does Knowledge Distillation Really Work?, NeurIPS 2021.
    """
    same = (student.predicted == teacher.predicted).double()
    ours = student.predicted == student.target
    theirs = teacher.predicted == teacher.target
    shares = {
        "both_right": ours & theirs,
        "only_student": ours & ~theirs,
        "only_teacher": ~ours & theirs,
        "both_wrong": ~ours & ~theirs,
    }
    return {
        "agreement": 100 * same.mean().item(),
        "agreement_teacher_right": 100 * same[theirs].mean().item(),
        "agreement_teacher_wrong": 100 * same[~theirs].mean().item(),
        **{name: 100 * share.double().mean().item() for name, share in shares.items()},
        "kl": mean_kl(teacher.logits, student.logits),
    }


def draw_fidelity(path: Path, values: dict[str, float], images: str) -> None:
    """Draws who is right, as one bar, and the agreement."""
    figure = new_figure(7, 2.8)
    axes = figure.subplots()
    left = 0.0
    hatches = {"both_right": "", "only_student": "//", "only_teacher": "\\\\", "both_wrong": ".."}
    for name, hatch in hatches.items():
        label = f"{name.replace('_', ' ')} {values[name]:.1f} %"
        axes.barh(0, values[name], left=left, hatch=hatch, edgecolor="white", label=label)
        left += values[name]
    told = f"agreement {values['agreement']:.2f} %, KL(teacher || student) {values['kl']:.3f} nats"
    axes.set(xlim=(0, 100), yticks=[], xlabel="share of images (%)", title=f"{told}, {images}")
    figure.legend(ncols=2, loc="outside lower center", frameon=False)
    write_figure(path, figure)


def class_correlation(logits: Tensor) -> Tensor:
    """[K, K] Pearson's correlation over images of each two classes' logits [N, K]; 0 for a class
    whose logit never changes.

    Source: the figures of Tian et al., Contrastive Representation Distillation, ICLR 2020.
    """
    found = torch.corrcoef(logits.double().T)  # [K, K]
    return found.reshape(logits.shape[1], -1).nan_to_num(0.0)


def correlation_gap(student: Outputs, teacher: Outputs) -> tuple[Tensor, float]:
    """The student's class correlations minus its teacher's [K, K], and the mean absolute value of
    that off the diagonal.
    """
    gap = class_correlation(student.logits) - class_correlation(teacher.logits)
    k = len(gap)
    outside = gap.abs().sum() - gap.diagonal().abs().sum()
    return gap, outside.item() / (k * (k - 1))


def draw_correlation(path: Path, gap: Tensor, mean: float, images: str) -> None:
    """Draws the difference of correlations, with the same colours for every run."""
    figure = new_figure(5.6, 5)
    axes = figure.subplots()
    shown = axes.imshow(gap.numpy(), cmap="RdBu_r", vmin=-1, vmax=1)
    figure.colorbar(shown, label="student minus teacher")
    axes.set(xlabel="class", ylabel="class")
    axes.set_title(
        f"Difference of class correlations on {images}\nmean absolute {mean:.4f}", size=10
    )
    write_figure(path, figure)
