"""What a group of runs costs, against the same runs alone, in turn within one process.

    python benchmarks/lockstep.py --data cifar100.npz --teacher resnet56.pth
        [--size 32] [--rounds 3] [--steps 10]

resnet56 -> resnet20, batch 64, the settings of configs/cifar100/, whole steps with data; of a
method with several phases, the last. `alone` is the sum over the runs of steps that each makes by
itself, `together` the same steps in lockstep.
"""

import argparse
import contextlib
import io
import itertools
import tempfile
import time
from pathlib import Path

import psutil
from measuring import add_real_inputs, command_line, say_environment, spread
from yacs.config import CfgNode as CN

from sdkd_plugin.config import configs_folder, load_config
from sdkd_plugin.data.dataset import load_dataset
from sdkd_plugin.engine.group import Group, Member
from sdkd_plugin.runs.folder import RunFolder

WARM_STEPS = 2
KD_LIKE = ("kd", "dkd", "at", "sp", "cc", "pkt", "rkd", "fitnet")
GROUPS = {"8 KD-like methods": (KD_LIKE, 0.60), "all methods": ((), 0.70)}


def configs(methods: tuple[str, ...], options: argparse.Namespace, prefix: str) -> list[CN]:
    """A run of each method; of all if none is named."""
    folder = configs_folder() / "cifar100"
    names = methods or tuple(sorted(each.name for each in folder.iterdir()))
    files = [
        folder / name / ("resnet20.yaml" if name == "vanilla" else "res56_res20.yaml")
        for name in names
    ]
    overrides = {
        "DATASET.TYPE": "npz",
        "DATASET.ROOT": options.data,
        "DATASET.IMAGE_SIZE": options.size,
        "DISTILLER.TEACHER_CKPT": options.teacher,
        "SOLVER.LR": 0.0001,  # weights do not matter here, and no loss runs away
        "LOG.PREFIX": prefix,
    }
    words = [str(word) for pair in overrides.items() for word in pair]
    return [load_config(file, words) for file in files if file.exists()]


def build(cfgs: list[CN], options: argparse.Namespace) -> Group:
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


def main() -> None:
    """Prints ratio and memory of each group."""
    parser = command_line(__doc__, rounds=3, steps=10)
    add_real_inputs(parser)
    options = parser.parse_args()

    say_environment()
    process = psutil.Process()
    for name, (methods, wanted) in GROUPS.items():
        with tempfile.TemporaryDirectory() as prefix:
            before = process.memory_info().rss
            with contextlib.redirect_stdout(io.StringIO()):  # what runs say of themselves
                group = build(configs(methods, options, str(Path(prefix))), options)
            compare(name, wanted, group, options)
            grown = (process.memory_info().rss - before) / 2**20
            print(f"  memory: {group.memory / 2**20:.0f} MiB counted, {grown:.0f} MiB grown")


if __name__ == "__main__":
    main()
