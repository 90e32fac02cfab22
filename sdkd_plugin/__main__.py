"""The command line, `python -m sdkd_plugin COMMAND`; tools/*.py have mdistiller's flags for it."""

import argparse
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from pathlib import Path

from sdkd_plugin.arguments import parse
from sdkd_plugin.errors import UserError
from sdkd_plugin.plugins import import_plugins
from sdkd_plugin.printable import printable
from sdkd_plugin.signals import end_with_stdin, exit_code, interruptible, signal_of

# How to go on after an interruption; the other commands leave nothing half done.
GO_ON = {
    "train": ": the last complete epoch is saved; add --resume to go on",
    "together": ": each run's last complete epoch is saved; give the same command to go on",
    "sweep": ": each run's last complete epoch is saved; give the same command to go on",
    "data": ": what DATASET.CACHE holds by now is kept; give the same command to go on",
    "demo": ": the last complete epoch is saved; give the same command to go on",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code: 0 done, 1 verified and different, 2 a user's error
    (one line on stderr), 130 interrupted, 143 and 129 ended by SIGTERM and SIGHUP.
    """
    options = parse(arguments)
    with interruptible(), warnings_in_one_line():
        return _run_command(options)


@contextmanager
def warnings_in_one_line() -> Iterator[None]:
    """Inside the block a warning says what it says, without the place in our code."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *place: f"warning: {' '.join(str(message).split())}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


def _run_command(options: argparse.Namespace) -> int:
    follower = _follower(options)
    try:
        _check_place()
        import_plugins(options.imports)
        with ExitStack() as stack:
            if follower:  # the first speaks for all
                nowhere = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(redirect_stdout(nowhere))
            return COMMANDS[options.command](options) or 0
    except (UserError, OSError) as error:
        print(f"{follower}error: {printable(' '.join(str(error).split()))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        # after SIGHUP there may be no terminal left to say it on
        with suppress(OSError):
            how = GO_ON.get(options.command, "")
            print(f"interrupted by {signal_of(error).name}{how}", file=sys.stderr)
        return exit_code(error)


def _follower(options: argparse.Namespace) -> str:
    """What stands before the errors of one of several processes that train a run together, see
    `engine.ranks`; "" for the first, and for a process alone.

    The variables are torchrun's. Other launchers leave a RANK behind, which means nothing here.
    """
    rank = os.environ.get("RANK", "0")
    together = options.command == "train" and os.environ.get("WORLD_SIZE", "1") != "1"
    return f"process {printable(rank)}: " if together and rank != "0" else ""


def _check_place() -> None:
    """Raises UserError if there is no working directory, which relative paths start from."""
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise UserError(
            "the working directory does not exist any more; cd into one that does, then repeat the "
            "command"
        ) from error


# The commands import late, so that --help and a mistyped option answer at once.


def _train(options: argparse.Namespace) -> None:
    from sdkd_plugin.config import load_config
    from sdkd_plugin.engine.plan import show_run_plan
    from sdkd_plugin.engine.run import train
    from sdkd_plugin.idle import idle_note

    if options.end_with_stdin:
        end_with_stdin()
    cfg = load_config(options.cfg, options.opts)
    note = idle_note(options.cfg, options.opts)
    if note:
        print(note)
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
    if not options.json:
        score(target or PUBLISHED, [*own, *words])
        return
    with redirect_stdout(sys.stderr):
        scores = score(target or PUBLISHED, [*own, *words])
    print(json.dumps(dict(scores)))


def _verify(options: argparse.Namespace) -> int:
    from sdkd_plugin.engine.verify import verify

    return 0 if verify(Path(options.folder), options.steps, options.opts) else 1


def _data(options: argparse.Namespace) -> None:
    from sdkd_plugin.config import load_config
    from sdkd_plugin.data.survey import show_survey

    words = list(options.opts)
    file = words.pop(0) if len(words) % 2 else None  # overrides come in pairs
    show_survey(load_config(file, words), options.sheet)


def _table(options: argparse.Namespace) -> None:
    from sdkd_plugin.table.command import make_table
    from sdkd_plugin.table.report import TableOptions

    shown = TableOptions(
        processes=os.cpu_count() or 1,
        folders=tuple(options.folders),
        upstream=tuple(options.upstream),
        metric=options.metric,
        versus=options.versus,
        best_epoch=options.best,
        published=options.published,
        ranks=options.ranks,
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
        lockstep=options.lockstep,
        lockstep_size=options.lockstep_size,
        processes=options.processes,
        plan_only=options.plan,
        commands_only=options.commands,
        as_json=options.json,
    )
    run_sweep(chosen)


def _together(options: argparse.Namespace) -> None:
    from sdkd_plugin.sweep.together import train_group

    if options.end_with_stdin:
        end_with_stdin()
    train_group(Path(options.file), options.size, options.processes)


def _align(options: argparse.Namespace) -> None:
    from sdkd_plugin.studies.align import AlignOptions, run_align

    chosen = AlignOptions(
        file=Path(options.file),
        overrides=tuple(options.opts),
        branch=options.branch,
        train_teacher=options.train_teacher,
        runs=tuple(options.runs),
        format=options.format,
        output=options.output,
    )
    run_align(chosen)


def _proxy(options: argparse.Namespace) -> None:
    from sdkd_plugin.studies.over_training import run_over_training

    path, words = Path(options.folder), options.opts
    run_over_training(path, words, options.images, options.tau, options.output)


def _examine(options: argparse.Namespace) -> None:
    from sdkd_plugin.studies.examine import run_examine

    path, words = Path(options.folder), options.opts
    run_examine(path, options.only, options.images, options.output, words)


def _attention(options: argparse.Namespace) -> None:
    from sdkd_plugin.studies.attention import AttentionOptions, run_attention

    chosen = AttentionOptions(
        folders=tuple(map(Path, options.folders)),
        index=tuple(options.index),
        of_class=options.of_class,
        disagree=options.disagree,
        count=options.count,
        predicted=options.predicted,
        images=options.images,
        output=options.output,
        overrides=tuple(word for pair in options.opts for word in pair),
    )
    run_attention(chosen)


def _watch(options: argparse.Namespace) -> None:
    from sdkd_plugin.sweep.watch import watch

    watch(Path(options.folder), options.every, options.once)


def _card(options: argparse.Namespace) -> None:
    from sdkd_plugin.ship.card import show_card

    show_card(Path(options.run), options.output)


def _export(options: argparse.Namespace) -> None:
    from sdkd_plugin.ship.export import export

    export(Path(options.run), options.format, options.output, options.normalise, options.opts)


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


def _completion(options: argparse.Namespace) -> None:
    from sdkd_plugin.completion import completion

    print(completion(options.shell))


COMMANDS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "train": _train,
    "eval": _eval,
    "verify": _verify,
    "data": _data,
    "table": _table,
    "sweep": _sweep,
    "together": _together,
    "watch": _watch,
    "card": _card,
    "export": _export,
    "demo": _demo,
    "align": _align,
    "proxy": _proxy,
    "examine": _examine,
    "attention": _attention,
    "link": _link,
    "unlink": _unlink,
    "methods": _methods,
    "run": _run,
    "completion": _completion,
}


if __name__ == "__main__":
    sys.exit(main())
