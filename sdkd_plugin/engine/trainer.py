"""The one training loop: every method runs through it, none by name."""

import itertools
import math
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar
from torch import Tensor
from tqdm import tqdm
from yacs.config import CfgNode as CN

from sdkd_plugin.data.batches import Batch, EvalBatches, TrainBatches
from sdkd_plugin.data.dataset import Dataset, hold_out
from sdkd_plugin.distillers.base import Distiller, Phase
from sdkd_plugin.engine import checkpoint
from sdkd_plugin.engine.deploy import pack
from sdkd_plugin.engine.evaluate import correct_within, evaluate
from sdkd_plugin.engine.memory import keep_freed_memory
from sdkd_plugin.errors import UserError
from sdkd_plugin.randomness import torch_seeded
from sdkd_plugin.runs.folder import RunFolder


def learning_rate(cfg: CN, epoch: int) -> float:
    """Step schedule: LR times LR_DECAY_RATE for each of LR_DECAY_STAGES that lies before `epoch`
    (1-based).
    """
    return cfg.SOLVER.LR * cfg.SOLVER.LR_DECAY_RATE ** sum(
        epoch > phase for phase in cfg.SOLVER.LR_DECAY_STAGES
    )


def make_accelerator(cfg: CN) -> Accelerator:
    """Device and precision from SOLVER.DEVICE and SOLVER.PRECISION.

    Raises:
        UserError: no such device here, a precision the device lacks, or more than one process.
    """
    device, precision = cfg.SOLVER.DEVICE, cfg.SOLVER.PRECISION
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "SOLVER.DEVICE is 'cuda', but torch sees no CUDA device here; allowed: auto, cpu"
        )
    cpu = device == "cpu" or not torch.cuda.is_available()
    if cpu and precision == "fp16":
        raise UserError(
            "SOLVER.PRECISION is 'fp16', which needs CUDA; allowed on the CPU: fp32, bf16"
        )
    # else one process could not train in two precisions
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=cpu, mixed_precision="no" if precision == "fp32" else precision)
    if accelerator.num_processes > 1:
        raise UserError(
            f"started as {accelerator.num_processes} processes; allowed: 1, data-parallel training "
            f"is not built yet"
        )
    return accelerator


def open_events(folder: Path, step: int) -> EventsWriter:
    """A TensorBoard file whose steps replace those from `step` on in older files of the folder.

    It is written as it is told: SummaryWriter has a thread for that, and waits for ever once a full
    disk has ended it.
    """
    folder.mkdir(exist_ok=True)
    # its own name holds only the second
    events = EventsWriter(str(folder / "events"), f".from{step}")
    events.write_event(
        Event(wall_time=time.time(), step=step, session_log=SessionLog(status=SessionLog.START))
    )
    return events


class Trainer:
    """Trains `distiller` on `dataset`, phase by phase, epoch by epoch, and leaves everything in
    `folder`.

    Args:
        cfg: the scaled config (epoch-valued keys are in epochs of this run).
        folder: where metrics and checkpoints go; None for timing only.
    """

    def __init__(
        self, cfg: CN, distiller: Distiller, dataset: Dataset, folder: RunFolder | None = None
    ):
        self.cfg, self.dataset, self.folder = cfg, dataset, folder
        self.accelerator = make_accelerator(cfg)
        self.device = self.accelerator.device
        if self.device.type == "cpu":
            keep_freed_memory()
        layout = torch.channels_last if cfg.SOLVER.CHANNELS_LAST else torch.contiguous_format
        distiller.to(self.device, memory_format=layout)
        self.method = distiller
        self.distiller = self.accelerator.prepare(distiller)
        self.schedule = [
            (phase, epoch)
            for phase in distiller.phases(cfg)
            for epoch in range(1, phase.epochs + 1)
        ]
        self.eval_batches = EvalBatches(dataset, cfg, self.device)
        self.history: list[dict[str, Any]] = []

    @property
    def best(self) -> dict[str, Any] | None:
        """The first epoch with the highest evaluated top-1, as a row of the history; None before
        any was scored.
        """
        scored = [row for row in self.history if "test_top1" in row]
        return max(scored, key=lambda row: row["test_top1"], default=None)

    def run(self) -> None:
        """Trains the epochs that the history does not hold yet."""
        events = open_events(self.folder.path / "train.events", len(self.history) + 1)
        for phase, epoch in self.schedule[len(self.history) :]:
            if self.method.phase != phase:
                self.enter(phase, begin=True)
            row = {"phase": phase.name, "epoch": epoch, **self.train_epoch(epoch)}
            self.history.append({**row, **(self.evaluate() if phase.scores else {})})
            self.save()
            self.report(events)
        events.close()

    def enter(self, phase: Phase, begin: bool) -> None:
        """Sets up a phase's batches, trainable parameters and optimiser; `begin` is False when
        resuming inside it.
        """
        self.method.phase = phase
        if begin:
            with torch_seeded(self.cfg.SOLVER.SEED, "begin", phase.name):
                self.method.begin_phase(phase)
        dataset, self.held_out = self.dataset, None
        if phase.validation:
            train, held = hold_out(dataset.train, phase.validation, dataset.classes)
            dataset = replace(dataset, train=train)
            self.held_out = TrainBatches(replace(dataset, train=held), self.cfg, self.device)
        self.train_batches = TrainBatches(
            dataset,
            self.cfg,
            self.device,
            num_negatives=self.method.num_negatives if self.method.needs_negatives else 0,
            drop_last=self.method.needs_constant_batch,
        )
        groups = [{"lr_factor": 1.0, **group} for group in self.method.get_parameter_groups(phase)]
        self.method.requires_grad_(False)
        for group in groups:
            for parameter in group["params"]:
                parameter.requires_grad_(True)
        # Plain SGD as in mdistiller; the fused kernel does the same arithmetic in one pass.
        momentum, decay = self.cfg.SOLVER.MOMENTUM, self.cfg.SOLVER.WEIGHT_DECAY
        optimizer = torch.optim.SGD(
            groups, lr=self.cfg.SOLVER.LR, momentum=momentum, weight_decay=decay, fused=True
        )
        self.optimizer = self.accelerator.prepare(optimizer)

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the training set; returns lr, the means per image of every loss and term,
        and the time.
        """
        phase = self.method.phase
        lr = learning_rate(self.cfg, epoch) if phase.lr is None else phase.lr
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_factor"]
        self.distiller.train()
        totals: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self.device))
        count, began = 0, time.perf_counter()
        batches, validation = self.train_batches.epoch(epoch), self.validation(epoch)
        bar = tqdm(
            batches,
            total=len(self.train_batches),
            desc=f"{phase.name} {epoch}",
            leave=False,
            disable=None,
        )
        with torch_seeded(
            self.cfg.SOLVER.SEED, phase.name, epoch
        ):  # for methods that draw in their step
            for step, batch in enumerate(bar, start=1):
                logits, losses = self.step(batch, epoch, step, next(validation))
                n = len(batch.target)
                count += n
                totals["train_loss"] += n * sum(loss.detach() for loss in losses.values())
                totals["train_top1"] += 100 * correct_within(logits.detach(), batch.target, 1)
                for name, term in {**losses, **self.method.terms}.items():
                    totals[name] += n * term.detach()
                if step % 20 == 0 and not bar.disable:
                    bar.set_postfix(
                        {
                            name: f"{totals[name].item() / count:.3f}"
                            for name in ("train_loss", "train_top1")
                        }
                    )
        means = {name: total.item() / count for name, total in totals.items()}
        seconds = time.perf_counter() - began
        return {"lr": lr, **means, "train_seconds": seconds, "images_per_second": count / seconds}

    def validation(self, epoch: int) -> Iterator[Batch | None]:
        """Endless batches of the images that the phase holds out, in a new order each time round;
        None if it holds out none.
        """
        for again in itertools.count():
            if self.held_out is None:
                yield None
            else:
                yield from self.held_out.epoch(epoch + again * self.method.phase.epochs)

    def step(
        self, batch: Batch, epoch: int, step: int, held_out: Batch | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One optimiser step. Returns the student's logits [N, K] and the weighted losses.

        Raises:
            UserError: a loss is not finite, or the batch has one image and a norm needs more;
                nothing of this epoch is saved.
        """
        phase = self.method.phase
        inputs = {
            "image": batch.image,
            "target": batch.target,
            "epoch": epoch,
            "index": batch.index,
        }
        inputs["progress"] = (epoch - 1 + (step - 1) / len(self.train_batches)) / phase.epochs
        if batch.contrastive_index is not None:
            inputs["contrastive_index"] = batch.contrastive_index
        validation = {} if held_out is None else {"validation": (held_out.image, held_out.target)}
        self.method.before_step(self.optimizer, **inputs, **validation)
        try:
            with self.accelerator.autocast():
                logits, losses = self.distiller(**inputs)
        except ValueError as error:
            if len(batch.target) > 1 or isinstance(error, UserError):
                raise
            raise UserError(  # batch norm has no variance where a map is one value
                f"epoch {epoch}, step {step} is a batch of one image, which "
                f"{type(self.method).__name__} cannot train on "
                f"({error}); change SOLVER.BATCH_SIZE or DATASET.SUBSET, so that the last batch "
                f"holds more"
            ) from error
        loss = sum(losses.values())
        if not torch.isfinite(loss):
            terms = {**losses, **self.method.terms}
            bad = ", ".join(
                f"{name} = {value.item()}"
                for name, value in terms.items()
                if not torch.isfinite(value)
            )
            raise UserError(
                f"loss is not finite at epoch {epoch}, step {step}: {bad}; lower SOLVER.LR or the "
                f"term's weight "
                "(the last saved epoch is intact)"
            )
        self.accelerator.backward(loss)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return logits, losses

    def evaluate(self) -> dict[str, float]:
        """Scores what the method deploys on the evaluation split, in float32; returns its part of
        the epoch's row.

        Raises:
            UserError: the logits are not finite, which a loss may hide until the next step; nothing
                of this epoch is saved.
        """
        began = time.perf_counter()
        self.distiller.eval()
        network = self.method.deployed()
        score = evaluate(lambda image: network(image)[0], self.eval_batches)
        if not math.isfinite(score.loss):
            raise UserError(
                f"the evaluated loss is {score.loss} after epoch {len(self.history) + 1}; lower "
                f"SOLVER.LR "
                "(the last saved epoch is intact)"
            )
        seconds = time.perf_counter() - began
        return {
            "test_loss": score.loss,
            "test_top1": score.top1,
            "test_top5": score.top5,
            "test_seconds": seconds,
        }

    def report(self, events: EventsWriter) -> None:
        """Shows the last epoch on the terminal and in TensorBoard."""
        row = self.history[-1]
        for key, value in row.items():
            if key != "phase":
                events.write_event(
                    Event(wall_time=time.time(), step=len(self.history), summary=scalar(key, value))
                )
        events.flush()
        top1 = f"test top-1 {row['test_top1']:.2f}  " if "test_top1" in row else ""
        tqdm.write(
            f"{row['phase']} {row['epoch']}/{self.method.phase.epochs}  lr {row['lr']:.4g}  loss "
            f"{row['train_loss']:.4f}  "
            f"train top-1 {row['train_top1']:.2f}  {top1}{row['images_per_second']:.0f} images/s"
        )

    def save(self) -> None:
        """Writes metrics and the checkpoints mdistiller writes, under its names."""
        best, epoch, frozen = self.best, len(self.history), self._frozen()
        state = {
            "epoch": epoch,
            "model": {k: v for k, v in self.method.state_dict().items() if k not in frozen},
            "optimizer": self.optimizer.state_dict(),
            "best_acc": best["test_top1"] if best else -1.0,
            "history": self.history,
            "identity": self.folder.identity,
        }
        student = pack(self.method, self.cfg, self.dataset.num_classes)
        names = ["latest"]
        if best is self.history[-1]:
            names.append("best")
        if epoch % self.cfg.LOG.SAVE_CHECKPOINT_FREQ == 0:
            names.append(f"epoch_{epoch}")
        if self.method.teacher_from == "scratch":  # a checkpoint for DISTILLER.TEACHER_CKPT
            checkpoint.save(
                {"model": self.method.teacher.state_dict()}, self.folder.path / "teacher_latest"
            )
        for name in reversed(names):  # latest last: once it is there the epoch is complete
            checkpoint.save(student, self.folder.path / f"student_{name.removeprefix('epoch_')}")
            checkpoint.save(state, self.folder.path / name, keep_previous=name == "latest")
        self.folder.write_metrics(self.history)

    def _frozen(self) -> dict[str, Tensor]:
        """State of a teacher from a checkpoint: it is loaded from there again, and the run's
        identity holds its hash.
        """
        if self.method.teacher_from != "checkpoint":
            return {}
        return {k: v for k, v in self.method.state_dict().items() if k.startswith("teacher.")}

    def resume(self) -> None:
        """Goes back to the last complete epoch, or to the one before if its checkpoint is
        damaged.
        """
        state = checkpoint.load_newest(self.folder.path / "latest", self._check)
        if state is None:
            return  # killed before the end of the first epoch
        self.history = state["history"]
        phase, epoch = self.schedule[len(self.history) - 1]
        self.enter(phase, begin=False)
        self.method.load_state_dict({**state["model"], **self._frozen()})
        self.optimizer.load_state_dict(state["optimizer"])
        self.folder.write_metrics(self.history)

    def _check(self, state: dict[str, Any], path: Path) -> None:
        lacking = {"model", "optimizer", "history", "identity"} - state.keys()
        if lacking or state["identity"] != self.folder.identity:
            raise UserError(
                f"checkpoint {path} is not of this run (lacks or differs in: "
                f"{', '.join(sorted(lacking)) or 'identity'})"
            )
