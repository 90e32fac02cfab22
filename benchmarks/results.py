"""Writes benchmarks/RESULTS.md: what every benchmark printed, on one machine, one after another.

    python benchmarks/results.py --mdistiller CHECKOUT --data cifar100.npz --teacher resnet56.pth
        [--only NAME ...] [--keep FOLDER]

Nothing else should run meanwhile. Takes about an hour on two cores; each part is kept in --keep
when it ends and not repeated, so that the command can be given again.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import torch

from sdkd_plugin.runs.environment import describe_environment

HERE = Path(__file__).parent
# name: what it is called, and what is passed on to it
PARTS = {
    "against": ("Beside the real mdistiller", ("mdistiller", "data")),
    "throughput": ("Beside a plainly written loop", ("data",)),
    "lockstep": ("In lockstep", ("data", "teacher")),
    "teacher": ("The frozen teacher in other backends", ("data", "teacher")),
    "scaling": ("How cost grows", ()),
}


def run(name: str, options: argparse.Namespace, threads: int) -> str:
    """What a benchmark printed."""
    words = [word for key in PARTS[name][1] for word in (f"--{key}", getattr(options, key))]
    done = subprocess.run(
        [sys.executable, HERE / f"{name}.py", *words],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
    return done.stdout


def shown(text: str) -> str:
    """The figures: tables as they are, anything else as code."""
    lines = [line for line in text.splitlines() if line and not line.startswith("{")]
    blocks: list[str] = []
    for line in lines:
        table = line.startswith("|")
        if not blocks or (blocks[-1].startswith("|") != table):
            blocks.append(line)
        else:
            blocks[-1] += f"\n{line}"
    return "\n\n".join(b if b.startswith("|") else f"```\n{b}\n```" for b in blocks)


def origin(text: str) -> str:
    """The command, commit and threads of a part, which it printed itself."""
    (about,) = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    changed = " with uncommitted changes" if about["uncommitted_changes"] else ""
    words = [Path(word).name for word in about["command"]]
    return (
        f"`python benchmarks/{' '.join(words)}`, commit {about['commit'][:10]}{changed}, "
        f"{about['threads']} threads"
    )


def header() -> str:
    """Hardware, versions, commit and day."""
    about = describe_environment(torch.device("cpu"))
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    memory = psutil.virtual_memory().total / 2**30
    return (
        "# Measured\n\nWritten by `python benchmarks/results.py`; each part's file says how it is "
        "measured. A figure is the median of its rounds, with their range.\n\n"
        f"- {time.strftime('%Y-%m-%d')}\n"
        f"- {about['device']}, {psutil.cpu_count()} cores, {memory:.0f} GiB\n- {versions}\n"
    )


def main() -> None:
    """Runs what is not kept yet and writes the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mdistiller", required=True, help="a checkout of commit a08d46f")
    parser.add_argument("--data", required=True, help="CIFAR-100 as npz")
    parser.add_argument("--teacher", required=True, help="a trained resnet56")
    parser.add_argument("--only", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--keep", type=Path, default=Path("output/benchmarks"))
    options = parser.parse_args()

    options.keep.mkdir(parents=True, exist_ok=True)
    threads = psutil.cpu_count() or 1
    for name in options.only:
        kept = options.keep / f"{name}.txt"
        if not kept.exists():
            kept.write_text(run(name, options, threads))
            print(f"{name} is done", flush=True)

    parts = []
    for name, (title, _) in PARTS.items():
        kept = options.keep / f"{name}.txt"
        if kept.exists():
            text = kept.read_text()
            parts.append(f"## {title}\n\n{origin(text)}\n\n{shown(text)}\n")
    (HERE / "RESULTS.md").write_text("\n".join([header(), *parts]))


if __name__ == "__main__":
    main()
