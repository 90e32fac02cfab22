"""The tools that can follow a run, each behind the same few calls; accelerate's trackers drive
them.
"""

import io
import logging
import os
import secrets
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from yacs.config import CfgNode as CN

from sdkd_plugin.config import active_config
from sdkd_plugin.errors import UserError
from sdkd_plugin.settings import flatten

About = Mapping[str, Any]
CURVES = "curves"


class Tool:
    """A run of one tool, begun or taken up again.

    Attributes:
        run_id: what the tool calls the run.
        delay: seconds until what it was told outlives a process that is killed.
    """

    run_id: str
    delay = 0.0
    _tracker: Any  # of accelerate

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """The numbers of an epoch; `step` counts epochs through all phases, from 1."""
        self._tracker.log(dict(values), step=step)

    def conclude(self, result: Mapping[str, float], curves: bytes | None) -> None:
        """The final numbers, and a picture of the epochs."""
        raise NotImplementedError

    def finish(self) -> None:
        """Ends the run; whatever is still to be written is."""
        self._tracker.finish()


class WandbTool(Tool):
    """Weights & Biases: offline under LOG.PREFIX/wandb, unless WANDB_MODE says otherwise."""

    delay = 20.0  # it writes its file every 15 seconds

    def __init__(self, about: About, run_id: str | None):
        import wandb
        from accelerate.tracking import WandBTracker

        self.run_id = run_id or secrets.token_hex(8)
        self._tracker = started(
            WandBTracker,
            about["project"],
            id=self.run_id,
            resume="allow",
            name=about["name"],
            config=about["config"],
            dir=about["prefix"],
            mode=os.environ.get("WANDB_MODE", "offline"),
            reinit="create_new",  # runs in lockstep are several in a process
            settings=wandb.Settings(console="off", silent=True, x_disable_stats=True),
        )

    def conclude(self, result: Mapping[str, float], curves: bytes | None) -> None:
        self._tracker.run.summary.update(dict(result))
        if curves is not None:
            self._tracker.log_images({CURVES: [picture(curves)]})


class MlflowTool(Tool):
    """MLflow: in LOG.PREFIX/mlflow.db, unless MLFLOW_TRACKING_URI names a server or a store."""

    own = ""  # where the process's last run went by LOG.PREFIX; MLflow writes it into the variable

    def __init__(self, about: About, run_id: str | None):
        import mlflow
        from accelerate.tracking import MLflowTracker

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # how it makes its tables is no news
        place, uri = None, os.environ.get("MLFLOW_TRACKING_URI")
        if uri in (None, MlflowTool.own):
            prefix = Path(about["prefix"]).resolve()
            prefix.mkdir(parents=True, exist_ok=True)
            place, uri = (prefix / "mlartifacts").as_uri(), f"sqlite:///{prefix / 'mlflow.db'}"
            MlflowTool.own = uri
        mlflow.set_tracking_uri(uri)  # always: it remembers that of the process's run before
        self._tracker = started(
            MLflowTracker,
            experiment_name=about["project"],
            logging_dir=place,
            run_id=run_id,
            run_name=about["name"],
        )
        self.run_id = self._tracker.tracker.info.run_id
        if run_id is None:  # what is set cannot be set again
            self._tracker.store_init_configuration(about["config"])

    def conclude(self, result: Mapping[str, float], curves: bytes | None) -> None:
        import mlflow

        mlflow.log_metrics(dict(result))
        if curves is not None:
            mlflow.log_image(picture(curves), f"{CURVES}.png")


class TrackioTool(Tool):
    """trackio, on this machine: in LOG.PREFIX/trackio, unless TRACKIO_DIR says otherwise."""

    delay = 2.0  # it writes every half second

    def __init__(self, about: About, run_id: str | None):
        os.environ.setdefault("TRACKIO_DIR", str(Path(about["prefix"], "trackio").resolve()))
        from accelerate.tracking import TrackioTracker

        # its runs are called by name, which must be this run's alone
        self.run_id = run_id or f"{about['name']}-{secrets.token_hex(3)}"
        self._tracker = started(
            TrackioTracker,
            about["project"],
            name=self.run_id,
            resume="allow",
            config=about["config"],
            embed=False,
        )

    def conclude(self, result: Mapping[str, float], curves: bytes | None) -> None:
        import numpy as np
        import trackio

        values: dict[str, Any] = dict(result)
        if curves is not None:
            values[CURVES] = trackio.Image(np.asarray(picture(curves)))
        self._tracker.log(values)


KINDS: dict[str, Callable[[About, str | None], Tool]] = {
    "wandb": WandbTool,
    "mlflow": MlflowTool,
    "trackio": TrackioTool,
}


def started(kind: Any, *arguments: Any, **options: Any) -> Any:
    """A tracker of accelerate whose run has begun, which its first versions do by themselves."""
    tracker = kind(*arguments, **options)
    if hasattr(tracker, "start"):
        tracker.start()
    return tracker


def chosen_kinds(cfg: CN) -> tuple[str, ...]:
    """Which of KINDS follow the runs of a config.

    Raises:
        UserError: LOG.TRACKERS names one that is not installed. What LOG.WANDB asks for is left
            out then: it stands in files that were written for mdistiller, which does the same.
    """
    names = [name for name in cfg.LOG.TRACKERS if name in KINDS]
    for name in names:
        if find_spec(name) is None:
            raise UserError(
                f"LOG.TRACKERS names {name}, which is not installed; install it with: pip install "
                f"{name}, or 'sdkd-plugin[trackers]' for all, or take it out"
            )
    if cfg.LOG.WANDB and "wandb" not in names:
        if find_spec("wandb") is None:
            print("note: LOG.WANDB is True but wandb is not installed: pip install wandb")
        else:
            names.append("wandb")
    return tuple(names)


def about_run(cfg: CN, folder: Path) -> dict[str, Any]:
    """What a tool is told when a run begins.

    Args:
        cfg: as it was given, unscaled.
        folder: the run's.
    """
    flat = dict(flatten(active_config(cfg)))
    plain = {key: v if isinstance(v, bool | int | float) else str(v) for key, v in flat.items()}
    return {
        "project": cfg.EXPERIMENT.PROJECT.replace("/", "-"),
        "name": f"{folder.parent.name}-{folder.name}",
        "prefix": cfg.LOG.PREFIX,
        "config": plain,
    }


def picture(png: bytes) -> Any:
    """A png as PIL has it."""
    from PIL import Image

    return Image.open(io.BytesIO(png)).convert("RGB")
