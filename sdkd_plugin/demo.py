"""`make demo`: the whole job in a few minutes on data that need no download."""

import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from yacs.config import CfgNode as CN

from sdkd_plugin.config import configs_folder, load_config
from sdkd_plugin.engine.remaining import in_words
from sdkd_plugin.engine.run import train
from sdkd_plugin.errors import UserError
from sdkd_plugin.registry import FORMATS
from sdkd_plugin.table.command import on_screen, write_output
from sdkd_plugin.table.report import TableOptions, make_report

NEEDED = {"sklearn": "scikit-learn", "matplotlib": "matplotlib"}
TEACHER = "vanilla/resnet56.yaml"
STUDENTS = (
    "vanilla/resnet20",
    "kd/res56_res20",
    "dkd/res56_res20",
    "crd/res56_res20",
    "sdkd/res56_res20",
)
SEEDS = (0, 1, 2)
# Where a teacher has something to give: it saw all 1437 training images, its students see 70 of
# them, as they are. Chosen on training images that were held out, see benchmarks/demo.py.
SHARED = ["DATASET.TYPE", "digits", "DATASET.AUGMENT", "none"]
TEACHER_EPOCHS = 10
STUDENT_EPOCHS = 30
STUDENT_KEYS = ["DATASET.SUBSET", "0.05", "SOLVER.BATCH_SIZE", "16", "SOLVER.LR", "0.02"]
TITLE = (
    "scikit-learn's digits: resnet56, trained on all 1437 training images, teaches resnet20 on 70"
)

CAVEAT = (
    "These are 8x8 handwritten digits, seven of each to learn from: they show that everything "
    "works and that a teacher can help, and say nothing about CIFAR-100 or about which method is "
    "better."
)


def run_demo(output: str) -> None:
    """Trains a teacher and fifteen students on scikit-learn's digits, prints their table and leaves
    it under `output`.

    Finished runs are used again and interrupted ones go on, so a second call ends at once.

    Raises:
        UserError: a package of the extra `demo` is missing, or `output` cannot be written.
    """
    for module, package in NEEDED.items():
        if find_spec(module) is None:
            raise UserError(
                f"the demo needs {package}; install it with: pip install 'sdkd-plugin[demo]'"
            )
    began = time.perf_counter()
    table = TableOptions(folders=tuple(_train_all(output)), title=TITLE)
    print(f"\n{FORMATS['terminal'].build(make_report(on_screen(table)))}")
    _write_tables(table, Path(output))
    print(_closing_words(output, time.perf_counter() - began))


def _train_all(output: str) -> list[Path]:
    """Trains the teacher and the students; returns the students' run folders."""
    configs = configs_folder() / "cifar100"
    total = 1 + len(STUDENTS) * len(SEEDS)
    print(f"run 1 of {total}: the teacher")
    teacher = train(_config(configs / TEACHER, output, TEACHER_EPOCHS), resume=True).path

    own = [*STUDENT_KEYS, "DISTILLER.TEACHER_CKPT", str(teacher / "student_latest")]
    folders: list[Path] = []
    began = time.perf_counter()
    for seed in SEEDS:
        for name in STUDENTS:
            left = ""
            if len(folders) >= len(STUDENTS):  # each method was seen once
                each = (time.perf_counter() - began) / len(folders)
                left = f", {in_words(each * (total - 1 - len(folders)))}"
            print(f"\nrun {len(folders) + 2} of {total}: {name}, seed {seed}{left}")
            keys = ["SOLVER.SEED", str(seed), *own]
            cfg = _config(configs / f"{name}.yaml", output, STUDENT_EPOCHS, keys)
            folders.append(train(cfg, resume=True).path)
    return folders


def _config(path: Path, output: str, epochs: int, keys: Sequence[str] = ()) -> CN:
    own = [*SHARED, "EXPERIMENT.PROJECT", "runs", "LOG.PREFIX", output]
    own += ["SOLVER.EPOCHS", str(epochs), "SOLVER.SCHEDULE_EPOCHS", "240"]
    return load_config(path, [*own, *keys])


def _write_tables(table: TableOptions, folder: Path) -> None:
    """Leaves the comparison in `folder` as a page and as a picture."""
    report = make_report(table)
    page = f"## {TITLE}\n\n{CAVEAT}\n\n{FORMATS['md'].build(report)}"
    write_output(folder / "table.md", page)
    write_output(folder / "table.png", FORMATS["png"].build(report))


def _closing_words(output: str, seconds: float) -> str:
    return f"""{CAVEAT}

This took {seconds:.0f} s. Everything lies in {output}:
  table.md, table.png   the comparison
  runs/                 one folder per run: config.yaml, metrics.csv, result.json, checkpoints, \
TensorBoard
Try next:
  python tools/table.py {output} --versus SDKD --format html --output demo.html    \
everything on one page
  python tools/train.py --cfg configs/cifar100/sdkd/res56_res20.yaml --dry-run     \
what the real run would cost here
  python tools/table.py --published poster                                         \
the numbers to reach"""
