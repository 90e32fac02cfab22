"""Knowledge distillation on CIFAR-100, reproducibly. `load_config`, `train`, `evaluate`, `sweep`,
`table` and `distill` are what a notebook needs; `sdkd_plugin.api` documents them.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Imported when first asked for: --help and a table must not wait for torch. `sweep` and `table` are
# packages, too, which is why these can be called.
_LAZY = ("load_config", "train", "evaluate", "distill", "UserError")
__all__ = ["__version__", *_LAZY, "sweep", "table"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module("sdkd_plugin.api"), name)
    if name in ("sweep", "table"):
        return import_module(f"sdkd_plugin.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
