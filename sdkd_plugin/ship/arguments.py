"""What `card` and `export` take on the command line; it imports nothing heavy."""

import argparse

STYLES = ("pt2", "onnx", "torchscript")


def add_card(commands: argparse._SubParsersAction) -> None:
    """Adds the command."""
    card = commands.add_parser(
        "card",
        help="a Markdown card of a trained student",
        description="What it is, who taught it, by which protocol, how good it is over the seeds "
        "that lie beside it, what it cost, what to know before publishing it.",
    )
    card.add_argument("run", metavar="RUN", help="a finished run's folder")
    card.add_argument("--output", metavar="FILE", help="write there instead of printing")


def add_export(commands: argparse._SubParsersAction) -> None:
    """Adds the command."""
    export = commands.add_parser(
        "export",
        help="a trained student as a file for deployment, compared with its checkpoint",
        description="Writes the file if its logits on the run's evaluated images are those of the "
        "checkpoint, and shows size and latency of teacher and student on this machine.",
    )
    export.add_argument(
        "run", metavar="RUN | FILE", help="a run's folder, or a student's file there"
    )
    export.add_argument(
        "--no-normalise",
        dest="normalise",
        action="store_false",
        help="the file takes images that are normalised already, instead of pixels from 0 to 1; "
        "its metadata say by what",
    )
    export.add_argument(
        "--format",
        default=STYLES[0],
        choices=STYLES,
        help="pt2 (default; torch.export), onnx (extra `onnx`) or torchscript",
    )
    export.add_argument(
        "--output", metavar="FILE", help="default: beside the checkpoint, such as student.onnx"
    )
    export.add_argument(
        "opts",
        nargs="*",
        metavar="KEY VALUE",
        help="overrides, right after the run, such as DATASET.ROOT where the data lie now",
    )
