"""`card`: what whoever gets a student's weights should know of them, in Markdown."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from sdkd_plugin import __version__, weights
from sdkd_plugin.data.spec import DataSpec
from sdkd_plugin.errors import UserError
from sdkd_plugin.printable import printable
from sdkd_plugin.runs.read import VANILLA, Run, read_runs
from sdkd_plugin.runs.record import HEADLINE, Metric, Result
from sdkd_plugin.table.command import write_output
from sdkd_plugin.table.formats.md import escape
from sdkd_plugin.table.statistics import summarize

STUDENT = "student_latest"
LICENCE = (
    "The code that trained it, sdkd_plugin, is under the MIT licence. The weights have no licence "
    "until whoever publishes them gives one; look first at what the training data and the "
    "teacher's weights allow, from which they come{data}. This is no legal advice."
)
LICENCE_OF_DATA = {
    "cifar100": " (CIFAR-100 was published without a licence of its own; its images are from the "
    "web)",
    "digits": " (the digits are the UCI set of Alpaydin and Kaynak, CC BY 4.0 there)",
}
LIMITS = (
    "It names one of the classes above whatever it is shown, and is measured on one split of one "
    "data set: how it does on other images, on rare classes or under attack was not looked at."
)
# What of a protocol a reader asks for first; the run's config.yaml has it all.
PROTOCOL = (
    "SOLVER.EPOCHS",
    "SOLVER.BATCH_SIZE",
    "SOLVER.LR",
    "SOLVER.LR_DECAY_STAGES",
    "SOLVER.LR_DECAY_RATE",
    "SOLVER.WEIGHT_DECAY",
    "SOLVER.MOMENTUM",
    "SOLVER.PRECISION",
    "DATASET.AUGMENT",
    "DATASET.IMAGE_SIZE",
    "DATASET.SUBSET",
    "DATASET.VAL_FRACTION",
)

Rows = list[tuple[str, str]]


def show_card(folder: Path, output: str | None) -> None:
    """Prints a run's card, or writes it to `output`."""
    text = make_card(folder)
    if output is None:
        print(text, end="")
    else:
        write_output(Path(output), text)


def make_card(folder: Path) -> str:
    """The card of a finished run's student.

    Raises:
        UserError: the folder holds no finished run, or its student's file is gone or damaged.
    """
    run = _finished(folder)
    seeds = _of_all_seeds(run)
    state = weights.load(folder / STUDENT)
    spec = DataSpec.in_file(state, folder / STUDENT)
    record = run.record
    named = _title(record)
    loader = PackageLoader("sdkd_plugin.ship", ".")
    pages = Environment(loader=loader, undefined=StrictUndefined, keep_trailing_newline=True)
    return pages.get_template("card.md.j2").render(
        front=_front_matter(named, record, seeds),
        title=_text(named),
        summary=_summary(record),
        what=_what(record, spec, (folder / STUDENT).stat().st_size),
        images=f"{_text(record.dataset)}, the {_split(record)} images",
        seed=record.seed,
        scores=list(_scores(record, seeds)),
        notes=list(_notes(record, seeds)),
        protocol=_protocol(record),
        cost=list(_cost(record)),
        licence=LICENCE.format(data=LICENCE_OF_DATA.get(record.dataset, "")),
        limits=LIMITS,
    )


def _finished(folder: Path) -> Run:
    runs, rejected = read_runs([folder])
    found = [run for run in runs if run.path.resolve() == folder.resolve()]
    if rejected and not found:
        raise UserError(f"{folder}: {rejected[0].reason}")
    if not found:
        raise UserError(f"{folder} holds runs but is none; give one, such as {runs[0].path}")
    if found[0].result is None:
        raise UserError(f"{folder} is unfinished, {found[0].progress}; go on with --resume")
    return found[0]


def _of_all_seeds(run: Run) -> list[Result]:
    """The records of the finished runs beside this one that differ from it in the seed alone."""

    def without_seed(each: Run) -> dict[str, Any]:
        return {key: value for key, value in each.identity.items() if key != "SOLVER.SEED"}

    runs, _ = read_runs([run.path.resolve().parent])
    same = [each for each in runs if each.result and without_seed(each) == without_seed(run)]
    return [each.record for each in {each.seed: each for each in same}.values()]


def _title(record: Result) -> str:
    if record.method == VANILLA:
        return f"{record.student} on {record.dataset}, trained alone"
    return f"{record.student} on {record.dataset}, taught by {record.teacher} with {record.method}"


def _summary(record: Result) -> str:
    taught = "It was trained on the labels alone, without a teacher."
    if record.method != VANILLA:
        taught = (
            f"It learnt from the labels and from a {_text(record.teacher)} by the method "
            f"{_text(record.method)}; the teacher is not needed to use it."
        )
    return f"An image classifier, {_text(record.student)}, of {_text(record.dataset)}. {taught}"


def _what(record: Result, spec: DataSpec | None, size: int) -> Rows:
    rows = [
        ("architecture", _text(record.student)),
        ("parameters", f"{record.deployed_parameters:,}"),
        ("file", f"{STUDENT}, {size / 2**20:.2f} MiB"),
    ]
    if spec is not None:
        side = spec.image_size
        rows += [
            ("input", f"RGB, {side}x{side} pixels, values from 0 to 1, minus mean, over std"),
            ("mean, std", f"{spec.mean}, {spec.std}"),
            ("output", f"{len(spec.classes)} logits, in this order"),
            ("classes", _text(", ".join(spec.classes))),
        ]
    return rows


def _scores(record: Result, seeds: list[Result]) -> Iterator[list[str]]:
    for name, metric in record.metrics.items():
        values = [each.last[name] for each in seeds if name in each.last]
        summary = summarize(values)
        spread = "" if summary.sd is None else f" ± {metric.show(summary.sd)}"
        taught = (record.teacher_score or {}).get(name)
        yield [
            f"{_text(metric.title)}{_unit(metric)}",
            f"{metric.show(summary.mean)}{spread}",
            str(summary.n),
            metric.show(record.last[name]),
            "" if taught is None else metric.show(taught),
        ]


def _unit(metric: Metric) -> str:
    return f" ({_text(metric.unit)})" if metric.unit else ""


def _notes(record: Result, seeds: list[Result]) -> Iterator[str]:
    if len(seeds) == 1:
        yield "One seed: it tells nothing of the spread between trainings."
    shown = record.metrics[HEADLINE]
    best = shown.show(record.best[HEADLINE])
    yield (
        f"The best epoch on these images, {record.best_epoch}, has {best}; it was chosen on them, "
        "so it is no result."
    )
    if record.evaluates == "val":
        yield "The images were held out of training; the test images were not looked at."
    if "ece" in record.metrics:
        ece = record.metrics["ece"].show(record.last["ece"])
        yield (
            f"Calibration: its confidence differs from its accuracy by {ece} points on average (15 "
            "bins of equal width); nothing was calibrated after training."
        )


def _protocol(record: Result) -> Rows:
    held = record.identity
    rows: Rows = []
    if record.teacher is not None:
        digest = f", SHA-256 {held['teacher']}..." if held.get("teacher") else ""
        rows.append(("teacher", f"{_text(record.teacher)}{digest}"))
    images = "" if record.train_images is None else f", {record.train_images} training images"
    rows.append(("data", f"{_text(record.dataset)}, content {_text(held['data'])}{images}"))
    rows += [(key, _text(held[key])) for key in PROTOCOL if key in held]
    if record.schedule_epochs != record.epochs:
        rows.append(("schedule", f"written for {record.schedule_epochs} epochs, scaled"))
    own = f"{record.method}."
    rows += [(key, _text(value)) for key, value in sorted(held.items()) if key.startswith(own)]
    made = record.environment
    versions = ", ".join(f"{name} {v}" for name, v in (made.get("versions") or {}).items())
    changed = ", with uncommitted changes" if made.get("uncommitted_changes") else ""
    rows.append(("made with", _text(f"{versions}; commit {made.get('commit')}{changed}")))
    return rows


def _cost(record: Result) -> Iterator[tuple[str, str]]:
    made = record.environment
    yield "device", _text(f"{made.get('device')}, {made.get('threads')} threads")
    if record.wall_seconds is not None:
        shared = ""
        if record.group_size > 1:
            shared = f", its share of {record.group_size} runs trained together"
        yield "training and evaluation", f"{record.wall_seconds / 3600:.2f} hours{shared}"
    if record.images_per_second is not None:
        yield "training images per second", f"{record.images_per_second:.0f}"
    if record.peak_memory_mib is not None:
        yield "peak memory", f"{record.peak_memory_mib:.0f} MiB"
    if record.extra_parameters is not None:
        yield "parameters that training alone needs", f"{record.extra_parameters:,}"


def _front_matter(title: str, record: Result, seeds: Iterable[Result]) -> str:
    """The YAML that model hubs read, by huggingface_hub, which accelerate brings."""
    from huggingface_hub import EvalResult, ModelCardData

    summary = summarize([each.last[HEADLINE] for each in seeds])
    result = EvalResult(
        task_type="image-classification",
        dataset_type=printable(record.dataset),
        dataset_name=printable(record.dataset),
        dataset_split=_split(record),
        metric_type="accuracy",
        metric_name=f"top-1 of the last epoch, mean over {summary.n} seed{'s' * (summary.n > 1)}",
        metric_value=round(summary.mean / 100, 6),
    )
    data = ModelCardData(
        library_name="sdkd_plugin",
        tags=["image-classification", "knowledge-distillation", f"sdkd_plugin-{__version__}"],
        model_name=printable(title),
        eval_results=[result],
    )
    return f"---\n{data.to_yaml()}\n---"


def _split(record: Result) -> str:
    return "test" if record.evaluates == "test" else "held-out"


def _text(value: object) -> str:
    """A value from a run's files, which may be anybody's, inside a line of Markdown."""
    return escape(printable(str(value)))
