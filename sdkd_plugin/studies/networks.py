"""Networks of finished runs and of teachers' files, and what they say of the evaluated images."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm
from yacs.config import CfgNode as CN

from sdkd_plugin import weights
from sdkd_plugin.config import load_config, scaled_config
from sdkd_plugin.data.batches import EvalBatches
from sdkd_plugin.data.dataset import Dataset, choose_per_class, load_dataset
from sdkd_plugin.data.images import content_hash
from sdkd_plugin.distillers.base import Distiller
from sdkd_plugin.engine.build import build_distiller, build_teacher
from sdkd_plugin.engine.deploy import load_network
from sdkd_plugin.engine.device import make_accelerator
from sdkd_plugin.engine.restore import model_fault
from sdkd_plugin.errors import UserError
from sdkd_plugin.files import read_object, sha256
from sdkd_plugin.idle import todays_identity
from sdkd_plugin.models import build_model
from sdkd_plugin.runs.folder import RunFolder
from sdkd_plugin.runs.identity import difference
from sdkd_plugin.runs.read import VANILLA

STUDENT = "student_latest"
OWN_TEACHER = "teacher_latest"  # of a method that trains its teacher


@dataclass(frozen=True)
class Outputs:
    """What a network says of every evaluated image.

    Args:
        logits: [N, K] float32, on the CPU.
        target: [N] int64, class numbers.
        pooled: [N, D], the features that the classifier sees; None unless asked for.
    """

    logits: Tensor
    target: Tensor
    pooled: Tensor | None = None

    @property
    def predicted(self) -> Tensor:
        """[N] class numbers."""
        return self.logits.argmax(1)

    @property
    def top1(self) -> float:
        """Share of the images whose class has the largest logit, %."""
        return 100 * (self.predicted == self.target).double().mean().item()


@torch.no_grad()
def collect(
    network: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    name: str,
    features: bool = False,
) -> Outputs:
    """Runs a network, in the mode that it is in, over all batches.

    Args:
        name: of the progress bar, where a terminal shows one.
        features: whether `pooled` is wanted.
    """
    logits = []
    targets = []
    pooled = []
    for image, target in tqdm(batches, name, disable=None, leave=False):
        output, feats = network(image)
        logits.append(output.float().cpu())
        targets.append(target.cpu())
        if features:
            pooled.append(feats["pooled_feat"].float().cpu())
    found = torch.cat(pooled) if features else None
    return Outputs(torch.cat(logits), torch.cat(targets), found)


@dataclass(frozen=True)
class OpenedRun:
    """A run's folder, with its config, its data and its networks.

    Args:
        teacher_file: of a method that loads its teacher.
    """

    path: Path
    cfg: CN
    dataset: Dataset
    teacher_file: Path | None

    @cached_property
    def device(self) -> torch.device:
        return make_accelerator(self.cfg).device

    @property
    def teacher_hash(self) -> str | None:
        """Of the teacher's file, as the run's identity has it."""
        return None if self.teacher_file is None else sha256(self.teacher_file)

    def batches(self) -> EvalBatches:
        """The evaluated images."""
        return EvalBatches(self.dataset, self.cfg, self.device)

    def student(self) -> nn.Module:
        """What the run deploys after its last epoch, in eval mode."""
        path = self.path / STUDENT
        name = self.cfg.DISTILLER.STUDENT
        _, network = load_network(str(path), name, self.dataset.num_classes)
        return network.to(self.device).eval()

    def teacher(self) -> nn.Module | None:
        """The teacher in eval mode, as trained along with the student where the method does that;
        None for a method without one.
        """
        name = self.cfg.DISTILLER.TEACHER
        own = self.path / OWN_TEACHER
        if self.teacher_file is not None:
            network = build_teacher(self.cfg, self.dataset.num_classes, self.teacher_file)
            assert network is not None
        elif own.exists():
            network = build_model(name, self.dataset.num_classes)
            weights.load_weights(network, own, name)
        else:
            return None
        return network.to(self.device).eval()

    def method(self) -> Distiller:
        """The run's method with everything that it trains, as before its first epoch."""
        scaled = scaled_config(self.cfg)
        teacher = build_teacher(self.cfg, self.dataset.num_classes, self.teacher_file)
        return build_distiller(scaled, self.dataset, teacher).to(self.device).eval()

    def restore(self, method: Distiller, path: Path) -> int:
        """Gives a method of `method` the state of one of the run's checkpoints.

        Returns:
            the epoch after which it was saved.
        Raises:
            UserError: it is damaged or of another run.
        """
        state = weights.load(path)
        frozen = "teacher." if method.teacher_from == "checkpoint" else ()
        own = method.state_dict()
        wanted = {key: value for key, value in own.items() if not key.startswith(frozen)}
        told = model_fault(state.get("model"), wanted)
        if told or type(state.get("epoch")) is not int:
            raise UserError(f"checkpoint {path} is not of this run: {told or 'it has no epoch'}")
        method.load_state_dict({**own, **state["model"]})
        return state["epoch"]


def open_run(path: Path, overrides: Sequence[str] = (), images: int = 0) -> OpenedRun:
    """Opens a run's folder.

    Args:
        overrides: KEY VALUE pairs, for data or a teacher that lie elsewhere now.
        images: how many of the evaluated images are looked at, about as many of each class; 0: all.
    Raises:
        UserError: no run folder, one without a complete epoch, or data or a teacher that are
            missing or not those that the run had.
    """
    if not (path / "config.yaml").is_file() or not (path / "identity.json").is_file():
        raise UserError(f"{path} is no run folder: it has no config.yaml and identity.json")
    if not (path / STUDENT).exists():
        raise UserError(
            f"{path} has no {STUDENT}: its first epoch has not ended, or its weights were not kept"
        )
    cfg = load_config(path / "config.yaml", overrides)
    dataset = load_dataset(cfg)
    run = RunFolder.of(cfg, dataset)
    held = todays_identity(read_object(path / "identity.json") or {})
    changes = difference(held, {key: run.identity.get(key) for key in held})
    if changes:
        raise UserError(f"{path} is not the run that is here now: {changes}")
    return OpenedRun(path, cfg, fewer_images(dataset, images), run.teacher)


def fewer_images(dataset: Dataset, images: int) -> Dataset:
    """The data set with so many evaluated images, always the same ones, spread over the classes; 0
    or more than there are: all.

    Raises:
        UserError: a negative number.
    """
    if images < 0:
        raise UserError(f"--images is {images}; allowed: 0 (all) or more")
    chosen = spread(dataset.test.targets, images, dataset.num_classes)
    return replace(dataset, test=dataset.test.take(chosen.numpy()))


def spread(targets: Tensor, images: int, num_classes: int) -> Tensor:
    """Positions of about so many images, as many of each class, always the same; 0 or more than
    there are: all.
    """
    if images == 0 or images >= len(targets):
        return torch.arange(len(targets))
    each = -(-images // num_classes)
    return torch.from_numpy(choose_per_class(targets, [each] * num_classes, "studies"))


def check_same_images(runs: Sequence[OpenedRun]) -> None:
    """Raises UserError unless all runs evaluate the same images, with the same classes."""
    images = {content_hash(run.dataset.test) for run in runs}
    classes = {tuple(run.dataset.classes) for run in runs}
    if len(images) > 1 or len(classes) > 1:
        raise UserError(f"{listed(runs)} are of different images; give runs of one data set")


def run_names(runs: Sequence[OpenedRun]) -> list[str]:
    """The students by their method; if two are alike, by seed, or by what folders do not share."""
    plain = [_method(run) for run in runs]
    seeded = [f"{_method(run)} seed {run.cfg.SOLVER.SEED}" for run in runs]
    paths = [run.path.resolve() for run in runs]
    common = os.path.commonpath([path.parent for path in paths])
    placed = [
        f"{_method(run)} {path.relative_to(common)}" for run, path in zip(runs, paths, strict=True)
    ]
    return next((names for names in (plain, seeded) if len(set(names)) == len(runs)), placed)


def _method(run: OpenedRun) -> str:
    return "student alone" if run.cfg.DISTILLER.TYPE == VANILLA else run.cfg.DISTILLER.TYPE


def listed(runs: Sequence[OpenedRun]) -> str:
    """The runs' folders, for a message."""
    return " and ".join(str(run.path) for run in runs)
