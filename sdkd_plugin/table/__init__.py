"""The comparison of runs. `sdkd_plugin.table(RUNS)` returns it as a pandas data frame."""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pandas import DataFrame


class _CallablePackage(ModuleType):
    """The package is called `table`, as is what a user calls: both, then."""

    def __call__(
        self,
        *folders: str | Path,
        metric: str = "top1",
        versus: str | None = None,
        published: str | None = None,
        ranks: str | None = None,
        split: Sequence[str] = (),
        upstream: Sequence[str] = (),
    ) -> "DataFrame":
        """The runs under these folders, compared: a row for each cell of `tools/table.py`, with all
        digits, and one for each folder that does not count, whose `status` says why.

        Args:
            folders: searched recursively; without any, the published table alone.
            metric: of the runs' records, such as top1, top5, loss or ece.
            versus: a method that is tested against every other, paired by seed.
            published, ranks: a published table: poster, motivation, repdistiller or newer.
            split: method settings whose values get rows of their own, KEY or KEY=VALUE each.
            upstream: runs of mdistiller's trainer, each as PATH:METHOD:TEACHER/STUDENT:SEED.
        Raises:
            UserError: pandas is not installed, or anything wrong with the runs or the options.
        """
        from sdkd_plugin.table.frame import make_frame
        from sdkd_plugin.table.report import TableOptions

        options = TableOptions(
            folders=folders,
            upstream=tuple(upstream),
            metric=metric,
            versus=versus,
            published=published,
            ranks=ranks,
            split=tuple(split),
        )
        return make_frame(options)


sys.modules[__name__].__class__ = _CallablePackage
