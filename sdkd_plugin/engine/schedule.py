"""The learning rate of an epoch, and what a short run makes of its schedule."""

import itertools
import math
from collections.abc import Iterable, Iterator

from yacs.config import CfgNode as CN

from sdkd_plugin.config import epoch_keys
from sdkd_plugin.distillers.base import Phase
from sdkd_plugin.settings import flatten


def learning_rate(cfg: CN, epoch: int) -> float:
    """Step schedule: LR times LR_DECAY_RATE for each of LR_DECAY_STAGES before `epoch`, from 1."""
    decays = sum(epoch > stage for stage in cfg.SOLVER.LR_DECAY_STAGES)
    return cfg.SOLVER.LR * cfg.SOLVER.LR_DECAY_RATE**decays


def schedule_notes(cfg: CN, phases: Iterable[Phase]) -> Iterator[str]:
    """What a run has too few epochs for, a line each: decays that have no epochs of their own, and
    ramps that do not end.

    Args:
        cfg: scaled.
        phases: of the run.
    """
    phases = list(phases)
    for phase in phases:
        found = _faults(cfg, phase.epochs) if phase.lr is None else []
        if found:
            where = f"phase {phase.name!r}: " if len(phases) > 1 else ""
            yield f"{where}{_rates(cfg, phase.epochs)}; {', '.join(found)}"

    epochs = cfg.SOLVER.EPOCHS
    if sum(phase.epochs for phase in phases) != epochs:
        return  # its keys say how long its other phases are
    flat = dict(flatten(cfg))
    for key in epoch_keys(cfg):
        if not isinstance(flat[key], list) and flat[key] > epochs:
            yield f"{key} is {flat[key]:g} epochs, of {epochs} in all: its ramp does not end"


def _faults(cfg: CN, epochs: int) -> list[str]:
    """What is odd about the decays in so many epochs, in words."""
    solver = cfg.SOLVER
    if solver.LR_DECAY_RATE == 1:
        return []
    first = [math.floor(stage) + 1 for stage in solver.LR_DECAY_STAGES]  # epochs with that decay
    early = sum(epoch <= 1 for epoch in first)
    late = sum(epoch > epochs for epoch in first)
    inside = [epoch for epoch in first if 1 < epoch <= epochs]

    found = []
    if early and not inside:
        share = solver.LR_DECAY_RATE**early
        found.append(f"all of it trains at SOLVER.LR {solver.LR:g} times {share:.4g}")
    elif early:
        found.append(f"no epoch has SOLVER.LR {solver.LR:g}")
    if len({*inside}) < len(inside):
        found.append("several decays come at once")
    if late:
        hint = (
            "" if solver.SCHEDULE_EPOCHS else " (SOLVER.SCHEDULE_EPOCHS, such as 240, scales them)"
        )
        found.append(f"{late} of {len(first)} decays never come{hint}")
    return found


def _rates(cfg: CN, epochs: int) -> str:
    """The decays, and the rates of all epochs, equal ones in one."""
    solver = cfg.SOLVER
    parts = []
    rates = itertools.groupby(range(1, epochs + 1), lambda epoch: learning_rate(cfg, epoch))
    for rate, group in rates:
        own = list(group)
        last = f"-{own[-1]}" if len(own) > 1 else ""
        parts.append(f"{own[0]}{last} at {rate:.4g}")

    stages = ", ".join(f"{stage:g}" for stage in solver.LR_DECAY_STAGES)
    scaled = solver.SCHEDULE_EPOCHS not in (0, solver.EPOCHS)
    source = f", scaled from {solver.SCHEDULE_EPOCHS}" if scaled else ""
    return (
        f"SOLVER.LR_DECAY_STAGES is [{stages}] for {epochs} epochs{source}; rates by epoch: "
        f"{', '.join(parts)}"
    )
