"""What the table calls the row of a run, and the order the rows stand in."""

from collections.abc import Callable, Sequence
from functools import cache

from sdkd_plugin.errors import UserError, unknown
from sdkd_plugin.runs.read import VANILLA, Run
from sdkd_plugin.table.columns import as_text
from sdkd_plugin.table.published import STUDENT, load_published, method_order

# setting to the value under which the method keeps its own name; None: there is none
Split = dict[str, str | None]


def kind_of(run: Run) -> str:
    """Equal for runs of one method, pair and setting, whatever their protocol and seed."""
    return as_text([run.method, run.teacher, run.student, run.recipe])


def read_split(words: Sequence[str], runs: Sequence[Run]) -> Split:
    """The settings that get rows of their own.

    Args:
        words: KEY or KEY=VALUE each, such as SDKD.FUSION=residual; see `row_name`.
    Raises:
        UserError: a setting, or a value of one, that no run has; a setting given twice.
    """
    settings = {key for run in runs for key in run.recipe}
    split: Split = {}
    for word in words:
        key, given, value = word.partition("=")
        if key not in settings:
            raise unknown("method setting", key, settings, "--split")
        if key in split:
            raise UserError(f"--split has {key} twice; leave all but one of them out")
        values = {str(run.recipe[key]) for run in runs if key in run.recipe}
        if given and value not in values:
            raise unknown(f"value of {key}", value, values, "--split")
        split[key] = value if given else None
    return split


def row_name(run: Run, split: Split) -> str:
    """How the table calls a run's method: as papers write it, with the settings that tell rows
    apart, but for those whose value is the one that keeps the method's own name.
    """
    if run.method == VANILLA:
        return STUDENT
    name = _spelled().get(run.method.lower(), run.method)
    if run.recipe.get(f"{run.method}.LOGIT_STANDARD"):
        name += "+LSKD"  # a method of its own in the published tables, too
    if run.dot:
        name += "+DOT"
    shown = [
        f"{key.split('.', 1)[1]}={run.recipe[key]}"
        for key, own in split.items()
        if key in run.recipe and str(run.recipe[key]) != own
    ]
    return f"{name} ({', '.join(shown)})" if shown else name


@cache
def _spelled() -> dict[str, str]:
    """Method names as papers write them, by their small letters."""
    return {name.lower(): name for name in method_order(load_published())}


def row_order(labels: Sequence[str]) -> Callable[[str], tuple[int, str]]:
    """The key to sort rows by: the published tables' order, SDKD last, and below it the labels."""
    known = method_order(load_published())

    def order(row: str) -> tuple[int, str]:
        if row in labels:  # below the methods
            return (len(known) * 2 + labels.index(row), row)
        name = row.split(" (")[0]
        # a method that no table prints stands before SDKD, the last
        return (known.index(name) * 2 if name in known else len(known) * 2 - 3, row)

    return order
