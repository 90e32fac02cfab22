"""`eval`: a network from a file, scored as the run that made it would score it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from tqdm import tqdm
from yacs.config import CfgNode as CN

from sdkd_plugin import weights
from sdkd_plugin.config import load_config
from sdkd_plugin.data.batches import EvalBatches
from sdkd_plugin.data.dataset import load_dataset
from sdkd_plugin.data.spec import DataSpec, describe_classes
from sdkd_plugin.engine.deploy import load_network
from sdkd_plugin.engine.device import make_accelerator
from sdkd_plugin.engine.evaluate import describe, evaluate
from sdkd_plugin.errors import UserError
from sdkd_plugin.models import teacher_checkpoint
from sdkd_plugin.runs.imported import changed_code, recorded_environment
from sdkd_plugin.settings import flatten, override_pairs

Scores = Mapping[str, float]

PUBLISHED = "pretrain"  # instead of a file: the published teacher's place


def score(target: str, overrides: Sequence[str]) -> Scores:
    """Scores what `eval` is given. A run's folder, or a file in it, is scored with the run's own
    config; any file that says what it was trained on, on such images. What `overrides` change of
    that is printed.

    Args:
        target: a run's folder (its student_latest is meant), a student's or teacher's file, or
            "pretrain".
        overrides: KEY VALUE words; DISTILLER.STUDENT names the model of a file that does not.
    Raises:
        UserError: no such file, or as `score_checkpoint`.
    """
    if target == PUBLISHED:
        named = dict(override_pairs(overrides)).get("DISTILLER.STUDENT", "")
        target = teacher_checkpoint(named)
    path, run = locate(Path(target))
    spec = DataSpec.in_file(weights.load(path), path)

    config = None if run is None else run / "config.yaml"
    own = own_words(path, config, spec)
    cfg = load_config(config, [*own, *overrides])
    theirs = dict(flatten(load_config(config, own)))
    if run is None:  # only what the file says
        theirs = {key: theirs[key] for key in own[::2] if theirs[key] != ""}
    for key, value in flatten(cfg):
        if theirs.get(key, value) != value:
            was = f"{theirs[key]!r}, with which the network was trained"
            print(f"{key} {value!r} overrides {was}")
    changed = "" if run is None else changed_code(recorded_environment(run), finished=True)
    if changed:
        print(f"warning: {run} was trained with other imported code: {changed}")
    return score_checkpoint(cfg, str(path))


def locate(target: Path) -> tuple[Path, Path | None]:
    """The file that is meant, and the run folder that it lies in, if any."""
    path = target
    if target.is_dir():
        path = target / "student_latest"
        if not _is_run(target):
            inside = sorted(entry.name for entry in target.iterdir() if _is_run(entry))
            hint = f"; it holds the runs {', '.join(inside[:5])}" if inside else ""
            raise UserError(f"{target} is no run folder: it has no config.yaml{hint}")
        if not path.exists():
            raise UserError(
                f"{target} has no student_latest: its first epoch has not ended, or its weights "
                "were not kept"
            )
    return path, path.parent if _is_run(path.parent) else None


def _is_run(folder: Path) -> bool:
    return (folder / "config.yaml").is_file() and (folder / "identity.json").is_file()


def own_words(path: Path, config: Path | None, spec: DataSpec | None) -> list[str]:
    """KEY VALUE words for what the file itself decides: its model and its images.

    Args:
        config: of the run that the file lies in; None for a file alone.
        spec: what the file says that it was trained on.
    """
    words: list[str] = []
    if config is None:
        words += ["DISTILLER.STUDENT", ""]
    elif path.name.startswith("teacher_"):
        words += ["DISTILLER.STUDENT", load_config(config).DISTILLER.TEACHER]
    if spec is not None:
        words += ["DATASET.IMAGE_SIZE", str(spec.image_size)]
        words += ["DATASET.MEAN", str(spec.mean), "DATASET.STD", str(spec.std)]
    return words


def score_checkpoint(cfg: CN, path: str) -> Scores:
    """Loads a network, prints its scores on the evaluation split and returns them.

    Args:
        cfg: DISTILLER.STUDENT names the model and may be empty if the file says what it holds;
            DATASET names the images.
        path: a student's or teacher's file.
    Raises:
        UserError: nothing says which model the file holds, it holds another one, or it was trained
            on other classes.
    """
    dataset = load_dataset(cfg)
    spec = DataSpec.in_file(weights.load(path), path)
    told = "" if spec is None else spec.class_difference(DataSpec.of(dataset))
    if told:
        raise UserError(f"checkpoint {path} is of other data than {dataset.name!r}: {told}")
    name, model = load_network(path, cfg.DISTILLER.STUDENT, dataset.num_classes)

    device = make_accelerator(cfg).device
    layout = torch.channels_last if cfg.SOLVER.CHANNELS_LAST else torch.contiguous_format
    model.to(device).to(memory_format=layout).eval()
    batches = EvalBatches(dataset, cfg, device)
    scores = evaluate(lambda image: model(image)[0], tqdm(batches, disable=None, leave=False))
    print(f"data: {describe_classes(dataset)}")
    print(f"{name} on {len(dataset.test)} {dataset.evaluates} images: {describe(scores)}")
    return scores
