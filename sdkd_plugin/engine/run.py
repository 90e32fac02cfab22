"""From a config to a finished run: data, folder, networks, training, record."""

import time
from contextlib import ExitStack, closing

import torch
from accelerate import Accelerator
from yacs.config import CfgNode as CN

from sdkd_plugin.config import active_config, load_config, usual_tag
from sdkd_plugin.data.dataset import Dataset, load_dataset
from sdkd_plugin.engine.device import make_accelerator
from sdkd_plugin.engine.evaluate import METRICS
from sdkd_plugin.engine.memory import peak_memory
from sdkd_plugin.engine.ranks import Ranks, check_shareable
from sdkd_plugin.engine.recorder import Recorder
from sdkd_plugin.engine.setup import (
    Setup,
    prepare,
    say_start,
    score_teacher,
    start,
    thread_count,
)
from sdkd_plugin.engine.threads import threads
from sdkd_plugin.engine.trainer import Trainer
from sdkd_plugin.runs.folder import RunFolder
from sdkd_plugin.runs.imported import changed_code
from sdkd_plugin.runs.record import HEADLINE, Result
from sdkd_plugin.runs.teacher import (
    MissingTeacherError,
    loads_teacher,
    teacher_overrides,
    teacher_path,
    vanilla_file,
)


def train(cfg: CN, resume: bool = False, train_teacher: bool = False) -> RunFolder:
    """Runs what `cfg` says unless its folder holds the result already; returns the folder.

    Args:
        cfg: the resolved, unscaled config.
        resume: go on with an unfinished run.
        train_teacher: train a missing teacher first, on the same data and schedule, with seed 0.
    Raises:
        UserError: anything a user can cause.
    """
    torch.use_deterministic_algorithms(True, warn_only=True)
    accelerator = make_accelerator(cfg, several=True)
    check_shareable(cfg, accelerator.num_processes)
    if train_teacher:
        cfg = with_trained_teacher(cfg, resume)
        accelerator = make_accelerator(cfg, several=True)  # the teacher's took its place
    ranks = Ranks(accelerator)
    dataset = _load(cfg, ranks)
    folder = RunFolder.of(cfg, dataset)

    with ExitStack() as stack:
        if ranks.agree(lambda: _claim(folder, resume, stack)):
            count = ranks.agree(lambda: thread_count(cfg, folder))
            with threads(count):
                _train(cfg, dataset, folder, accelerator)
            ranks.wait()  # the one that writes has written
    return folder


def _load(cfg: CN, ranks: Ranks) -> Dataset:
    """The data set; of several processes one is first, since it may have to download it."""
    loaded: list[Dataset] = []
    ranks.agree(lambda: loaded.append(load_dataset(cfg)))
    return loaded[0] if loaded else load_dataset(cfg)


def _claim(folder: RunFolder, resume: bool, stack: ExitStack) -> bool:
    """Takes the folder until the stack is closed; returns whether there is something to train."""
    if resume and not folder.started:
        _say_neighbour(folder)
    stack.enter_context(folder.lock())
    folder.check(resume)
    result = folder.result
    if result is not None:
        print(f"{folder.path} holds this run, finished: last top-1 {result.last[HEADLINE]:.2f}")
        changed = changed_code(result.environment, finished=True)
        if changed:
            print(f"warning: it was made with other imported code: {changed}")
        return False
    stack.callback(folder.clear)  # a signal may come at the worst moment
    return True


def _train(cfg: CN, dataset: Dataset, folder: RunFolder, accelerator: Accelerator) -> None:
    """Trains what is left of a run, in its locked folder, and writes its record."""
    setup = prepare(cfg, dataset, folder, accelerator=accelerator)
    trainer, recorder = start(setup, folder)
    say_start(trainer, recorder)
    with closing(recorder):
        trainer.run(recorder)
        result = make_result(setup, trainer, recorder)
        if recorder.writes:
            result.write(folder.path)
            recorder.finish(result)


def _say_neighbour(folder: RunFolder) -> None:
    """Tells who asks to go on with a run that a changed key has made it another one."""
    found = folder.neighbour()
    if found is not None:
        path, difference = found
        print(
            f"no unfinished run of this config; {path} differs in {difference}, which is another "
            "run: starting at epoch 1"
        )


def with_trained_teacher(cfg: CN, resume: bool) -> CN:
    """The config with DISTILLER.TEACHER_CKPT set to a teacher trained here, unless the teacher's
    file exists already.

    Raises:
        UserError: DISTILLER.TEACHER_CKPT names a file that does not exist: more likely a typo than
            a wish to train.
    """
    if not loads_teacher(cfg):
        return cfg
    try:
        teacher_path(cfg)
        return cfg
    except MissingTeacherError as error:
        named = cfg.DISTILLER.TEACHER_CKPT
        if named:
            raise MissingTeacherError(
                f"teacher checkpoint {named} (DISTILLER.TEACHER_CKPT) does not exist; correct its "
                "path, or leave DISTILLER.TEACHER_CKPT out and --train-teacher trains one"
            ) from error

    file = vanilla_file(cfg.DISTILLER.TEACHER)
    print(
        f"training the teacher {cfg.DISTILLER.TEACHER} first, "
        + (f"as {file.name} says" if file else "which has no recipe of its own, by its student's")
    )
    folder = train(teacher_config(cfg), resume)

    cfg = cfg.clone()
    cfg.defrost()
    cfg.DISTILLER.TEACHER_CKPT = str(folder.path / "student_latest")
    cfg.freeze()
    return cfg


def teacher_config(cfg: CN) -> CN:
    """The config that trains the teacher of `cfg`: its own vanilla file's recipe, on the data and
    for the epochs of `cfg`; where none ships, the whole protocol of `cfg`.
    """
    name = cfg.DISTILLER.TEACHER
    file = vanilla_file(name)
    if file is not None:
        # one teacher for all students, whatever their seed
        return load_config(file, [*teacher_overrides(cfg), "SOLVER.SEED", "0"])

    teacher_cfg = cfg.clone()
    teacher_cfg.defrost()
    teacher_cfg.DISTILLER.TYPE = "NONE"
    teacher_cfg.DISTILLER.STUDENT = name
    teacher_cfg.EXPERIMENT.NAME = ""
    teacher_cfg.EXPERIMENT.TAG = usual_tag(teacher_cfg.DISTILLER)
    teacher_cfg.SOLVER.SEED = 0
    teacher_cfg.DATASET.VIEWS = 1
    teacher_cfg.SOLVER.OPTIMIZER = "sgd"  # it learns from the labels alone
    teacher_cfg.freeze()
    return teacher_cfg


def make_result(setup: Setup, trainer: Trainer, recorder: Recorder) -> Result:
    """The record of a run that has trained all its epochs."""
    cfg = setup.given
    dataset = setup.dataset
    method = trainer.method
    teacher_score = setup.teacher_score
    if method.teacher is not None and teacher_score is None:  # trained along with the student
        teacher_score = score_teacher(method.teacher.eval(), cfg, dataset, trainer.device)

    history = recorder.history
    best = recorder.best
    assert best is not None  # the last phase always scores
    # an epoch of a run that an earlier version began may lack the later metrics
    metrics = {n: m for n, m in METRICS.items() if f"test_{n}" in best.keys() & history[-1].keys()}
    train_seconds = sum(row["train_seconds"] for row in history)
    return Result(
        method=cfg.DISTILLER.TYPE,
        teacher=cfg.DISTILLER.TEACHER if teacher_score else None,
        student=cfg.DISTILLER.STUDENT,
        seed=cfg.SOLVER.SEED,
        epochs=cfg.SOLVER.EPOCHS,
        schedule_epochs=cfg.SOLVER.SCHEDULE_EPOCHS or cfg.SOLVER.EPOCHS,
        dataset=dataset.name,
        evaluates=dataset.evaluates,
        train_images=len(dataset.train),
        metrics=metrics,
        last={name: history[-1][f"test_{name}"] for name in metrics},
        best={name: best[f"test_{name}"] for name in metrics},
        best_epoch=best["epoch"],
        teacher_score=teacher_score,
        wall_seconds=train_seconds + sum(row.get("test_seconds", 0) for row in history),
        images_per_second=len(dataset.train) * len(history) / train_seconds,
        peak_memory_mib=peak_memory(trainer.device) / 2**20,
        group_size=max(row.get("group_size", 1) for row in history),
        processes=max(row.get("processes", 1) for row in history),
        deployed_parameters=sum(p.numel() for p in method.deployed().parameters()),
        extra_parameters=method.get_extra_parameters(),
        finished=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        config=active_config(cfg),
        identity=recorder.folder.identity,
        environment=setup.environment,
    )
