"""What each command calls with its options; it imports late, so that --help and a mistyped option
answer at once.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from sdkd_plugin.signals import end_with_stdin

if TYPE_CHECKING:
    from sdkd_plugin.table.ablation import Variant


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
        variants=_variants(options.variants),
    )
    make_table(shown, options.format, options.output)


def _variants(file: str | None) -> "tuple[Variant, ...]":
    if file is None:
        return ()
    from sdkd_plugin.sweep.variants import read_variants  # brings torch

    return tuple(read_variants(Path(file)))


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
        teachers=tuple(options.teacher),
        train_teacher=options.train_teacher,
        runs=tuple(options.runs),
        poster=options.poster,
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


def _landscape(options: argparse.Namespace) -> None:
    from sdkd_plugin.studies.landscape import LandscapeOptions, run_landscape

    chosen = LandscapeOptions(
        folders=tuple(map(Path, options.folders)),
        points=options.points,
        span=options.span,
        directions=options.directions,
        images=options.images,
        seed=options.seed,
        output=options.output,
        overrides=tuple(word for pair in options.opts for word in pair),
    )
    run_landscape(chosen)


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
    "landscape": _landscape,
    "link": _link,
    "unlink": _unlink,
    "methods": _methods,
    "run": _run,
    "completion": _completion,
}
