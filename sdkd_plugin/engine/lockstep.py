"""Runs trained in lockstep. What each leaves behind is, to the bit, what it leaves when it runs
alone.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack

import psutil
import torch
from yacs.config import CfgNode as CN

from sdkd_plugin.data.dataset import Dataset, load_dataset
from sdkd_plugin.engine.group import Group, Outcome, explain
from sdkd_plugin.engine.setup import thread_count
from sdkd_plugin.engine.threads import threads
from sdkd_plugin.errors import UserError
from sdkd_plugin.runs.folder import RunFolder

# What runs must agree in, beside their data, to be trained on the same batches.
SHARED = ("SEED", "BATCH_SIZE", "EPOCHS", "PRECISION", "CHANNELS_LAST", "DEVICE", "THREADS")
MEMORY_SHARE = 0.5  # of what is free when a group is built: the rest is for its steps


def meeting_key(cfg: CN, folder: RunFolder) -> str:
    """Equal for runs that can be trained together."""
    data = {key: v for key, v in folder.identity.items() if key.startswith(("DATASET.", "data"))}
    solver = {key: cfg.SOLVER[key] for key in SHARED}
    return repr(sorted({**data, **solver}.items()))


def train_together(cfgs: Iterable[CN], size: int = 0, processes: int = 1) -> Iterator[Outcome]:
    """Trains runs to their end, those together that can be; each goes on where it was left.

    Args:
        cfgs: resolved, unscaled.
        size: how many at most at a time; 0: as many as half of the free memory holds.
        processes: how many do this on the machine at once and share its memory.
    Yields:
        each run as it ends.
    """
    torch.use_deterministic_algorithms(True, warn_only=True)
    datasets: dict[str, Dataset] = {}
    waiting: dict[str, list[tuple[int, CN, RunFolder]]] = {}
    data_of: dict[str, Dataset] = {}
    for number, cfg in enumerate(cfgs):
        try:
            node = cfg.DATASET.dump()
            if node not in datasets:
                datasets[node] = load_dataset(cfg)
            folder = RunFolder.of(cfg, datasets[node])
            key = repr((meeting_key(cfg, folder), thread_count(cfg, folder)))
        except (UserError, OSError) as error:
            yield number, explain(error)
            continue
        waiting.setdefault(key, []).append((number, cfg, folder))
        data_of[key] = datasets[node]

    for key, runs in waiting.items():
        _, cfg, folder = runs[0]
        with threads(thread_count(cfg, folder)):
            while runs:
                yield from _train_some(runs, data_of[key], size, processes)


def _train_some(
    runs: list[tuple[int, CN, RunFolder]], dataset: Dataset, size: int, processes: int
) -> Iterator[Outcome]:
    """Takes off the list, and trains, as many runs as fit at once."""
    budget = MEMORY_SHARE * psutil.virtual_memory().available / processes
    group = Group(dataset, runs[0][1])
    with ExitStack() as stack:
        while runs and (not size or len(group.members) < size) and group.memory < budget:
            number, cfg, folder = runs.pop(0)
            try:
                lock = folder.lock()
                stack.callback(lock.release, force=True)
                stack.callback(folder.clear)
                group.add(number, cfg, folder)
            except Exception as error:  # this run's alone
                yield number, explain(error)
        yield from group.train()
