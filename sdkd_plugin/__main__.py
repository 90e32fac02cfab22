"""The command line, `python -m sdkd_plugin COMMAND`; tools/*.py have mdistiller's flags for it."""

import argparse
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress

from sdkd_plugin.arguments import parse
from sdkd_plugin.commands import COMMANDS
from sdkd_plugin.errors import UserError
from sdkd_plugin.plugins import import_plugins
from sdkd_plugin.printable import printable
from sdkd_plugin.signals import exit_code, interruptible, signal_of

# How to go on after an interruption; the other commands leave nothing half done.
GO_ON = {
    "train": ": the last complete epoch is saved; add --resume to go on",
    "together": ": each run's last complete epoch is saved; give the same command to go on",
    "sweep": ": each run's last complete epoch is saved; give the same command to go on",
    "data": ": what DATASET.CACHE holds by now is kept; give the same command to go on",
    "demo": ": the last complete epoch is saved; give the same command to go on",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code: 0 done, 1 verified and different, 2 a user's error
    (one line on stderr), 130 interrupted, 143 and 129 ended by SIGTERM and SIGHUP.
    """
    options = parse(arguments)
    with interruptible(), warnings_in_one_line():
        return _run_command(options)


@contextmanager
def warnings_in_one_line() -> Iterator[None]:
    """Inside the block a warning says what it says, without the place in our code."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *place: f"warning: {' '.join(str(message).split())}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


def _run_command(options: argparse.Namespace) -> int:
    follower = _follower(options)
    try:
        _check_place()
        import_plugins(options.imports)
        with ExitStack() as stack:
            if follower:  # the first speaks for all
                nowhere = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(redirect_stdout(nowhere))
            return COMMANDS[options.command](options) or 0
    except (UserError, OSError) as error:
        print(f"{follower}error: {printable(' '.join(str(error).split()))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        # after SIGHUP there may be no terminal left to say it on
        with suppress(OSError):
            how = GO_ON.get(options.command, "")
            print(f"interrupted by {signal_of(error).name}{how}", file=sys.stderr)
        return exit_code(error)


def _follower(options: argparse.Namespace) -> str:
    """What stands before the errors of one of several processes that train a run together, see
    `engine.ranks`; "" for the first, and for a process alone.

    The variables are torchrun's. Other launchers leave a RANK behind, which means nothing here.
    """
    rank = os.environ.get("RANK", "0")
    together = options.command == "train" and os.environ.get("WORLD_SIZE", "1") != "1"
    return f"process {printable(rank)}: " if together and rank != "0" else ""


def _check_place() -> None:
    """Raises UserError if there is no working directory, which relative paths start from."""
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise UserError(
            "the working directory does not exist any more; cd into one that does, then repeat the "
            "command"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
