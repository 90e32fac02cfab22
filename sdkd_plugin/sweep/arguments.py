"""What `sweep`, `together` for it and `watch` take on the command line; no import is heavy."""

import argparse


def add_sweep(commands: argparse._SubParsersAction) -> None:
    """Adds the command."""
    sweep = commands.add_parser(
        "sweep", help="run methods x pairs x seeds as a sweep file says, skipping what is finished"
    )
    sweep.add_argument("file", metavar="SWEEP.yaml", help="such as configs/sweeps/laptop.yaml")
    sweep.add_argument(
        "--jobs",
        type=int,
        default=1,
        help="runs at a time, each with one thread or what OMP_NUM_THREADS says (default: 1)",
    )
    sweep.add_argument(
        "--executor",
        default="local",
        choices=("local", "ray"),
        help="where the runs go (default: local)",
    )
    sweep.add_argument("--address", help="of a running Ray cluster; default: one on this machine")
    sweep.add_argument(
        "--lockstep",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="train runs of one teacher and seed together, each batch's teacher pass made once; "
        "the same bits (default: yes, where the executor is local and a run one process)",
    )
    sweep.add_argument(
        "--lockstep-size",
        type=int,
        default=0,
        metavar="N",
        help="runs in a group at most (default: as many as half of the memory holds)",
    )
    sweep.add_argument(
        "--processes",
        type=int,
        default=1,
        metavar="N",
        help="of each run, which then share its batches; methods that need the whole batch have 1 "
        "(default: 1)",
    )
    sweep.add_argument("--plan", action="store_true", help="show runs, hours and disk, and stop")
    sweep.add_argument(
        "--commands",
        action="store_true",
        help="print a shell line per unfinished run, for a scheduler, and stop",
    )
    sweep.add_argument("--json", action="store_true", help="with --plan: print it as json")
    sweep.add_argument(
        "opts", nargs="*", metavar="KEY VALUE", help="overrides for every run, after the file"
    )


def add_together(commands: argparse._SubParsersAction) -> None:
    """Adds the command that a sweep calls."""
    together = commands.add_parser(
        "together", help="train the runs of a group file in lockstep; a sweep calls this"
    )
    together.add_argument("file", metavar="GROUP.json", help="as a sweep writes it")
    together.add_argument(
        "--size",
        type=int,
        default=0,
        help="runs at a time (default: what half of the memory holds)",
    )
    together.add_argument(
        "--processes",
        type=int,
        default=1,
        help="how many do this here at once and share the memory (default: 1)",
    )
    together.add_argument("--end-with-stdin", action="store_true", help="as of train")


def add_watch(commands: argparse._SubParsersAction) -> None:
    """Adds the command."""
    watch = commands.add_parser(
        "watch",
        help="show what the runs below a folder do: epoch, accuracy, images/s, time left",
        description="Until none trains any more, or Ctrl-C; where the output is no terminal, once.",
    )
    watch.add_argument("folder", metavar="FOLDER", help="such as output, the LOG.PREFIX of runs")
    watch.add_argument(
        "--every",
        type=float,
        default=5.0,
        metavar="SECONDS",
        help="between looks (default: 5)",
    )
    watch.add_argument("--once", action="store_true", help="show what there is now, and stop")
