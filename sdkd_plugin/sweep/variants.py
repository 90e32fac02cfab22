"""A sweep file's variants, as the table of an ablation asks for them."""

from collections.abc import Iterator
from pathlib import Path

from sdkd_plugin.errors import UserError
from sdkd_plugin.runs.identity import run_identity
from sdkd_plugin.runs.read import Run
from sdkd_plugin.sweep.file import read_sweep_file
from sdkd_plugin.sweep.jobs import kinds
from sdkd_plugin.table.ablation import Variant
from sdkd_plugin.table.rows import kind_of


def read_variants(path: Path) -> Iterator[Variant]:
    """The variants of every method that has some; neither data nor teachers need to be there.

    Raises:
        UserError: not a sweep file, a setting in it that no config has, or no variants in it.
    """
    file = read_sweep_file(path)
    if not file.variants:
        raise UserError(f"sweep file {path} has no variants; --variants needs some, label by label")
    for kind in kinds(file):
        if kind.label and kind.cfg.exists():
            # nothing of data or teacher is a method's setting
            identity = run_identity(kind.config(path), {}, None)
            run = Run(kind.cfg, identity, None, 0, {})
            yield Variant(kind.label, run.method, kind_of(run))
