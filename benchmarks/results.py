"""Writes benchmarks/RESULTS.md: what every benchmark printed, each on one machine.

    python benchmarks/results.py --mdistiller CHECKOUT --data cifar100.npz --teacher resnet56.pth
        [--only NAME ...] [--keep FOLDER]

Nothing else should run meanwhile. Takes about an hour on two cores; each part is kept in --keep
when it ends and not repeated, so that the command can be given again. A part that is not kept there
stays in the file as it is.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

HERE = Path(__file__).parent
HEADER = """# Measured

Written by `python benchmarks/results.py`; each part's file says how it is measured. A figure is
the median of its rounds, with their range. Every part says where and when it was measured."""
# name: what it is called, and what is passed on to it
PARTS = {
    "against": ("Beside the real mdistiller", ("mdistiller", "data")),
    "throughput": ("Beside a plainly written loop", ("data",)),
    "lockstep": ("In lockstep", ("data", "teacher")),
    "teacher": ("The frozen teacher in other backends", ("data", "teacher")),
    "scaling": ("How cost grows", ()),
    "decoding": ("Images on their way", ("data",)),
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
    """The figures: tables as they are, anything else as code; an empty line parts them."""
    blocks: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.startswith("{"):
            continue
        parted = not line or (blocks[-1] and blocks[-1][0].startswith("|") != line.startswith("|"))
        if parted:
            blocks.append([])
        if line:
            blocks[-1].append(line)

    texts = ["\n".join(block) for block in blocks if block]
    return "\n\n".join(t if t.startswith("|") else f"```\n{t}\n```" for t in texts)


def origin(kept: Path) -> str:
    """Command, commit, day, hardware and versions of a part."""
    text = kept.read_text()
    (about,) = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    changed = " with uncommitted changes" if about["uncommitted_changes"] else ""
    words = [Path(word).name for word in about["command"]]
    day = time.strftime("%Y-%m-%d", time.gmtime(kept.stat().st_mtime))
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return (
        f"`python benchmarks/{' '.join(words)}`, commit {about['commit'][:10]}{changed}, "
        f"{about['threads']} threads; {day}, {about['device']}, {versions}"
    )


def sections(text: str) -> dict[str, str]:
    """The file's parts by title."""
    return {part.split("\n", 1)[0]: part.rstrip() for part in text.split("\n## ")[1:]}


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

    file = HERE / "RESULTS.md"
    parts = sections(file.read_text())
    for name, (title, _) in PARTS.items():
        kept = options.keep / f"{name}.txt"
        if kept.exists():
            parts[title] = f"{title}\n\n{origin(kept)}\n\n{shown(kept.read_text())}"
    titles = [title for title, _ in PARTS.values() if title in parts]
    file.write_text("\n\n## ".join([HEADER, *(parts[title] for title in titles)]) + "\n")


if __name__ == "__main__":
    main()
