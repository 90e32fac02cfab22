"""A group of runs that are trained in turn, step by step, on the same batches: each batch is made
once, and a frozen teacher looks at it once for all that it teaches.
"""

import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

from tqdm import tqdm
from yacs.config import CfgNode as CN

from sdkd_plugin.data.batches import Batch, TrainBatches
from sdkd_plugin.data.dataset import Dataset, hold_out
from sdkd_plugin.distillers.base import Phase
from sdkd_plugin.engine.device import make_accelerator
from sdkd_plugin.engine.optimizer import buffer_names
from sdkd_plugin.engine.remaining import seconds_left
from sdkd_plugin.engine.run import make_result
from sdkd_plugin.engine.running import RunningEpoch
from sdkd_plugin.engine.setup import (
    LoadedTeacher,
    Setup,
    load_teacher,
    prepare,
    say_start,
    start,
)
from sdkd_plugin.engine.shared import OncePerBatch
from sdkd_plugin.errors import UserError
from sdkd_plugin.runs.folder import RunFolder

# a run's place in what was asked for, and why it failed, or None
Outcome = tuple[int, Exception | None]


class Member:
    """A run of a group.

    Args:
        number: its place in what was asked for.
        teacher: the shared one; None for a method that shares none.
    """

    def __init__(
        self,
        number: int,
        folder: RunFolder,
        setup: Setup,
        teacher: OncePerBatch | None,
    ):
        self.number = number
        self.folder = folder
        self.setup = setup
        self.teacher = teacher
        self.trainer, self.recorder = start(setup, folder)
        self.recorder.label = f"{folder.path.parent.name}: "
        self.running: RunningEpoch | None = None
        self.seconds = 0.0  # of the running epoch, this run's share

    @property
    def rest(self) -> list[tuple[Phase, int]]:
        """The epochs it still has to train."""
        return self.trainer.schedule[len(self.recorder.history) :]

    @property
    def meeting(self) -> tuple[int, float]:
        """What its next epoch's batches follow from, with what all runs of the group have in
        common.
        """
        phase, epoch = self.rest[0]
        return epoch, phase.validation

    @property
    def memory(self) -> int:
        """Bytes that it holds between its steps: state, places of gradients and momenta."""
        method = self.trainer.method
        trained = sum(p.numel() * p.element_size() for p in method.get_learnable_parameters())
        held = [*method.student.state_dict().values(), *method.buffers()]
        places = 2 + len(buffer_names(self.trainer.cfg.SOLVER))
        return places * trained + sum(value.numel() * value.element_size() for value in held)

    def begin(self) -> None:
        """Starts its next epoch."""
        phase, epoch = self.rest[0]
        self.trainer.reach(phase)
        self.running = self.trainer.begin(epoch)
        self.seconds = 0.0

    def take(self, batch: Batch, number: int) -> bool:
        """Trains one step on the group's batch, whose place in the epoch is `number` from 0;
        returns whether the shared teacher was asked.
        """
        batches = self.trainer.train_batches
        assert self.running is not None
        if number >= len(batches):  # the last, short batch, which this method leaves out
            return False
        asked = self.teacher.calls if self.teacher else 0
        shared = self.teacher.seconds if self.teacher else 0.0
        began = time.perf_counter()
        own = batches.with_negatives(batch, self.running.epoch, number)
        self.trainer.take(self.running, own)
        self.seconds += time.perf_counter() - began
        if self.teacher is None:
            return False
        self.seconds -= self.teacher.seconds - shared
        return self.teacher.calls > asked

    def end(self, group_size: int) -> None:
        """Scores and records its epoch."""
        assert self.running is not None
        self.trainer.end(self.running, self.recorder, self.seconds, group_size)
        self.running = None

    def finish(self) -> None:
        """Writes the record of a run that has no epoch left."""
        record = make_result(self.setup, self.trainer, self.recorder)
        record.write(self.folder.path)
        self.recorder.finish(record)


class Group:
    """Runs that are trained together.

    Args:
        dataset: of all of them.
        cfg: of one of them, for what they have in common.
    """

    def __init__(self, dataset: Dataset, cfg: CN):
        self.dataset = dataset
        self.cfg = cfg
        self.device = make_accelerator(cfg).device
        self.members: list[Member] = []
        self.teachers: dict[str, tuple[LoadedTeacher, OncePerBatch]] = {}
        self.outcomes: list[Outcome] = []  # not told yet

    def add(self, number: int, cfg: CN, folder: RunFolder) -> None:
        """Builds a run of the group, or takes it up where it was left. Its folder is locked."""
        folder.check(resume=True)
        if folder.result is not None:
            self.outcomes.append((number, None))
            return

        loaded, shared = self._teacher(cfg, folder)
        setup = prepare(cfg, self.dataset, folder, loaded)
        member = Member(number, folder, setup, shared)
        member.recorder.left = self._seconds_left
        say_start(member.trainer, member.recorder)
        self.members.append(member)

    def _seconds_left(self) -> float | None:
        """Of all runs, which take turns; one without an epoch so far counts as the others' mean."""
        left = [seconds_left(m.recorder.history, m.trainer.schedule) for m in self.members]
        known = [seconds for seconds in left if seconds is not None]
        return sum(known) * len(left) / len(known) if known else None

    def _teacher(
        self, cfg: CN, folder: RunFolder
    ) -> tuple[LoadedTeacher | None, OncePerBatch | None]:
        """The trained teacher of a run, loaded once for all; none for a method without."""
        digest = folder.identity["teacher"]
        if digest is None:
            return None, None
        if digest not in self.teachers:
            loaded = load_teacher(cfg, self.dataset, folder, self.device)
            self.teachers[digest] = (loaded, OncePerBatch(loaded.network, cfg.DATASET.VIEWS))
        return self.teachers[digest]

    @property
    def memory(self) -> int:
        """Bytes that its runs hold between their steps."""
        return sum(member.memory for member in self.members)

    def train(self) -> Iterator[Outcome]:
        """Trains all runs to their end; yields each as it ends.

        Those with the most epochs left go first, so that runs that stand at different epochs meet.
        """
        yield from self._told()
        while self.members:
            last = max(self.members, key=lambda member: len(member.rest))
            self._train_epoch([m for m in self.members if m.meeting == last.meeting])
            yield from self._told()

    def _told(self) -> Iterator[Outcome]:
        for member in [m for m in self.members if not m.rest]:
            self._each([member], Member.finish)
            if member in self.members:
                self.members.remove(member)
                self.outcomes.append((member.number, None))
        yield from self.outcomes
        self.outcomes = []

    def _train_epoch(self, together: list[Member]) -> None:
        """Trains the next epoch of runs whose batches are the same."""
        size = len(together)
        epoch, held_out = together[0].meeting
        phase = together[0].rest[0][0]
        batches = self._batches(held_out)
        together = self._each(together, Member.begin)
        title = f"{phase.name} {epoch}, {size} runs"
        bar = tqdm(batches.epoch(epoch), title, len(batches), leave=False, disable=None)

        began = time.perf_counter()
        for number, batch in enumerate(bar):
            made = time.perf_counter() - began
            together = self._take(together, batch, number, made)
            began = time.perf_counter()

        for _, shared in self.teachers.values():
            shared.forget()
        self._each(together, lambda member: member.end(size))

    def _take(self, together: list[Member], batch: Batch, number: int, made: float) -> list[Member]:
        """One step of each run; what was done for all is shared out between those it was for.

        Args:
            made: seconds that it took to make the batch.
        """
        before = {shared: shared.seconds for _, shared in self.teachers.values()}
        asked: dict[OncePerBatch, list[Member]] = {shared: [] for shared in before}

        def step(member: Member) -> None:
            if member.take(batch, number) and member.teacher is not None:
                asked[member.teacher].append(member)

        together = self._each(together, step)
        for member in together:
            member.seconds += made / len(together)
        for shared, users in asked.items():
            for member in users:
                member.seconds += (shared.seconds - before[shared]) / len(users)
        return together

    def _batches(self, held_out: float) -> TrainBatches:
        dataset = self.dataset
        if held_out:
            train, _ = hold_out(dataset.train, held_out, dataset.classes)
            dataset = replace(dataset, train=train)
        return TrainBatches(dataset, self.cfg, self.device)

    def _each(self, members: list[Member], act: Callable[[Member], Any]) -> list[Member]:
        """Does something with each run; one that fails leaves the group with its message, and the
        others go on. Returns those that are left.
        """
        left = []
        for member in members:
            try:
                act(member)
            except Exception as error:  # whatever it is, it is this run's alone
                self.members.remove(member)
                self.outcomes.append((member.number, explain(error)))
                with suppress(OSError):  # a full disk, which it failed by
                    member.recorder.close()
            else:
                left.append(member)
        return left


def explain(error: Exception) -> Exception:
    """A run's failure, to be told by its text; where no user caused it, the traceback goes to
    stderr.
    """
    if isinstance(error, UserError | OSError):
        return error
    traceback.print_exception(error, file=sys.stderr)
    return RuntimeError(f"{type(error).__name__}: {error}")
