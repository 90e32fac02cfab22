"""What `python tools/sweep.py` does: show the plan, run what is not finished, say what failed."""

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sdkd_plugin.engine.plan import make_plan
from sdkd_plugin.errors import UserError, unknown
from sdkd_plugin.sweep.execute import (
    Outcomes,
    Tick,
    can_share,
    command,
    run_local,
    run_on_ray,
    run_threads,
)
from sdkd_plugin.sweep.jobs import Job, Sweep, read_sweep, unfinished
from sdkd_plugin.sweep.progress import KindCost, Remaining, run_all
from sdkd_plugin.sweep.together import run_in_lockstep

EXECUTORS = ("local", "ray")


@dataclass(frozen=True)
class SweepOptions:
    """What a sweep runs and how.

    Args:
        file: the sweep file, see `sweep/file.py`.
        overrides: KEY VALUE pairs for every run, after the file's own.
        jobs: runs at a time, on Ray as many as fit; each has the threads that `run_threads` says.
        executor: one of EXECUTORS.
        address: of a Ray cluster, see `execute.run_on_ray`.
        lockstep: train students in groups, each on one pass of its teacher; on this machine alone,
            one process a run.
        lockstep_size: how many runs at most in a group; 0: as many as the memory holds.
        processes: of each run that several can train.
        plan_only: show the plan and stop.
        commands_only: print the unfinished runs' command lines, for another scheduler, and stop.
    """

    file: Path
    overrides: tuple[str, ...] = ()
    jobs: int = 1
    executor: str = "local"
    address: str | None = None
    lockstep: bool = True
    lockstep_size: int = 0
    processes: int = 1
    plan_only: bool = False
    commands_only: bool = False


def run_sweep(options: SweepOptions) -> None:
    """Runs every unfinished run of a sweep file.

    Raises:
        UserError: a bad option or sweep file, or runs that failed (the others are finished first).
    """
    if options.jobs < 1:
        raise UserError(f"--jobs is {options.jobs}; allowed: 1 or more")
    if options.lockstep_size < 0:
        raise UserError(f"--lockstep-size is {options.lockstep_size}; allowed: 0 or more")
    if options.processes < 1:
        raise UserError(f"--processes is {options.processes}; allowed: 1 or more")
    if options.executor not in EXECUTORS:
        raise unknown("executor", options.executor, EXECUTORS, "--executor")
    if options.executor != "local" and options.processes > 1:
        raise UserError(
            f"--processes is {options.processes}; allowed with --executor {options.executor}: 1"
        )

    sweep = read_sweep(options.file, options.overrides)
    phases = [list(unfinished(sweep.teachers)), list(unfinished(sweep.students))]
    todo = [job for phase in phases for job in phase]
    if options.commands_only:
        print_commands(phases, options.processes)
        return
    costs = show_sweep_plan(sweep, todo, options.jobs)
    if options.plan_only or not todo:
        return

    if options.processes > 1:
        _say_processes(todo, options.processes)
    prefix = todo[0].config().LOG.PREFIX
    logs = Path(prefix, "sweeps", sweep.name)
    remaining = Remaining(costs, todo, options.jobs)
    failures = run_all(phases, _executor(options, logs, phases[0]), remaining)
    if failures:
        listed = "; ".join(f"{job.label}: {error}" for job, error in failures)
        raise UserError(
            f"{len(failures)} of {len(todo)} runs failed, the others are finished; start again to "
            f"retry them: {listed}"
        )
    print(f"all runs of {sweep.name} are finished; their table: python tools/table.py {prefix}")


def _executor(
    options: SweepOptions, logs: Path, teachers: list[Job]
) -> Callable[[list[Job], Tick], Outcomes]:
    """What runs the jobs of a phase."""

    def execute(jobs: list[Job], tick: Tick) -> Outcomes:
        if options.executor != "local":
            return run_on_ray(jobs, options.address, run_threads(), tick)
        # teachers have nothing in common but their batches
        if options.lockstep and jobs is not teachers and options.processes == 1:
            return run_in_lockstep(jobs, options.jobs, options.lockstep_size, logs, tick)
        return run_local(jobs, options.jobs, logs, tick, options.processes)

    return execute


def _say_processes(todo: list[Job], processes: int) -> None:
    """Says how the runs are trained, where that is by several processes each."""
    whole = sorted({job.kind for job in todo if not can_share(job)})
    alone = f", but one for those that need the whole batch: {', '.join(whole)}" if whole else ""
    print(f"not in lockstep: each run by {processes} processes{alone}")


def print_commands(phases: list[list[Job]], processes: int) -> None:
    """One shell line for each run that can start now: the missing teachers', or where there is none
    missing the students'.
    """
    teachers, students = phases
    for job in teachers or students:
        print(shlex.join(command(job, processes)))
    if teachers:
        print(
            f"these are the teachers; ask again once they are trained, for the {len(students)} "
            f"students",
            file=sys.stderr,
        )


def show_sweep_plan(sweep: Sweep, todo: list[Job], jobs: int) -> dict[str, KindCost]:
    """Prints runs, hours and disk; each kind of run (all but its seed) is timed once for a few
    steps. Returns what a run costs of each kind that could be timed.
    """
    total = len(sweep.teachers) + len(sweep.students)
    print(f"sweep {sweep.name}: {total} runs, {total - len(todo)} of them finished", flush=True)
    if sweep.note:
        print(sweep.note)
    if sweep.undefined:
        print(f"not defined, left out: {', '.join(sweep.undefined)}")
    if not todo:
        return {}

    kinds: dict[str, list[Job]] = {}
    for job in todo:
        kinds.setdefault(job.kind, []).append(job)
    table = Table("runs", "n", "hours each", "MiB each")
    costs: dict[str, KindCost] = {}
    disk = 0.0
    before = torch.get_num_threads()
    torch.set_num_threads(run_threads())  # as the runs will have
    for kind, members in kinds.items():
        try:
            plan = make_plan(members[0].config())
        except UserError as error:  # the run itself will fail with it; the others need not
            table.add_row(escape(kind), str(len(members)), "?", "?")
            print(f"no estimate for {kind}: {error}")
            continue
        costs[kind] = KindCost(plan.hours, plan.epochs)
        disk += len(members) * plan.disk
        table.add_row(
            escape(kind), str(len(members)), f"{plan.hours:.2f}", f"{plan.disk / 2**20:.0f}"
        )
    torch.set_num_threads(before)

    Console().print(table)
    altogether = sum(cost.hours * len(kinds[kind]) for kind, cost in costs.items())
    print(
        f"estimated from a few timed steps with {run_threads()} threads: {altogether:.1f} hours "
        f"one at a time, about {altogether / jobs:.1f} with {jobs} at a time if each keeps its "
        f"speed, less in lockstep; {disk / 2**20:.0f} MiB on disk"
    )
    return costs
