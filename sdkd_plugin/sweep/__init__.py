"""Many runs from one file. `sdkd_plugin.sweep(FILE)` runs them."""

import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdkd_plugin.settings import Overrides


class _CallablePackage(ModuleType):
    """The package is called `sweep`, as is what a user calls: both, then."""

    def __call__(
        self, file: str | Path, overrides: "Overrides" = (), jobs: int = 1, lockstep: bool = True
    ) -> list[Path]:
        """Runs methods x pairs x seeds as a sweep file says, each in a process of its own; what is
        finished is left alone, what was interrupted goes on.

        Args:
            file: such as "configs/sweeps/laptop.yaml"; `sweep/file.py` says what it may hold.
            overrides: {KEY: value} or KEY VALUE words, for every run.
            jobs: runs at a time.
            lockstep: train runs of one teacher and seed together; the same bits.
        Returns:
            the students' run folders, in the file's order, as `sdkd_plugin.table` takes them.
        Raises:
            UserError: a bad file, or runs that failed (the others are finished first).
        """
        from sdkd_plugin.settings import override_words
        from sdkd_plugin.sweep.command import SweepOptions, run_sweep
        from sdkd_plugin.sweep.jobs import folder_of, read_sweep

        path = Path(file)
        words = tuple(override_words(overrides))
        run_sweep(SweepOptions(path, words, jobs=jobs, lockstep=lockstep))
        return [folder_of(job).path for job in read_sweep(path, words).students]


sys.modules[__name__].__class__ = _CallablePackage
