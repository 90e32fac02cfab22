"""The one training loop: every method runs through it, none by name."""

import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tensorboardX import SummaryWriter
from torch import Tensor
from tqdm import tqdm
from yacs.config import CfgNode as CN

from sdkd_plugin.data.batches import Batch, EvalBatches, TrainBatches
from sdkd_plugin.data.dataset import Dataset
from sdkd_plugin.distillers.base import Distiller
from sdkd_plugin.engine import checkpoint
from sdkd_plugin.engine.evaluate import correct_within, evaluate
from sdkd_plugin.engine.folder import RunFolder
from sdkd_plugin.engine.randomness import torch_seeded
from sdkd_plugin.errors import UserError


def learning_rate(cfg: CN, epoch: int) -> float:
    """Step schedule: LR times LR_DECAY_RATE for each of LR_DECAY_STAGES that lies before `epoch` (1-based)."""
    return cfg.SOLVER.LR * cfg.SOLVER.LR_DECAY_RATE ** sum(epoch > stage for stage in cfg.SOLVER.LR_DECAY_STAGES)


def make_accelerator(cfg: CN) -> Accelerator:
    """Device and precision from SOLVER.DEVICE and SOLVER.PRECISION.

    Raises:
        UserError: no such device here, a precision the device lacks, or more than one process.
    """
    device, precision = cfg.SOLVER.DEVICE, cfg.SOLVER.PRECISION
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("SOLVER.DEVICE is 'cuda', but torch sees no CUDA device here; allowed: auto, cpu")
    cpu = device == "cpu" or not torch.cuda.is_available()
    if cpu and precision == "fp16":
        raise UserError("SOLVER.PRECISION is 'fp16', which needs CUDA; allowed on the CPU: fp32, bf16")
    accelerator = Accelerator(cpu=cpu, mixed_precision="no" if precision == "fp32" else precision)
    if accelerator.num_processes > 1:
        raise UserError(f"started as {accelerator.num_processes} processes; allowed: 1, data-parallel training is not built yet")
    return accelerator


class Trainer:
    """Trains `distiller` on `dataset` from `start` to the last epoch and leaves everything in `folder`.

    Args:
        cfg: the scaled config (epoch-valued keys are in epochs of this run).
        folder: where metrics and checkpoints go; None for timing only.
    """

    def __init__(self, cfg: CN, distiller: Distiller, dataset: Dataset, folder: RunFolder | None = None):
        self.cfg, self.folder = cfg, folder
        self.accelerator = make_accelerator(cfg)
        self.device = self.accelerator.device
        layout = torch.channels_last if cfg.SOLVER.CHANNELS_LAST else torch.contiguous_format
        distiller.to(self.device, memory_format=layout)
        # Plain SGD, one group, as in mdistiller; the fused kernel does the same arithmetic in one pass.
        self.optimizer = torch.optim.SGD(
            distiller.get_learnable_parameters(),
            lr=cfg.SOLVER.LR,
            momentum=cfg.SOLVER.MOMENTUM,
            weight_decay=cfg.SOLVER.WEIGHT_DECAY,
            fused=True,
        )
        self.bare = distiller
        self.distiller, self.optimizer = self.accelerator.prepare(distiller, self.optimizer)
        negatives = distiller.num_negatives if distiller.needs_negatives else 0
        self.train_batches = TrainBatches(dataset, cfg, self.device, num_negatives=negatives)
        self.eval_batches = EvalBatches(dataset.test, cfg, self.device)
        self.history: list[dict[str, float]] = []

    @property
    def best(self) -> dict[str, float]:
        """The first epoch with the highest evaluated top-1, as a row of the history."""
        return max(self.history, key=lambda row: row["test_top1"])

    def run(self) -> None:
        """Trains the epochs that the history does not hold yet."""
        writer = SummaryWriter(str(self.folder.path / "train.events"), purge_step=len(self.history) + 1)
        try:
            for epoch in range(len(self.history) + 1, self.cfg.SOLVER.EPOCHS + 1):
                row = self.train_epoch(epoch)
                self.history.append({**row, **self.evaluate()})
                self.save(epoch)
                for key, value in self.history[-1].items():
                    writer.add_scalar(key, value, epoch)
                writer.flush()
                tqdm.write(
                    f"epoch {epoch}/{self.cfg.SOLVER.EPOCHS}  lr {row['lr']:.4g}  loss {row['train_loss']:.4f}  "
                    f"train top-1 {row['train_top1']:.2f}  test top-1 {self.history[-1]['test_top1']:.2f}  {row['images_per_second']:.0f} images/s"
                )
        finally:
            writer.close()

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the training set; returns its row: epoch, lr, means per image of every loss and term, seconds."""
        lr = learning_rate(self.cfg, epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.distiller.train()
        totals: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self.device))
        count, began = 0, time.perf_counter()
        bar = tqdm(
            self.train_batches.epoch(epoch), total=len(self.train_batches), desc=f"epoch {epoch}", leave=False, disable=None
        )
        with torch_seeded(self.cfg.SOLVER.SEED, "epoch", epoch):  # for methods that draw in their step
            for step, batch in enumerate(bar, start=1):
                logits, losses = self.step(batch, epoch, step)
                n = len(batch.target)
                count += n
                totals["train_loss"] += n * sum(loss.detach() for loss in losses.values())
                totals["train_top1"] += 100 * correct_within(logits.detach(), batch.target, 1)
                for name, term in {**losses, **self.bare.terms}.items():
                    totals[name] += n * term.detach()
                if step % 20 == 0 and not bar.disable:
                    bar.set_postfix(
                        loss=f"{totals['train_loss'].item() / count:.3f}", top1=f"{totals['train_top1'].item() / count:.1f}"
                    )
        means = {name: total.item() / count for name, total in totals.items()}
        seconds = time.perf_counter() - began
        return {"epoch": epoch, "lr": lr, **means, "train_seconds": seconds, "images_per_second": count / seconds}

    def step(self, batch: Batch, epoch: int, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """One optimiser step. Returns the student's logits [N, K] and the weighted losses.

        Raises:
            UserError: a loss is not finite; nothing of this epoch is saved.
        """
        extras = {} if batch.contrastive_index is None else {"contrastive_index": batch.contrastive_index}
        with self.accelerator.autocast():
            logits, losses = self.distiller(image=batch.image, target=batch.target, epoch=epoch, index=batch.index, **extras)
        loss = sum(losses.values())
        if not torch.isfinite(loss):
            terms = {**losses, **self.bare.terms}
            bad = ", ".join(f"{name} = {value.item()}" for name, value in terms.items() if not torch.isfinite(value))
            raise UserError(
                f"loss is not finite at epoch {epoch}, step {step}: {bad}; lower SOLVER.LR or the term's weight "
                "(the last saved epoch is intact)"
            )
        self.accelerator.backward(loss)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return logits, losses

    def evaluate(self) -> dict[str, float]:
        """Scores the student on the evaluation split, in float32; returns its part of the epoch's row."""
        began = time.perf_counter()
        self.distiller.eval()
        score = evaluate(self.bare.forward_test, self.eval_batches)
        seconds = time.perf_counter() - began
        return {"test_loss": score.loss, "test_top1": score.top1, "test_top5": score.top5, "test_seconds": seconds}

    def save(self, epoch: int) -> None:
        """Writes metrics and the checkpoints mdistiller writes, under its names."""
        state = {
            "epoch": epoch,
            # the frozen teacher is loaded from its own file again, whose hash the run's identity holds
            "model": {k: v for k, v in self.bare.state_dict().items() if not k.startswith("teacher.")},
            "optimizer": self.optimizer.state_dict(),
            "best_acc": self.best["test_top1"],
            "history": self.history,
            "identity": self.folder.identity,
        }
        student = {"model": self.bare.student.state_dict()}
        names = ["latest"]
        if self.best["epoch"] == epoch:
            names.append("best")
        if epoch % self.cfg.LOG.SAVE_CHECKPOINT_FREQ == 0:
            names.append(f"epoch_{epoch}")
        for name in reversed(names):  # latest last: once it is there the epoch is complete
            checkpoint.save(student, self.folder.path / f"student_{name.removeprefix('epoch_')}")
            checkpoint.save(state, self.folder.path / name, keep_previous=name == "latest")
        self.folder.write_metrics(self.history)

    def resume(self) -> None:
        """Goes back to the last complete epoch, or to the one before if its checkpoint is damaged."""
        state = checkpoint.load_newest(self.folder.path / "latest", self._check)
        if state is None:
            return  # killed before the end of the first epoch
        teacher = {k: v for k, v in self.bare.state_dict().items() if k.startswith("teacher.")}
        self.bare.load_state_dict({**state["model"], **teacher})
        self.optimizer.load_state_dict(state["optimizer"])
        self.history = state["history"]
        self.folder.write_metrics(self.history)

    def _check(self, state: dict[str, Any], path: Path) -> None:
        lacking = {"model", "optimizer", "history", "identity"} - state.keys()
        if lacking or state["identity"] != self.folder.identity:
            raise UserError(
                f"checkpoint {path} is not of this run (lacks or differs in: {', '.join(sorted(lacking)) or 'identity'})"
            )
