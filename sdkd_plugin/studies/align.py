"""`align`: teachers at temperatures of equal cross entropy, the sweep that distils from each, and
the table of the poster's motivation study.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from yacs.config import CfgNode as CN

from sdkd_plugin.config import configs_folder, load_config
from sdkd_plugin.data.batches import EvalBatches
from sdkd_plugin.data.dataset import Dataset, load_dataset
from sdkd_plugin.engine.build import build_teacher, check_teacher_data
from sdkd_plugin.engine.device import make_accelerator
from sdkd_plugin.engine.run import with_trained_teacher
from sdkd_plugin.errors import UserError
from sdkd_plugin.files import sha256, write_text
from sdkd_plugin.registry import FORMATS
from sdkd_plugin.runs.teacher import teacher_path
from sdkd_plugin.studies.file import Study, read_study
from sdkd_plugin.studies.motivation import motivation_grid, poster_grid, teachers_grid
from sdkd_plugin.studies.networks import collect
from sdkd_plugin.studies.temperature import (
    SHARPER,
    SOFTER,
    CrossEntropyCurve,
    Root,
    check_logits,
    choose,
)
from sdkd_plugin.sweep.pairs import pair_settings
from sdkd_plugin.table.command import on_screen, write_output
from sdkd_plugin.table.report import Report, TableOptions

BRANCHES = {"reference": "", "sharper": SHARPER, "softer": SOFTER}
DIGITS = 6  # of tau that count, in the sweep file and everywhere


@dataclass(frozen=True)
class Aligned:
    """A teacher and its temperature.

    Args:
        file, digest: its checkpoint, and that file's hash, as a run's identity names it.
        images: which it was measured on: test | val.
        top1: its accuracy there, %.
        loss: its cross entropy at tau 1, in nats.
        roots: every temperature that gives the reference's; empty: none does.
        tau: the chosen one, to DIGITS; None if there is none.
        loss_at_tau: its cross entropy there.
        branch: where that temperature lies, see `temperature`.
    """

    model: str
    file: Path
    digest: str
    images: str
    top1: float
    loss: float
    roots: tuple[Root, ...] = ()
    tau: float | None = None
    loss_at_tau: float | None = None
    branch: str = ""


@dataclass(frozen=True)
class AlignOptions:
    """What `align` takes.

    Args:
        file: the study file, see `studies/file.py`.
        overrides: KEY VALUE pairs for every run, after the file's own.
        branch: which of two temperatures is taken, a key of BRANCHES; reference: the one on the
            side of its smallest cross entropy on which the reference is of its own.
        teachers: their files, as MODEL=FILE, before what the study file says.
        train_teacher: train missing teachers first.
        runs: folders that hold the finished sweep; empty: the sweep file is written instead.
        poster: print the poster's own table, too.
        format, output: of the table, as `table` takes them.
    """

    file: Path
    overrides: tuple[str, ...] = ()
    branch: str = "reference"
    teachers: tuple[str, ...] = ()
    train_teacher: bool = False
    runs: tuple[str, ...] = ()
    poster: bool = False
    format: str = "terminal"
    output: str | None = None


def run_align(options: AlignOptions) -> None:
    """Measures and aligns the teachers and prints them; then writes the sweep file or, with runs,
    prints the poster's table.

    Raises:
        UserError: a bad study file, a teacher that cannot be loaded, or runs that cannot be read.
    """
    render = FORMATS[options.format].build
    study = read_study(options.file, options.overrides, options.teachers)
    teachers = align_teachers(study, options.branch, options.train_teacher)
    grids = [teachers_grid(teachers)]
    if options.runs:
        grids.append(motivation_grid(teachers, study.students, options.runs))
    if options.poster:
        grids.append(poster_grid())

    table = TableOptions()
    if options.output is None:
        table = on_screen(table)
    rendered = render(Report(table, tuple(grids)))
    if options.output is not None:
        write_output(Path(options.output), rendered)
    elif isinstance(rendered, bytes):
        raise UserError(f"--format {options.format} cannot be printed; give --output")
    else:
        print(rendered, end="")
    if not options.runs:
        path = write_sweep(study, teachers)
        print(f"the sweep that distils from them: python tools/sweep.py {path}")


def align_teachers(study: Study, branch: str, train_teacher: bool = False) -> list[Aligned]:
    """Every teacher of a study with the temperature of the reference's cross entropy."""
    reference, *others = [
        _measure(study, name, file, train_teacher) for name, file in study.teachers.items()
    ]
    wanted, curve = reference[0].loss, reference[1]
    side = BRANCHES[branch] or curve.side(1.0)
    root = Root(1.0, curve.side(1.0))
    aligned = [
        replace(reference[0], roots=(root,), tau=1.0, loss_at_tau=wanted, branch=root.branch)
    ]
    for teacher, curve in others:
        roots = curve.reach(wanted)
        chosen = choose(roots, side)
        found = replace(teacher, roots=tuple(roots))
        if chosen is not None:
            tau = float(f"{chosen.tau:.{DIGITS}g}")
            found = replace(found, tau=tau, loss_at_tau=curve.at(tau), branch=chosen.branch)
        aligned.append(found)
    return aligned


def _measure(
    study: Study, name: str, file: str, train_teacher: bool
) -> tuple[Aligned, CrossEntropyCurve]:
    """A teacher without a temperature yet, and its cross entropy as a function of that."""
    cfg = _config(study, name, study.students[0], file)
    if train_teacher:
        cfg = with_trained_teacher(cfg, resume=True)
    path = teacher_path(cfg)
    dataset = _data(cfg)
    check_teacher_data(path, dataset)
    network = build_teacher(cfg, dataset.num_classes, path)
    assert network is not None  # KD has a trained teacher
    device = make_accelerator(cfg).device
    outputs = collect(network.to(device), EvalBatches(dataset, cfg, device), name)

    logits = outputs.logits.numpy()
    check_logits(logits, name)
    curve = CrossEntropyCurve(logits, outputs.target.numpy())
    measured = Aligned(name, path, sha256(path), dataset.evaluates, outputs.top1, curve.at(1.0))
    return measured, curve


def _config(study: Study, teacher: str, student: str, file: str) -> CN:
    """KD of this pair, as the sweep will have it."""
    cfg, own = pair_settings(configs_folder() / "cifar100" / "kd", teacher, student)
    settings = {**own, **study.overrides}
    if file:
        settings["DISTILLER.TEACHER_CKPT"] = file
    return load_config(cfg, [word for pair in settings.items() for word in pair])


_DATASETS: dict[str, Dataset] = {}


def _data(cfg: CN) -> Dataset:
    """The data of a config; the same for all teachers of a study, so that they are read once."""
    key = cfg.DATASET.dump()
    if key not in _DATASETS:
        _DATASETS.clear()
        _DATASETS[key] = load_dataset(cfg)
    return _DATASETS[key]


def sweep_tree(study: Study, teachers: list[Aligned]) -> dict[str, object]:
    """The sweep file's content: each student alone, and by KD from each teacher that has a
    temperature, at that temperature.
    """
    variants: dict[str, Mapping[str, object]] = {
        f"{teacher.model} tau {teacher.tau}": {
            "DISTILLER.TEACHER": teacher.model,
            "DISTILLER.TEACHER_CKPT": str(teacher.file.resolve()),
            "KD.TEMPERATURE": teacher.tau,
        }
        for teacher in teachers
        if teacher.tau is not None
    }
    tree: dict[str, object] = {
        "methods": ["vanilla", "kd"],
        "pairs": [f"{teachers[0].model}/{student}" for student in study.students],
        "seeds": study.seeds,
    }
    if study.overrides:
        tree["overrides"] = study.overrides
    return {**tree, "variants": {"kd": variants}}


def write_sweep(study: Study, teachers: list[Aligned]) -> Path:
    """Writes the sweep file under LOG.PREFIX and returns its path."""
    first = next(iter(study.teachers))
    prefix = _config(study, first, study.students[0], "").LOG.PREFIX
    path = Path(prefix, "studies", f"{study.path.stem}.yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    head = f"# Written by align from {study.path.name}; teachers at equal {teachers[0].images} "
    text = yaml.safe_dump(sweep_tree(study, teachers), sort_keys=False, width=100)
    write_text(path, f"{head}cross entropy.\n{text}")
    return path
