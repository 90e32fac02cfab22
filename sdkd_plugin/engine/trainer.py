"""The one training loop: every method runs through it, none by name."""

import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm
from yacs.config import CfgNode as CN

from sdkd_plugin.data.batches import Batch, EvalBatches, TrainBatches
from sdkd_plugin.data.dataset import Dataset, hold_out
from sdkd_plugin.distillers.base import Distiller, Phase
from sdkd_plugin.engine.deploy import pack, pack_network
from sdkd_plugin.engine.dot import DOT
from sdkd_plugin.engine.evaluate import evaluate
from sdkd_plugin.engine.first_steps import FIRST, record_step
from sdkd_plugin.engine.memory import keep_freed_memory
from sdkd_plugin.engine.optimizer import leave_gradients, make_optimizer
from sdkd_plugin.engine.ranks import Ranks
from sdkd_plugin.engine.recorder import Recorder
from sdkd_plugin.engine.remaining import show_pace
from sdkd_plugin.engine.restore import history_fault, model_fault, optimizer_fault
from sdkd_plugin.engine.running import RunningEpoch
from sdkd_plugin.engine.schedule import learning_rate
from sdkd_plugin.errors import UserError
from sdkd_plugin.randomness import TorchStream, torch_seeded


class Trainer:
    """Trains a method on a data set, phase by phase, epoch by epoch.

    Args:
        cfg: the scaled config (epoch-valued keys are in epochs of this run).
        method: moved to the accelerator's device.
        accelerator: see `engine.device`.
    """

    def __init__(self, cfg: CN, method: Distiller, dataset: Dataset, accelerator: Accelerator):
        self.cfg = cfg
        self.dataset = dataset
        self.accelerator = accelerator
        self.device = accelerator.device
        self.ranks = Ranks(accelerator)
        if self.device.type == "cpu":
            keep_freed_memory()

        layout = torch.channels_last if cfg.SOLVER.CHANNELS_LAST else torch.contiguous_format
        method.to(self.device).to(memory_format=layout)
        self.method = method
        # the same, or what wraps it; several processes add up their gradients in `step`
        self.distiller = accelerator.prepare_model(method, evaluation_mode=True)
        self.schedule = [
            (phase, epoch) for phase in method.phases(cfg) for epoch in range(1, phase.epochs + 1)
        ]
        self.eval_batches = EvalBatches(dataset, cfg, self.device, *self._share)

    @property
    def _share(self) -> tuple[int, int]:
        return self.ranks.rank, self.ranks.size

    @property
    def phase(self) -> Phase:
        """The phase that was entered last."""
        assert self.method.phase is not None
        return self.method.phase

    def run(self, recorder: Recorder) -> None:
        """Trains the epochs that the recorder's history does not hold yet."""
        for phase, epoch in self.schedule[len(recorder.history) :]:
            self.reach(phase)
            began = time.perf_counter()
            running = self.train_epoch(epoch)
            self.end(running, recorder, time.perf_counter() - began)

    def train_epoch(self, epoch: int) -> RunningEpoch:
        """Takes all steps of an epoch, 1-based within the phase."""
        running = self.begin(epoch)
        title = f"{self.phase.name} {epoch}"
        batches = self.train_batches.epoch(epoch)
        hidden = None if self.ranks.writes else True  # None: unless there is a terminal
        bar = tqdm(batches, title, len(self.train_batches), leave=False, disable=hidden)
        for batch in bar:
            self.take(running, batch)
            if running.steps % 20 == 0 and not bar.disable:
                show_pace(bar, running, self.schedule)
        return running

    def reach(self, phase: Phase) -> None:
        """Begins a phase, unless it goes on."""
        if self.method.phase != phase:
            self.enter(phase, begin=True)

    def enter(self, phase: Phase, begin: bool) -> None:
        """Sets up a phase's trainable parameters, batches and optimiser; `begin` is False when
        resuming inside it.
        """
        solver = self.cfg.SOLVER
        with torch_seeded(solver.SEED, "begin", phase.name):
            groups = self.method.enter(phase, begin)

        dataset = self.dataset
        self.held_out = None
        if phase.validation:
            train, held = hold_out(dataset.train, phase.validation, dataset.classes)
            dataset = replace(dataset, train=train)
            held_out = replace(dataset, train=held)
            self.held_out = TrainBatches(held_out, self.cfg, self.device, 0, *self._share)
        self.train_batches = TrainBatches(
            dataset,
            self.cfg,
            self.device,
            self.method.num_negatives if self.method.needs_negatives else 0,
            *self._share,
            drop_last=self.method.needs_constant_batch,
        )

        optimizer = make_optimizer(groups, solver)
        self.hold_kd = optimizer.hold_kd if isinstance(optimizer, DOT) else None
        self.optimizer = self.accelerator.prepare(optimizer)

    def begin(self, epoch: int) -> RunningEpoch:
        """Starts an epoch of the phase."""
        phase = self.phase
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(epoch) * group["lr_factor"]
        self.distiller.train()
        # for methods that draw in their step
        stream = TorchStream(self.cfg.SOLVER.SEED, phase.name, epoch)
        return RunningEpoch(phase, epoch, stream, self.validation(epoch), self.device, self.ranks)

    def take(self, running: RunningEpoch, batch: Batch) -> None:
        """Trains the epoch's next step on this batch."""
        with running.stream:
            losses = self.step(running, batch)
        first = running.steps <= FIRST and (running.phase, running.epoch) == self.schedule[0]
        if first and self.ranks.size == 1:
            running.first_steps.append(record_step(losses, self.method.student))

    def end(
        self, running: RunningEpoch, recorder: Recorder, seconds: float, group_size: int = 1
    ) -> None:
        """Scores the epoch whose steps are all taken, and records it.

        Args:
            seconds: its training took.
            group_size: how many runs were trained together.
        """
        running.finite.look()
        self.ranks.average(self.method.buffers())  # else each has the norms of its share
        if running.first_steps and recorder.writes:
            recorder.folder.write_first_steps(running.first_steps)
        trained = running.row(self.rate(running.epoch), seconds, group_size)
        row = {"phase": running.phase.name, "epoch": running.epoch, **trained}
        if running.phase.scores:
            row |= self.evaluate(running.epoch)
        recorder.add(row, running.phase, self.states())

    def rate(self, epoch: int) -> float:
        """The learning rate in this epoch of the phase, before any group's own factor."""
        phase = self.phase
        return learning_rate(self.cfg, epoch) if phase.lr is None else phase.lr

    def validation(self, epoch: int) -> Iterator[Batch | None]:
        """Endless batches of the images that the phase holds out, in a new order each time round;
        None if it holds out none.
        """
        for again in itertools.count():
            if self.held_out is None:
                yield None
            else:
                yield from self.held_out.epoch(epoch + again * self.phase.epochs)

    def step(self, running: RunningEpoch, batch: Batch) -> dict[str, Tensor]:
        """One optimiser step. Returns the weighted losses.

        Raises:
            UserError: a loss is not finite, or the batch has one image and a norm needs more;
                nothing of this epoch is saved.
        """
        epoch, step = running.epoch, running.steps + 1
        held_out = next(running.validation)
        done = epoch - 1 + (step - 1) / len(self.train_batches)
        inputs: dict[str, Any] = {
            "image": batch.image,
            "target": batch.target,
            "epoch": epoch,
            "index": batch.index,
            "progress": done / self.phase.epochs,
        }
        if batch.contrastive_index is not None:
            inputs["contrastive_index"] = batch.contrastive_index
        if batch.strong is not None:
            inputs["strong"] = batch.strong
        extras: dict[str, Any] = {}
        if held_out is not None:
            extras["validation"] = (held_out.image, held_out.target)
        self.method.before_step(self.optimizer, **inputs, **extras)

        try:
            with self.accelerator.autocast():
                logits, losses = self.distiller(**inputs)
        except ValueError as error:
            if len(batch.target) > 1 or isinstance(error, UserError):
                raise
            # batch norm has no variance where a map is one value
            raise UserError(
                f"epoch {epoch}, step {step} is a batch of one image, which "
                f"{type(self.method).__name__} cannot train on ({error}); change SOLVER.BATCH_SIZE "
                "or DATASET.SUBSET, so that the last batch holds more"
            ) from error

        running.add(batch, logits, losses, self.method.terms)
        share = len(batch.target) / batch.count
        leave_gradients(losses, share, self.accelerator, self.ranks, self.method, self.hold_kd)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return losses

    def evaluate(self, epoch: int) -> dict[str, float]:
        """Scores what the method deploys on the evaluation split; returns its part of the epoch's
        row, `test_<metric>` for each metric.

        Raises:
            UserError: the logits are not finite, which a loss may hide until the next step;
                nothing of this epoch is saved.
        """
        began = time.perf_counter()
        self.distiller.eval()
        network = self.method.deployed()
        scores = evaluate(lambda image: network(image)[0], self.eval_batches, self.ranks.total)
        if not math.isfinite(scores["loss"]):
            raise UserError(
                f"the evaluated loss is {scores['loss']} after epoch {epoch}; lower SOLVER.LR "
                "(the last saved epoch is intact)"
            )
        row = {f"test_{name}": value for name, value in scores.items()}
        return {**row, "test_seconds": time.perf_counter() - began}

    def states(self) -> dict[str, dict[str, Any]]:
        """What `Recorder.add` saves."""
        states = {
            "latest": {"model": self._trained(), "optimizer": self.optimizer.state_dict()},
            "student": pack(self.method, self.cfg, self.dataset),
        }
        teacher = self.method.teacher
        if self.method.teacher_from == "scratch" and teacher is not None:
            states["teacher"] = pack_network(teacher, self.dataset)  # for DISTILLER.TEACHER_CKPT
        return states

    def resume(self, recorder: Recorder) -> None:
        """Goes back to the last complete epoch, if there is one."""
        state = recorder.load(self._fault)
        if state is None:
            return  # killed before the end of the first epoch
        phase, _ = self.schedule[len(recorder.history) - 1]
        self.enter(phase, begin=False)
        self.method.load_state_dict({**state["model"], **self._frozen()})
        self.optimizer.load_state_dict(state["optimizer"])

    def _fault(self, state: dict[str, Any]) -> str:
        """Why training cannot go on from this state; "" if it can. Changes nothing."""
        told = history_fault(state, self.schedule) or model_fault(state["model"], self._trained())
        if told:
            return told
        phase, _ = self.schedule[len(state["history"]) - 1]
        groups = self.method.get_parameter_groups(phase)
        return optimizer_fault(state["optimizer"], groups, self.cfg.SOLVER)

    def _trained(self) -> dict[str, Tensor]:
        """What resuming needs of the method's state."""
        frozen = self._frozen()
        return {k: v for k, v in self.method.state_dict().items() if k not in frozen}

    def _frozen(self) -> dict[str, Tensor]:
        """State of a teacher from a checkpoint: it is loaded from there again, and the run's
        identity holds its hash.
        """
        if self.method.teacher_from != "checkpoint":
            return {}
        return {k: v for k, v in self.method.state_dict().items() if k.startswith("teacher.")}
