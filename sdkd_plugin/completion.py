"""What makes a shell complete `sdkd`, by shtab."""

import argparse

from sdkd_plugin.arguments import make_parser
from sdkd_plugin.errors import UserError

PROGRAM = "sdkd"  # the installed command's name
# the arguments that are files (overrides name some, and runs), and folders
FILES = ("cfg", "ckpt", "file", "output", "script", "sheet", "imports", "opts")
FOLDERS = ("folder", "folders", "run", "runs", "checkout")


def completion(shell: str) -> str:
    """The script that a shell reads. Raises UserError where shtab is not installed."""
    try:
        import shtab
    except ImportError as error:
        raise UserError(
            "completion needs shtab; install it with: pip install 'sdkd-plugin[completion]'"
        ) from error

    parser = make_parser(PROGRAM)
    for action in _actions(parser):
        if action.dest in FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif action.dest in FOLDERS:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    return shtab.complete(parser, shell=shell)


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """All of a parser and of its commands."""
    found = list(parser._actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                found += _actions(command)
    return found
