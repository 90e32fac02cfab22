"""What `table` takes on the command line; it imports nothing heavy."""

import argparse


def add_table(commands: argparse._SubParsersAction) -> None:
    """Adds the command."""
    table = commands.add_parser(
        "table", help="compare runs: mean, spread, gain, published numbers, cost, paired tests"
    )
    table.add_argument(
        "folders", nargs="*", metavar="RUNS", help="folders that hold runs, searched recursively"
    )
    _add_comparisons(table)
    _add_rows(table)
    _add_output(table)


def _add_comparisons(table: argparse.ArgumentParser) -> None:
    """What is shown of the runs, and what they are compared with."""
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


def _add_rows(table: argparse.ArgumentParser) -> None:
    """Which rows there are beside a method's own."""
    table.add_argument(
        "--split",
        nargs="+",
        default=[],
        metavar="KEY[=VALUE]",
        help="a row for each value of a method's setting, such as SDKD.FUSION; with =VALUE runs of "
        "that value keep the method's own row, with its published number and rank",
    )
    table.add_argument(
        "--variants",
        metavar="SWEEP.yaml",
        help="an ablation's table: a row for each of this sweep file's variants, with its "
        "difference to the first, or to the one that --versus names",
    )
    table.add_argument(
        "--upstream",
        nargs="+",
        default=[],
        metavar="PATH:METHOD:TEACHER/STUDENT:SEED",
        help="a run folder of mdistiller's own trainer, which records none of the three; NONE has "
        "the teacher -",
    )


def _add_output(table: argparse.ArgumentParser) -> None:
    """What it becomes, and where."""
    table.add_argument(
        "--format",
        default="terminal",
        help="terminal (default), md, latex, csv, json, html, png or a plug-in's own",
    )
    table.add_argument(
        "--json", dest="format", action="store_const", const="json", help="as --format json"
    )
    table.add_argument("--output", metavar="FILE", help="write there instead of printing")
