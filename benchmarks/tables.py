"""Time and memory of `table` over many run folders: python benchmarks/tables.py [RUNS]

Writes run folders as training would (240 epochs each; 10 methods, 5 pairs, 10 learning rates, and
as many seeds as are needed), then calls the command line on them and says what it took.
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from yacs.config import CfgNode as CN

from sdkd_plugin.config import active_config, load_config
from sdkd_plugin.runs.folder import RunFolder
from sdkd_plugin.runs.identity import run_identity
from sdkd_plugin.runs.record import ACCURACIES, Metric, Result

RUNS = 10_000
EPOCHS = 240
METHODS = ("NONE", "KD", "DKD", "AT", "SP", "CC", "PKT", "RKD", "NST", "SDKD")
PAIRS = (
    ("resnet56", "resnet20"),
    ("resnet110", "resnet20"),
    ("resnet110", "resnet32"),
    ("wrn_40_2", "wrn_16_2"),
    ("wrn_40_2", "wrn_40_1"),
)
RATES = tuple(0.01 * number for number in range(1, 11))
METRICS = {
    **ACCURACIES,
    "loss": Metric("loss", "Cross entropy", "nats", "lower", decimals=4),
    "ece": Metric("ECE", "Expected calibration error", "%", "lower"),
}
WAYS = (
    ["--format", "terminal"],
    ["--format", "csv", "--versus", "SDKD"],
)


def write_runs(prefix: Path, count: int) -> None:
    """`count` finished runs under `prefix`; all have the same learning curve, shifted by seed."""
    settings = list(itertools.product(PAIRS, METHODS, RATES))
    seeds = -(-count // len(settings))
    for place, ((teacher, student), method, rate) in enumerate(settings):
        words = ["DISTILLER.TYPE", method, "DISTILLER.TEACHER", teacher]
        words += ["DISTILLER.STUDENT", student, "SOLVER.LR", str(rate)]
        cfg = load_config(None, words)
        cfg.defrost()
        for seed in range(seeds):
            if seed * len(settings) + place < count:
                cfg.SOLVER.SEED = seed
                write_run(prefix / f"{method}-{teacher}-{student}-{rate:.2f}" / f"seed{seed}", cfg)


def write_run(path: Path, cfg: CN) -> None:
    """One finished run, as training would leave it."""
    teacher = None if cfg.DISTILLER.TYPE == "NONE" else "0123456789abcdef"
    data = {"DATASET.MEAN": [0.5] * 3, "DATASET.STD": [0.25] * 3, "data": "0123456789abcdef"}
    identity = RunFolder(cfg, run_identity(cfg, data, teacher)).identity
    shift = cfg.SOLVER.SEED % 7 * 0.11
    rows = [
        f"train,{epoch},0.05,2.5,1.0,1.5,{40 + epoch / 10 + shift:.2f},90.0,1.25,5.5,12.5,2.5"
        for epoch in range(1, EPOCHS + 1)
    ]
    head = "phase,epoch,lr,train_loss,loss_ce,loss_kd,test_top1,test_top5,test_loss,"
    head += "test_ece,train_seconds,test_seconds"
    scores = {
        "top1": float(f"{40 + EPOCHS / 10 + shift:.2f}"),
        "top5": 90.0,
        "loss": 1.25,
        "ece": 5.5,
    }
    result = Result(
        method=cfg.DISTILLER.TYPE,
        teacher=None if teacher is None else cfg.DISTILLER.TEACHER,
        student=cfg.DISTILLER.STUDENT,
        seed=cfg.SOLVER.SEED,
        epochs=EPOCHS,
        schedule_epochs=EPOCHS,
        dataset="cifar100",
        evaluates="test",
        train_images=50000,
        metrics=METRICS,
        last=scores,
        best=scores,
        best_epoch=EPOCHS,
        teacher_score=None if teacher is None else scores,
        wall_seconds=EPOCHS * 15.0,
        images_per_second=4000.0,
        peak_memory_mib=900.0,
        deployed_parameters=278324,
        extra_parameters=0,
        finished="2026-01-01T00:00:00Z",
        config=active_config(cfg),
        identity=identity,
        environment={"command": ["train.py"], "versions": {"torch": "2"}, "device": "cpu"},
    )
    path.mkdir(parents=True)
    (path / "identity.json").write_text(json.dumps(identity, indent=2))
    (path / "metrics.csv").write_text("\n".join([head, *rows, ""]))
    (path / "result.json").write_text(json.dumps(asdict(result), indent=2))


def measure(arguments: list[str]) -> str:
    """What one call of the command line took, in words; on a busy machine the processor's seconds
    say more than the clock's.
    """
    command = [sys.executable, "-m", "sdkd_plugin", "table", *arguments]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    assert status == 0, status
    on_processor = used.ru_utime + used.ru_stime
    # ru_maxrss: KiB on Linux
    return f"{seconds:.1f} s, {on_processor:.1f} s of a processor, {used.ru_maxrss / 1024:.0f} MiB"


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    with tempfile.TemporaryDirectory() as folder:
        write_runs(Path(folder), count)
        for way in WAYS:
            print(f"{count} runs, {' '.join(way)}: {measure([folder, *way])}", flush=True)


if __name__ == "__main__":
    main()
