"""`run`: starts one of mdistiller's own scripts with this package registered, linked or not,
changing no file.
"""

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from sdkd_plugin.config import find_config
from sdkd_plugin.errors import UserError
from sdkd_plugin.upstream.registration import register


def run(script: Path, arguments: Sequence[str]) -> None:
    """Runs `<checkout>/tools/<script>.py` as its own main program.

    Args:
        script: a script of a checkout, such as mdistiller/tools/train.py.
        arguments: what the script gets on its command line; a `--cfg configs/...` that is not
            there is the package's own.
    Raises:
        UserError: no such script, or it does not lie in a checkout of mdistiller.
    """
    checkout = script.resolve().parents[1]
    if not script.is_file():
        raise UserError(
            f"script {script} does not exist; give one of a checkout, such as "
            "mdistiller/tools/train.py"
        )
    if not (checkout / "mdistiller").is_dir():
        raise UserError(
            f"script {script} does not lie in a checkout of mdistiller: {checkout} has no folder "
            "mdistiller/"
        )

    sys.path.insert(0, str(checkout))
    register()
    sys.argv = [str(script), *_with_configs(arguments)]
    runpy.run_path(str(script), run_name="__main__")


def _with_configs(arguments: Sequence[str]) -> list[str]:
    """The arguments with the files that --cfg names where they are."""
    found = list(arguments)
    for place, word in enumerate(found):
        option, equals, path = word.partition("=")
        if option != "--cfg":
            continue
        if equals:
            found[place] = f"--cfg={find_config(path)}"
        elif place + 1 < len(found):
            found[place + 1] = str(find_config(found[place + 1]))
    return found
