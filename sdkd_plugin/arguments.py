"""What the command line takes; it imports nothing heavy, so that --help answers at once."""

import argparse
import difflib
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from sdkd_plugin import __version__
from sdkd_plugin.printable import printable
from sdkd_plugin.ship.arguments import add_card, add_export
from sdkd_plugin.studies.arguments import add_studies
from sdkd_plugin.sweep.arguments import add_sweep, add_together, add_watch
from sdkd_plugin.table.arguments import add_table

EPILOG = (
    "DATASET.TYPE: cifar100 | npz | imagefolder | webdataset | parquet | "
    "huggingface | digits | torchvision:NAME. All keys: sdkd_plugin/defaults.py; a method's: "
    "docs/methods/."
)


EXIT_CODES = (
    "Exit codes: 0 done; 1 `verify` found a difference; 2 a mistake, told in one line; 129, 130, "
    "143 ended by SIGHUP, Ctrl-C, SIGTERM. See docs/trust.md."
)
SHELLS = ("bash", "zsh", "tcsh")


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every error of this package is told, and exits 2.

    It takes no abbreviations: one in a script would mean something else with the next option.
    """

    def __init__(self, **settings: Any):
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        print(f"error: {printable(message)}; see: {self.prog} --help", file=sys.stderr)
        sys.exit(2)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The namespace of a command line; exits 2, after one line, where it is none.

    Overrides of `eval`, `sweep` and `data` may stand anywhere; argparse takes them in one piece.
    """
    parser = make_parser()
    options, rest = parser.parse_known_args(arguments)
    scattered = options.command in ("eval", "sweep", "data")
    if scattered and not any(word.startswith("--") for word in rest):
        options.opts = [*options.opts, *rest]
    elif rest:
        hint = _nearest(parser, options.command, rest)
        parser.error(f"unrecognized arguments: {' '.join(rest)}{hint}")
    return options


def _nearest(parser: argparse.ArgumentParser, command: str, words: Sequence[str]) -> str:
    """Asks for the option that the first unknown one may stand for; "" where none is near."""
    unknown = next((word.partition("=")[0] for word in words if word.startswith("-")), "")
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    known = [name for own in commands.choices[command]._actions for name in own.option_strings]
    near = [name for name in known if unknown and name.startswith(unknown)]
    near += difflib.get_close_matches(unknown, known, n=1, cutoff=0.5)
    return f" (did you mean {near[0]}?)" if near else ""


def make_parser(program: str = "sdkd_plugin") -> Parser:
    """Every command with its options; the namespace says as `command` which one was given, and as
    `imports` what `--import` named.

    Options stand in one order everywhere: what is meant, how it is done, what is only shown, how
    and where to it is written, what sweeps and plug-ins need (tests/test_arguments.py).
    """
    parser = Parser(
        prog=program,
        description="Knowledge distillation on CIFAR-100, reproducibly.",
        epilog=EXIT_CODES,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    _add_train(commands)
    _add_eval(commands)
    _add_verify(commands)
    _add_data(commands)
    add_table(commands)
    add_sweep(commands)
    add_together(commands)
    add_watch(commands)
    add_studies(commands)
    add_card(commands)
    add_export(commands)
    _add_demo(commands)
    _add_bridge(commands)
    _add_completion(commands)

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
        "--json", action="store_true", help="print the scores as json, all else on stderr"
    )
    score.add_argument(
        "opts",
        nargs="*",
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


def _add_data(commands: argparse._SubParsersAction) -> None:
    data = commands.add_parser(
        "data",
        help="look at a data set: sizes, classes, duplicates, broken files, samples",
        epilog=EPILOG,
        usage="%(prog)s [options] [FILE] [KEY VALUE ...]",
        description="Prints what the images of DATASET are, with duplicates inside train and "
        "between train and test by content, and every file that cannot be decoded.",
    )
    data.add_argument(
        "--sheet", default="", metavar="FILE", help="a PNG of samples as the network sees them"
    )
    data.add_argument(
        "opts",
        nargs="*",
        metavar="[FILE] [KEY VALUE ...]",
        help="a yaml file and overrides, such as DATASET.TYPE imagefolder DATASET.ROOT images",
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


def _add_completion(commands: argparse._SubParsersAction) -> None:
    completion = commands.add_parser(
        "completion",
        help="print what makes a shell complete the commands and options of `sdkd`",
        description='For bash: eval "$(sdkd completion bash)" in ~/.bashrc.',
    )
    completion.add_argument("shell", choices=SHELLS, help="for which")
