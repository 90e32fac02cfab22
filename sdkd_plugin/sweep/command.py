"""What `python tools/sweep.py` does: show the plan, run what is not finished, say what failed."""

import json
import shlex
import sys
from collections import defaultdict
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sdkd_plugin.config import whole_batch_reason
from sdkd_plugin.engine.plan import make_plan
from sdkd_plugin.errors import UserError, unknown
from sdkd_plugin.plugins import describe_plugins
from sdkd_plugin.runs.imported import changed_code
from sdkd_plugin.sweep.execute import (
    Outcomes,
    Tick,
    command,
    run_local,
    run_on_ray,
    run_threads,
)
from sdkd_plugin.sweep.jobs import Job, Sweep, folder_of, read_sweep, unfinished
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
        as_json: print the plan as json.
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
    as_json: bool = False


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
    if options.as_json and not options.plan_only:
        raise UserError("--json goes with --plan alone: sweep FILE --plan --json")
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
    if options.as_json:
        with redirect_stdout(sys.stderr):  # what is said on the way is no part of it
            plan = make_sweep_plan(sweep, todo, options.jobs)
        print(json.dumps(asdict(plan), indent=1))
        return
    plan = make_sweep_plan(sweep, todo, options.jobs)
    show_sweep_plan(plan)
    _say_changed_code({*sweep.teachers, *sweep.students} - {*todo})
    if options.plan_only or not todo:
        return

    if options.processes > 1:
        _say_processes(todo, options.processes)
    prefix = todo[0].config().LOG.PREFIX
    logs = Path(prefix, "sweeps", sweep.name)
    remaining = Remaining(plan.costs, todo, options.jobs)
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


def _say_changed_code(finished: set[Job]) -> None:
    """Says which runs are finished with other code from outside than there is now."""
    if not describe_plugins():  # to read every record again takes a while
        return
    kinds: dict[str, set[str]] = defaultdict(set)
    for job in finished:
        result = folder_of(job).result
        assert result is not None  # it is finished
        kinds[changed_code(result.environment, finished=True)].add(job.kind)
    for changed, own in kinds.items():
        if changed:
            print(
                f"warning: finished with other imported code ({changed}): "
                f"{', '.join(sorted(own))}; these runs are left as they are: remove their folders "
                "to train them again"
            )


def _say_processes(todo: list[Job], processes: int) -> None:
    """Says how the runs are trained, where that is by several processes each."""
    reasons = {job.kind: whole_batch_reason(job.config()) for job in todo}
    whole = [f"{kind} ({reason})" for kind, reason in sorted(reasons.items()) if reason]
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


@dataclass(frozen=True)
class KindPlan:
    """Unfinished runs that differ in their seed alone.

    Args:
        n: how many.
        hours, epochs, mib: of each, estimated; None where that cannot be.
        problem: why not.
    """

    kind: str
    n: int
    hours: float | None = None
    epochs: int | None = None
    mib: float | None = None
    problem: str | None = None


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep would do.

    Args:
        total, finished: runs.
        note: what the file sets without effect.
        undefined: what is left out, since a method does not have that pair.
        runs: those that are not finished, by kind.
        jobs, threads: runs at a time, and threads of each.
        hours_in_turn, hours: one run at a time, and `jobs` at a time if each keeps its speed.
        mib: on disk.
    """

    sweep: str
    total: int
    finished: int
    note: str | None
    undefined: list[str]
    runs: list[KindPlan]
    jobs: int
    threads: int
    hours_in_turn: float
    hours: float
    mib: float

    @property
    def costs(self) -> dict[str, KindCost]:
        """Of each kind of run that could be timed."""
        timed = [each for each in self.runs if each.hours is not None and each.epochs is not None]
        return {each.kind: KindCost(each.hours or 0.0, each.epochs or 0) for each in timed}


def make_sweep_plan(sweep: Sweep, todo: list[Job], jobs: int) -> SweepPlan:
    """Times each kind of run (all but its seed) once for a few steps."""
    total = len(sweep.teachers) + len(sweep.students)
    print(f"sweep {sweep.name}: {total} runs, {total - len(todo)} of them finished", flush=True)
    kinds: dict[str, list[Job]] = {}
    for job in todo:
        kinds.setdefault(job.kind, []).append(job)

    before = torch.get_num_threads()
    torch.set_num_threads(run_threads())  # as the runs will have
    planned = [_plan_kind(kind, members) for kind, members in kinds.items()]
    torch.set_num_threads(before)

    in_turn = sum(each.n * (each.hours or 0.0) for each in planned)
    return SweepPlan(
        sweep=sweep.name,
        total=total,
        finished=total - len(todo),
        note=sweep.note,
        undefined=sweep.undefined,
        runs=planned,
        jobs=jobs,
        threads=run_threads(),
        hours_in_turn=in_turn,
        hours=in_turn / jobs,
        mib=sum(each.n * (each.mib or 0.0) for each in planned),
    )


def _plan_kind(kind: str, members: list[Job]) -> KindPlan:
    try:
        plan = make_plan(members[0].config())
    except UserError as error:  # the run itself will fail with it; the others need not
        return KindPlan(kind, len(members), problem=str(error))
    return KindPlan(kind, len(members), plan.hours, plan.epochs, plan.disk / 2**20)


def show_sweep_plan(plan: SweepPlan) -> None:
    """Prints runs, hours and disk."""
    if plan.note:
        print(plan.note)
    if plan.undefined:
        print(f"not defined, left out: {', '.join(plan.undefined)}")
    if not plan.runs:
        return

    table = Table("runs", "n", "hours each", "MiB each")
    for each in plan.runs:
        hours = "?" if each.hours is None else f"{each.hours:.2f}"
        mib = "?" if each.mib is None else f"{each.mib:.0f}"
        table.add_row(escape(each.kind), str(each.n), hours, mib)
        if each.problem:
            print(f"no estimate for {each.kind}: {each.problem}")
    Console().print(table)
    print(
        f"estimated from a few timed steps with {plan.threads} threads: {plan.hours_in_turn:.1f} "
        f"hours one at a time, about {plan.hours:.1f} with {plan.jobs} at a time if each keeps its "
        f"speed, less in lockstep; {plan.mib:.0f} MiB on disk"
    )
