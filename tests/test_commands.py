"""Every command that a page shows is one: its options, files and config keys are there."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from sdkd_plugin.arguments import make_parser, parse
from sdkd_plugin.commands import COMMANDS
from sdkd_plugin.config import default_config
from sdkd_plugin.settings import flatten, override_pairs

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^    (.*)$", re.MULTILINE)
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`]+)`")
START = re.compile(
    r"""(?:python\ -m\ sdkd_plugin\ |(?<![\w.-])sdkd\ (?=\w))(?P<whole>.+)
    |(?:python\ )?tools/(?P<tool>\w+)\.py(?P<words>(?:\ .+)?)""",
    re.VERBOSE,
)
SHORT = re.compile(rf"(?:{'|'.join(COMMANDS)}) .*--.*")  # of a command that the text has named
OPTIONAL = re.compile(r"\[([^\]]*)\]")
END = re.compile(r" (?:>|&&|#) ")  # of the command, in a line for a shell
MADE = ("output/", "FILE", "configs/cifar100/<", "my_")  # not there, or not yet, or the reader's
OWN_SCRIPTS = ("make_configs",)


def shown() -> list[tuple[str, str]]:
    """(page, what follows `python -m sdkd_plugin`) of each command, whole or in short."""
    pages = subprocess.check_output(["git", "-C", ROOT, "ls-files", "*.md"], text=True)
    found = []
    for page in pages.split():
        text = FENCE.sub("", (ROOT / page).read_text())
        text = text.replace("\\\n", " ").replace("\\|", "|")
        for code in [*BLOCK.findall(text), *(" ".join(c.split()) for c in INLINE.findall(text))]:
            start = START.search(code)
            if start:
                line = start["whole"] or f"{start['tool']}{start['words']}"
                found.append((page, END.split(line)[0].strip("'")))
            elif SHORT.fullmatch(code):
                found.append((page, code))
    return [(page, line) for page, line in found if line and line.split()[0] not in OWN_SCRIPTS]


SHOWN = shown()


def options_of(name: str) -> set[str]:
    (sub,) = [a for a in make_parser()._actions if a.dest == "command"]
    return {word for action in sub.choices[name]._actions for word in action.option_strings}


@pytest.mark.parametrize(("page", "line"), SHOWN, ids=[f"{p}: {c[:60]}" for p, c in SHOWN])
def test_its_options_are_there(page, line):
    names, *words = line.split()
    for name in names.split("|"):
        assert name in COMMANDS
        asked = {word.strip("[]") for word in words if word.strip("[").startswith("--")}
        assert name == "run" or asked <= options_of(name)


WHOLE = [(p, c) for p, c in SHOWN if not c.startswith("run ") and re.search(r"--cfg|configs/", c)]


@pytest.mark.parametrize(("page", "line"), WHOLE)
def test_its_files_and_keys_are_there(page, line):
    words = [w.split("|")[0] for w in shlex.split(OPTIONAL.sub("", line)) if w != "..."]
    options = parse(words)
    files = [getattr(options, "cfg", None) or getattr(options, "file", None), *options.imports]
    for file in files:
        assert file is None or file.startswith(MADE) or (ROOT / file).is_file(), file
    known = dict(flatten(default_config()))
    assert dict(override_pairs(getattr(options, "opts", []))).keys() <= known.keys()


def test_enough_of_them_are_found():
    assert len(SHOWN) > 100 and len(WHOLE) > 50
    assert {"train", "eval", "table", "sweep", "card", "export"} <= {c.split()[0] for _, c in SHOWN}


def test_what_make_is_asked_for_is_there():
    rules = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    pages = subprocess.check_output(["git", "-C", ROOT, "ls-files", "*.md"], text=True).split()
    asked = re.findall(
        r"(?:^    |`)make ([\w-]+)", "\n".join((ROOT / p).read_text() for p in pages), re.MULTILINE
    )
    assert len(asked) > 8 and set(asked) <= set(rules)
