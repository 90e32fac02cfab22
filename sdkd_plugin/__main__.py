"""The command line, `python -m sdkd_plugin COMMAND`; tools/*.py have mdistiller's flags for it."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sdkd_plugin.arguments import make_parser
from sdkd_plugin.errors import UserError
from sdkd_plugin.plugins import import_plugins


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code: 0 done, 2 a user's error (one line on stderr), 130
    interrupted.
    """
    options = make_parser().parse_args(arguments)
    try:
        import_plugins(options.imports)
        COMMANDS[options.command](options)
    except (UserError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "interrupted: the last complete epoch is saved; add --resume to go on", file=sys.stderr
        )
        return 130
    return 0


# The commands import late, so that --help and a mistyped option answer at once.


def _train(options: argparse.Namespace) -> None:
    from sdkd_plugin.config import load_config
    from sdkd_plugin.engine.plan import show_run_plan
    from sdkd_plugin.engine.run import train

    cfg = load_config(options.cfg, options.opts)
    if options.dry_run:
        show_run_plan(cfg)
    else:
        train(cfg, resume=options.resume, train_teacher=options.train_teacher)


def _eval(options: argparse.Namespace) -> None:
    from sdkd_plugin.engine.score import PUBLISHED, score

    target, words = options.ckpt, list(options.opts)
    if target is None and len(words) % 2:  # overrides come in pairs: the odd one out comes first
        target = words.pop(0)
    options_given = {
        "DATASET.TYPE": options.dataset,
        "DATASET.TEST.BATCH_SIZE": options.batch_size,
        "DISTILLER.STUDENT": options.model,
    }
    own = [str(word) for pair in options_given.items() if pair[1] is not None for word in pair]
    score(target or PUBLISHED, [*own, *words])


def _table(options: argparse.Namespace) -> None:
    from sdkd_plugin.table.command import make_table
    from sdkd_plugin.table.report import TableOptions

    shown = TableOptions(
        folders=tuple(options.folders),
        upstream=tuple(options.upstream),
        metric=options.metric,
        versus=options.versus,
        best_epoch=options.best,
        published=options.published,
        split=tuple(options.split),
    )
    make_table(shown, options.format, options.output)


def _sweep(options: argparse.Namespace) -> None:
    from sdkd_plugin.sweep.command import SweepOptions, run_sweep

    chosen = SweepOptions(
        file=Path(options.file),
        overrides=tuple(options.opts),
        jobs=options.jobs,
        executor=options.executor,
        address=options.address,
        plan_only=options.plan,
        commands_only=options.commands,
    )
    run_sweep(chosen)


def _link(options: argparse.Namespace) -> None:
    from sdkd_plugin.upstream.link import link

    link(Path(options.checkout), options.dry_run)


def _unlink(options: argparse.Namespace) -> None:
    from sdkd_plugin.upstream.link import unlink

    unlink(Path(options.checkout), options.dry_run)


def _methods(options: argparse.Namespace) -> None:
    from sdkd_plugin.upstream.methods import show_methods

    show_methods()


def _run(options: argparse.Namespace) -> None:
    from sdkd_plugin.upstream.launch import run

    run(Path(options.script), options.arguments)


def _demo(options: argparse.Namespace) -> None:
    from sdkd_plugin.demo import run_demo

    run_demo(options.output)


COMMANDS = {
    "train": _train,
    "eval": _eval,
    "table": _table,
    "sweep": _sweep,
    "demo": _demo,
    "link": _link,
    "unlink": _unlink,
    "methods": _methods,
    "run": _run,
}


if __name__ == "__main__":
    sys.exit(main())
