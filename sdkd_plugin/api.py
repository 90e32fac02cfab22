"""What a notebook or a script needs, without the command line; `import sdkd_plugin` offers it.

`sdkd_plugin.sweep` and `sdkd_plugin.table` stand with their packages. All raise UserError for what
a user can cause, and print what the commands print.
"""

from pathlib import Path

from yacs.config import CfgNode as CN

from sdkd_plugin import config
from sdkd_plugin.engine import run, score
from sdkd_plugin.errors import UserError
from sdkd_plugin.own_loop import distill
from sdkd_plugin.runs.folder import RunFolder
from sdkd_plugin.settings import Overrides, override_words

__all__ = ["UserError", "distill", "evaluate", "load_config", "train"]


def load_config(path: str | Path | None = None, overrides: Overrides = ()) -> CN:
    """The config of a run: defaults, then a yaml file, then overrides; checked and frozen.

    Args:
        path: a yaml file, such as "configs/cifar100/sdkd/res56_res20.yaml", found from anywhere if
            it is one that ships; None for the defaults alone.
        overrides: {"SOLVER.EPOCHS": 30, ...}, or alternating keys and values.
    Raises:
        UserError: no such file, an unknown key, or a value that its key does not allow.
    """
    return config.load_config(path, override_words(overrides))


def train(cfg: CN, resume: bool = False, train_teacher: bool = False) -> RunFolder:
    """Trains what `cfg` says, unless its folder holds the result already.

    Args:
        cfg: from `load_config`.
        resume: go on with the run if it was interrupted.
        train_teacher: train the teacher first if its checkpoint is missing.
    Returns:
        the run's folder, with `.path` and `.result`, which has `.last["top1"]`, `.teacher_score`,
        ...
    Raises:
        UserError: a missing teacher, a loss that is not finite, a folder of another run, ...
    """
    return run.train(cfg, resume, train_teacher)


def evaluate(target: str | Path, overrides: Overrides = ()) -> dict[str, float]:
    """Scores a run's student, or a file of one, on the data and by the normalisation of its run.

    Args:
        target: a run's folder, or a student's or teacher's file.
        overrides: as of `load_config`, such as {"DATASET.ROOT": "cifar100.npz"}.
    Returns:
        top1, top5 and ece in %, loss in nats, by these names.
    Raises:
        UserError: no such file, or one of other data.
    """
    return dict(score.score(str(target), override_words(overrides)))
