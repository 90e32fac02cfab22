"""What the command line takes; it imports nothing heavy, so that --help answers at once."""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from sdkd_plugin import __version__
from sdkd_plugin.printable import printable

EPILOG = (
    "DATASET.TYPE: cifar100 | npz | imagefolder | digits. All keys: sdkd_plugin/defaults.py; a "
    "method's: docs/methods/."
)


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every error of this package is told, and exits 2."""

    def error(self, message: str) -> NoReturn:
        print(f"error: {printable(message)}; see: {self.prog} --help", file=sys.stderr)
        sys.exit(2)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The namespace of a command line; exits 2, after one line, where it is none.

    A sweep's overrides may stand anywhere after the file, which argparse takes only in one piece.
    """
    parser = make_parser()
    options, rest = parser.parse_known_args(arguments)
    if options.command == "sweep" and not any(word.startswith("--") for word in rest):
        options.opts = [*options.opts, *rest]
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return options


def make_parser() -> Parser:
    """Every command with its options; the namespace says as `command` which one was given, and as
    `imports` what `--import` named.
    """
    parser = Parser(
        prog="sdkd_plugin", description="Knowledge distillation on CIFAR-100, reproducibly."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    _add_train(commands)
    _add_eval(commands)
    _add_verify(commands)
    _add_table(commands)
    _add_sweep(commands)
    _add_together(commands)
    _add_demo(commands)
    _add_bridge(commands)

    for command in commands.choices.values():
        command.add_argument(
            "--import",
            dest="imports",
            action="append",
            default=[],
            metavar="MODULE",
            help="a module or .py file that registers a method, model, data set or format; "
            "may be given several times; see examples/outside/",
        )
    return parser


def _add_train(commands: argparse._SubParsersAction) -> None:
    train = commands.add_parser(
        "train", help="train a student (or a teacher) as a yaml file says", epilog=EPILOG
    )
    train.add_argument(
        "--cfg", required=True, help="yaml file, such as configs/cifar100/sdkd/res56_res20.yaml"
    )
    train.add_argument(
        "--resume",
        action="store_true",
        help="go on with this run if it was interrupted; exact to the bit on the CPU",
    )
    train.add_argument(
        "--train-teacher",
        action="store_true",
        help="train the teacher first if its checkpoint is missing",
    )
    train.add_argument(
        "--dry-run",
        action="store_true",
        help="show resolved config, scaled epochs, parameters and expected cost, and stop",
    )
    train.add_argument(
        "--end-with-stdin",
        action="store_true",
        help="stop as by SIGTERM when standard input ends; a sweep gives it to its runs",
    )
    train.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help="overrides, such as SOLVER.SEED 1 DATASET.TYPE digits",
    )


def _add_eval(commands: argparse._SubParsersAction) -> None:
    score = commands.add_parser(
        "eval",
        help="score a run's student, or any checkpoint",
        epilog=EPILOG,
        usage="%(prog)s [options] [RUN | FILE] [KEY VALUE ...]",
        description="A run's folder, or a file in it, is scored with the run's own config: model, "
        "data, image size, normalisation. What options and overrides change of that is printed.",
    )
    score.add_argument("-m", "--model", help="model name, unless run or file say it")
    score.add_argument(
        "-c",
        "--ckpt",
        help="checkpoint file or run folder; 'pretrain' (default): the published teacher's place",
    )
    score.add_argument("-d", "--dataset", help="DATASET.TYPE (default: the run's, else cifar100)")
    score.add_argument("-bs", "--batch-size", type=int, help="images per batch (default: 64)")
    score.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        metavar="[RUN | FILE] [KEY VALUE ...]",
        help="what to score, unless -c says it, and overrides, such as DATASET.ROOT cifar100.npz",
    )


def _add_verify(commands: argparse._SubParsersAction) -> None:
    verify = commands.add_parser(
        "verify",
        help="repeat a run's first steps and say whether they give the recorded bits",
        description="Exit code 0: they match; 1: they do not; 2: not possible. See docs/trust.md.",
    )
    verify.add_argument("folder", metavar="RUN", help="a run's folder, which holds config.yaml")
    verify.add_argument(
        "--steps", type=int, help="how many (default: all that are recorded, which are 3)"
    )
    verify.add_argument(
        "opts",
        nargs="*",
        metavar="KEY VALUE",
        help="overrides, right after the folder, such as DATASET.ROOT where the data lie now",
    )


def _add_table(commands: argparse._SubParsersAction) -> None:
    table = commands.add_parser(
        "table", help="compare runs: mean, spread, gain, published numbers, cost, paired tests"
    )
    table.add_argument(
        "folders", nargs="*", metavar="RUNS", help="folders that hold runs, searched recursively"
    )

    table.add_argument(
        "--format",
        default="terminal",
        help="terminal (default), md, latex, csv, html, png or a plug-in's own",
    )
    table.add_argument("--output", metavar="FILE", help="write there instead of printing")

    table.add_argument(
        "--metric",
        metavar="NAME",
        default="top1",
        help="a metric of the runs' records, such as top1 (default), top5, loss or ece",
    )
    table.add_argument(
        "--versus", metavar="METHOD", help="test this method against every other, paired by seed"
    )
    table.add_argument(
        "--best",
        action="store_true",
        help="show the best epoch on the evaluated images beside the last epoch",
    )
    table.add_argument(
        "--published",
        metavar="NAME",
        help="published numbers: poster, motivation, repdistiller or newer; alone: print it",
    )
    table.add_argument(
        "--ranks",
        metavar="NAME",
        help="order of the methods beside this published table's, with Spearman's correlation",
    )
    table.add_argument(
        "--split",
        nargs="+",
        default=[],
        metavar="KEY",
        help="a row for each value of a method's setting, such as SDKD.FUSION",
    )

    table.add_argument(
        "--upstream",
        nargs="+",
        default=[],
        metavar="PATH:METHOD:TEACHER/STUDENT:SEED",
        help="a run folder of mdistiller's own trainer, which records none of the three; NONE has "
        "the teacher -",
    )


def _add_sweep(commands: argparse._SubParsersAction) -> None:
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
    sweep.add_argument("--address", help="of a running Ray cluster; default: one on this machine")
    sweep.add_argument("--plan", action="store_true", help="show runs, hours and disk, and stop")
    sweep.add_argument(
        "--commands",
        action="store_true",
        help="print a shell line per unfinished run, for a scheduler, and stop",
    )
    sweep.add_argument(
        "opts", nargs="*", metavar="KEY VALUE", help="overrides for every run, after the file"
    )


def _add_together(commands: argparse._SubParsersAction) -> None:
    together = commands.add_parser(
        "together", help="train the runs of a group file in lockstep; a sweep calls this"
    )
    together.add_argument("file", metavar="GROUP.json", help="as a sweep writes it")
    together.add_argument("--end-with-stdin", action="store_true", help="as of train")
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


def _add_demo(commands: argparse._SubParsersAction) -> None:
    demo = commands.add_parser(
        "demo", help="train and compare five methods on handwritten digits in a few minutes"
    )
    demo.add_argument(
        "--output",
        default="output/demo",
        help="where the runs and the table go (default: output/demo)",
    )


def _add_bridge(commands: argparse._SubParsersAction) -> None:
    for name, text in (
        ("link", "make a checkout of mdistiller register this package by itself"),
        ("unlink", "undo link, to the byte"),
    ):
        bridge = commands.add_parser(name, help=text, description=f"{text}; see docs/mdistiller.md")
        bridge.add_argument(
            "checkout",
            metavar="PATH",
            help="the checkout's root, the folder with tools/ and mdistiller/",
        )
        bridge.add_argument(
            "--dry-run", action="store_true", help="show what would change, and change nothing"
        )

    commands.add_parser("methods", help="list the methods, and which run in mdistiller")

    run = commands.add_parser(
        "run",
        help="run one of mdistiller's own scripts with this package registered, linked or not",
    )
    run.add_argument(
        "script", metavar="PATH/tools/train.py", help="a script of a checkout of mdistiller"
    )
    run.add_argument(
        "arguments",
        nargs=argparse.REMAINDER,
        metavar="...",
        help="what the script gets, such as --cfg FILE",
    )
