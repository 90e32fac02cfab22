"""Reliability: how often a network is right when it says how sure it is."""

from pathlib import Path
from typing import Any

from sdkd_plugin.engine.evaluate import BINS
from sdkd_plugin.studies.figure import new_figure, write_figure
from sdkd_plugin.studies.networks import Outputs


def reliability(outputs: Outputs) -> list[dict[str, Any]]:
    """For each of the BINS bins of confidence (its largest softmax probability): low, high, how
    many images, their mean confidence and accuracy, %; None where there is no image.

    The bins are those of the expected calibration error in `engine.evaluate`.
    """
    confidence, predicted = outputs.logits.double().softmax(1).max(1)  # [N] each
    right = (predicted == outputs.target).double()
    place = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    rows = []
    for number in range(BINS):
        inside = place == number
        count = int(inside.sum())
        rows.append(
            {
                "low": 100 * number / BINS,
                "high": 100 * (number + 1) / BINS,
                "images": count,
                "confidence": 100 * confidence[inside].mean().item() if count else None,
                "accuracy": 100 * right[inside].mean().item() if count else None,
            }
        )
    return rows


def expected_error(rows: list[dict[str, Any]]) -> float:
    """Sum over bins of n_b / N |accuracy_b - confidence_b|, %."""
    total = sum(row["images"] for row in rows)
    gaps = [
        row["images"] * abs(row["accuracy"] - row["confidence"]) for row in rows if row["images"]
    ]
    return sum(gaps) / total


def draw_reliability(path: Path, networks: dict[str, list[dict[str, Any]]], images: str) -> None:
    """Draws a reliability diagram for each network: accuracy over confidence, and how many images
    each bin holds.
    """
    figure = new_figure(4.2 * len(networks), 5)
    panels = figure.subplots(
        2, len(networks), squeeze=False, sharex=True, height_ratios=(3, 1), sharey="row"
    )
    for (name, rows), (diagram, counts) in zip(networks.items(), panels.T, strict=True):
        middle = [(row["low"] + row["high"]) / 2 for row in rows]
        width = 100 / len(rows)
        diagram.bar(middle, [row["accuracy"] or 0 for row in rows], width, edgecolor="white")
        filled = [row for row in rows if row["images"]]
        diagram.plot(
            [row["confidence"] for row in filled],
            [row["accuracy"] for row in filled],
            "ko",
            markersize=3,
        )
        diagram.plot([0, 100], [0, 100], "k--", linewidth=1)
        diagram.set(title=f"{name}: ECE {expected_error(rows):.2f} %", ylim=(0, 100))
        counts.bar(middle, [row["images"] for row in rows], width, color="grey", edgecolor="white")
        counts.set(xlabel="confidence (%)", xlim=(0, 100))
    panels[0, 0].set_ylabel("accuracy (%)")
    panels[1, 0].set_ylabel("images")
    figure.suptitle(f"Reliability on {images}", size=11)
    write_figure(path, figure)
