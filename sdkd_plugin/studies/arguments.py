"""What the studies take on the command line; it imports nothing heavy."""

import argparse


def add_studies(commands: argparse._SubParsersAction) -> None:
    """Adds every study's command."""
    _add_align(commands)
    _add_proxy(commands)
    _add_examine(commands)
    _add_attention(commands)
    _add_landscape(commands)


def _add_align(commands: argparse._SubParsersAction) -> None:
    align = commands.add_parser(
        "align",
        help="the motivation study: teachers at temperatures of equal cross entropy",
        description="Finds for each teacher the temperature of the reference's test cross entropy "
        "and writes the sweep that distils the students from each; with --runs, the table.",
    )
    align.add_argument("file", metavar="STUDY.yaml", help="such as configs/studies/motivation.yaml")
    align.add_argument(
        "--branch",
        default="reference",
        choices=("reference", "sharper", "softer"),
        help="which of two temperatures to take: the one on the reference's side of the smallest "
        "cross entropy (default), below it or above it",
    )
    align.add_argument(
        "--runs",
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="where the finished sweep's runs lie",
    )
    align.add_argument(
        "--teacher",
        action="append",
        default=[],
        metavar="MODEL=FILE",
        help="where a teacher of the study lies; may be given several times",
    )
    align.add_argument(
        "--poster", action="store_true", help="print the poster's own table below, as printed"
    )
    align.add_argument(
        "--train-teacher",
        action="store_true",
        help="train teachers first whose checkpoints are missing",
    )
    _add_output(align)
    align.add_argument(
        "opts",
        nargs="*",
        metavar="KEY VALUE",
        help="overrides for every run, right after the file",
    )


def _add_output(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--format", default="terminal", help="of the table: terminal (default), md, latex or csv"
    )
    command.add_argument("--output", metavar="FILE", help="write the table there")


def _add_proxy(commands: argparse._SubParsersAction) -> None:
    proxy = commands.add_parser(
        "proxy",
        help="what SDKD's proxy teacher does over training, from a run's kept checkpoints",
        description="Accuracy of student, proxy and teacher, KL of each to each, CKA of their maps "
        "at each fused stage, as csv, PNG and TensorBoard scalars. The run is trained with "
        "LOG.SAVE_CHECKPOINT_FREQ 1.",
    )
    proxy.add_argument("folder", metavar="RUN", help="a run's folder")
    proxy.add_argument("--tau", type=float, default=1.0, help="temperature of the KLs (default: 1)")
    _add_look(proxy)


def _add_examine(commands: argparse._SubParsersAction) -> None:
    examine = commands.add_parser(
        "examine",
        help="a closer look at a run: accuracy by class, calibration, fidelity, t-SNE, ...",
        description="Writes a PNG and a csv for each look: per-class, calibration, fidelity, "
        "correlation, tsne.",
    )
    examine.add_argument("folder", metavar="RUN", help="a run's folder")
    examine.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="LOOK",
        help="one of the looks alone; may be given several times",
    )
    _add_look(examine)


def _add_attention(commands: argparse._SubParsersAction) -> None:
    attention = commands.add_parser(
        "attention",
        help="where teacher, students and SDKD's proxy look on the same images (Grad-CAM)",
        description="Draws Grad-CAM of the runs' teacher, each run's student and, of SDKD, its "
        "proxy, with predictions and confidences, and says how alike each one's maps and the "
        "teacher's are: Spearman's rank correlation and its spread over images.",
    )
    attention.add_argument("folders", nargs="+", metavar="RUN", help="runs of one teacher")
    attention.add_argument(
        "--index",
        type=int,
        action="append",
        default=[],
        metavar="I",
        help="draw this one of the evaluated images; may be given several times",
    )
    attention.add_argument(
        "--class", dest="of_class", metavar="NAME", help="draw images of this class"
    )
    attention.add_argument(
        "--disagree",
        action="store_true",
        help="draw images of which the networks do not all say the same",
    )
    attention.add_argument(
        "--count", type=int, default=6, metavar="N", help="images in the picture (default: 6)"
    )
    attention.add_argument(
        "--predicted",
        action="store_true",
        help="maps of the class that each network predicts (default: of the label)",
    )
    attention.add_argument(
        "--images",
        type=int,
        default=500,
        metavar="N",
        help="images that the numbers are over, spread over the classes; 0: all (default: 500)",
    )
    attention.add_argument(
        "--output",
        default="attention",
        metavar="FOLDER",
        help="where to write (default: attention)",
    )
    _add_set(attention)


def _add_landscape(commands: argparse._SubParsersAction) -> None:
    landscape = commands.add_parser(
        "landscape",
        help="the loss of students along random directions of their weights",
        description="Draws cross entropy and top-1 of each run's student along the same random "
        "directions, each filter's part as long as the filter, and says how much the loss rises.",
    )
    landscape.add_argument("folders", nargs="+", metavar="RUN", help="runs of one student")
    numbers = (
        ("--points", int, 21, "values of alpha, an odd number (default: 21)"),
        ("--span", float, 1.0, "alpha goes from -SPAN to SPAN (default: 1)"),
        ("--directions", int, 1, "random directions (default: 1)"),
        (
            "--images",
            int,
            1000,
            "evaluated images, spread over the classes; 0: all (default: 1000)",
        ),
        ("--seed", int, 0, "of the directions (default: 0)"),
    )
    for name, kind, default, told in numbers:
        landscape.add_argument(name, type=kind, default=default, metavar="N", help=told)
    landscape.add_argument(
        "--output",
        default="landscape",
        metavar="FOLDER",
        help="where to write (default: landscape)",
    )
    _add_set(landscape)


def _add_set(command: argparse.ArgumentParser) -> None:
    """Overrides of a command that takes several runs."""
    command.add_argument(
        "--set",
        dest="opts",
        nargs=2,
        action="append",
        default=[],
        metavar=("KEY", "VALUE"),
        help="an override for every run, such as DATASET.ROOT where the data lie now",
    )


def _add_look(command: argparse.ArgumentParser) -> None:
    """What every command has that looks at a run's networks."""
    command.add_argument(
        "--images",
        type=int,
        default=0,
        metavar="N",
        help="look at so many of the evaluated images, spread over the classes (default: all)",
    )
    command.add_argument(
        "--output", metavar="FOLDER", help="where to write (default: studies in the run's folder)"
    )
    command.add_argument(
        "opts",
        nargs="*",
        metavar="KEY VALUE",
        help="overrides, right after the folder, such as DATASET.ROOT where the data lie now",
    )
