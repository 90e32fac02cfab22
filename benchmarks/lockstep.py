"""What a group of runs costs, against the same runs alone, in turn within one process.

    python benchmarks/lockstep.py --data cifar100.npz --teacher resnet56.pth
        [--size 32] [--rounds 3] [--steps 10]

resnet56 -> resnet20, batch 64, the settings of configs/cifar100/, whole steps with data; of a
method with several phases, the last. `alone` is the sum over the runs of steps that each makes by
itself, `together` the same steps in lockstep. Then what a run's step and the process's memory come
to in groups of 1 to 16 KD runs, each group in a process of its own.
"""

import argparse
import contextlib
import io
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import psutil
import torch
from measuring import add_real_inputs, command_line, say_environment, spread
from yacs.config import CfgNode as CN

from sdkd_plugin.config import configs_folder, load_config
from sdkd_plugin.data.dataset import load_dataset
from sdkd_plugin.engine.group import Group, Member
from sdkd_plugin.engine.memory import peak_memory
from sdkd_plugin.runs.folder import RunFolder

WARM_STEPS = 2
KD_LIKE = ("kd", "dkd", "at", "sp", "cc", "pkt", "rkd", "fitnet")
ALL = tuple(sorted(each.name for each in (configs_folder() / "cifar100").iterdir()))
GROUPS = {"8 KD-like methods": (KD_LIKE, 0.60), "all methods": (ALL, 0.70)}
SIZES = (1, 2, 4, 8, 16)


def config(method: str, options: argparse.Namespace, prefix: str, *words: str) -> CN:
    """A run of a method; `words` are overrides of its yaml file."""
    file = "resnet20.yaml" if method == "vanilla" else "res56_res20.yaml"
    overrides = {
        "DATASET.TYPE": "npz",
        "DATASET.ROOT": options.data,
        "DATASET.IMAGE_SIZE": options.size,
        "DISTILLER.TEACHER_CKPT": options.teacher,
        "SOLVER.LR": 0.0001,  # weights do not matter here, and no loss runs away
        "LOG.PREFIX": prefix,
    }
    given = [str(word) for pair in overrides.items() for word in pair]
    return load_config(configs_folder() / "cifar100" / method / file, [*given, *words])


@contextlib.contextmanager
def built(cfgs: Callable[[str], list[CN]]) -> Iterator[Group]:
    """The group of the runs, whose configs are made for a folder, each in its last phase."""
    with tempfile.TemporaryDirectory() as prefix:
        with contextlib.redirect_stdout(io.StringIO()):  # what runs say of themselves
            group = build(cfgs(prefix))
        yield group


def build(cfgs: list[CN]) -> Group:
    """The runs' group, each in its last phase."""
    dataset = load_dataset(cfgs[0])
    group = Group(dataset, cfgs[0])
    for number, cfg in enumerate(cfgs):
        folder = RunFolder.of(cfg, dataset)
        folder.lock()
        group.add(number, cfg, folder)
    for member in group.members:
        member.trainer.reach(member.trainer.schedule[-1][0])
        member.running = member.trainer.begin(1)
    return group


def together(group: Group, steps: int) -> float:
    """Seconds of so many steps of all in lockstep."""
    began = time.perf_counter()
    batches = group._batches(0.0).epoch(1)
    for number, batch in enumerate(itertools.islice(batches, steps)):
        group._take(group.members, batch, number, 0.0)
    return time.perf_counter() - began


def alone(member: Member, steps: int) -> float:
    """Seconds of so many steps of one run by itself."""
    began = time.perf_counter()
    for batch in itertools.islice(member.trainer.train_batches.epoch(1), steps):
        member.trainer.take(member.running, batch)
    return time.perf_counter() - began


def all_alone(group: Group, steps: int) -> float:
    """Seconds of the runs one by one, each with a pass of the teacher in every step."""
    shared = {member.teacher for member in group.members if member.teacher}
    for teacher in shared:
        del teacher._network.forward  # the network's own is back
    total = sum(alone(member, steps) for member in group.members)
    for teacher in shared:
        teacher._network.forward = teacher
    return total


def compare(name: str, wanted: float, group: Group, options: argparse.Namespace) -> None:
    """Times both ways in turn and prints their ratio with its spread."""
    together(group, WARM_STEPS)
    all_alone(group, WARM_STEPS)
    rows = []
    for _ in range(options.rounds):
        rows.append((together(group, options.steps), all_alone(group, options.steps)))
    ratios = [one / other for one, other in rows]
    size = len(group.members)
    print(f"{name} ({size} runs): together / alone {spread(ratios, 3)}, wanted: at most {wanted}")
    step = 1000 / options.steps
    print(
        "  ms a step, all runs: " + ", ".join(f"{a * step:.0f} / {b * step:.0f}" for a, b in rows)
    )


def measure(size: int, options: argparse.Namespace) -> None:
    """Prints ms of a step, all runs, and peak MiB of this process with so many runs of KD."""

    def cfgs(prefix: str) -> list[CN]:
        weights = [str(1 + number / 100) for number in range(size)]
        return [config("kd", options, prefix, "KD.LOSS.KD_WEIGHT", each) for each in weights]

    with built(cfgs) as group:
        together(group, WARM_STEPS)
        milliseconds = 1000 * together(group, options.steps) / options.steps
    print(json.dumps([milliseconds, peak_memory(torch.device("cpu")) / 2**20]))


def told_by_size(options: argparse.Namespace) -> Iterator[str]:
    """Cost by the group's size as markdown; rounds take the sizes in turn."""
    figures: dict[int, list[list[float]]] = {size: [] for size in SIZES}
    for _ in range(options.rounds):
        for size, rows in figures.items():
            command = [sys.executable, *sys.argv, "--one", str(size)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))

    yield "| KD runs in a group | ms a step and run | peak MiB of the process |"
    yield "|---|---|---|"
    for size, rows in figures.items():
        step = spread([ms / size for ms, _ in rows], 0)
        yield f"| {size} | {step} | {spread([peak for _, peak in rows], 0)} |"


def main() -> None:
    """Prints ratio and memory of each group."""
    parser = command_line(__doc__, rounds=3, steps=10)
    add_real_inputs(parser)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measure(options.one, options)
        return

    say_environment()
    process = psutil.Process()
    for name, (methods, wanted) in GROUPS.items():
        before = process.memory_info().rss
        with built(
            lambda prefix, names=methods: [config(m, options, prefix) for m in names]
        ) as group:
            compare(name, wanted, group, options)
            grown = (process.memory_info().rss - before) / 2**20
            print(f"  memory: {group.memory / 2**20:.0f} MiB counted, {grown:.0f} MiB grown")
    print()
    for line in told_by_size(options):
        print(line, flush=True)


if __name__ == "__main__":
    main()
