"""The phased trainer on a stand-in for mdistiller's base trainer.

test_training.py runs it in the real one.
"""

from types import SimpleNamespace

import pytest
import torch

from sdkd_plugin.config import load_config
from sdkd_plugin.distillers.base import Distiller, Phase
from sdkd_plugin.errors import UserError
from sdkd_plugin.upstream.phases import phased_trainer


class Method(Distiller):
    """Two weights, one for each phase."""

    def __init__(self, lr_factor=1.0):
        super().__init__(torch.nn.Identity(), torch.nn.Identity())
        self.first, self.last = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1))
        self.begun, self.lr_factor = [], lr_factor

    def phases(self, cfg):
        return [Phase("first", 2, lr=0.5, scores=False), Phase("last", cfg.SOLVER.EPOCHS)]

    def begin_phase(self, phase):
        self.begun.append(phase.name)

    def get_parameter_groups(self, phase):
        return [{"params": [getattr(self, phase.name)], "lr_factor": self.lr_factor}]


class Base:
    """What the phased trainer uses of mdistiller's BaseTrainer."""

    def __init__(self, method, log_path):
        self.distiller, self.log_path, self.cfg = (
            torch.nn.DataParallel(method),
            str(log_path),
            load_config(None),
        )
        self.train_loader, self.steps, self.resumed = [1, 2, 3], [], None

    def train_iter(self, batch, epoch, meters):
        method = self.distiller.module
        (rate,) = {group["lr"] for group in self.optimizer.param_groups}
        self.steps.append(
            (
                method.phase.name,
                epoch,
                batch,
                rate,
                method.first.requires_grad,
                method.last.requires_grad,
            )
        )
        meters["losses"].avg = 0.25

    def train(self, resume):
        self.resumed = resume
        self.train_iter("own", 1, {"losses": SimpleNamespace()})


def trainer(tmp_path, **options):
    return phased_trainer(Base, SimpleNamespace)(Method(**options), tmp_path)


def test_first_phases_come_first_each_with_its_parameters_and_rate(tmp_path, capsys):
    made = trainer(tmp_path)
    made.train()
    expected = [
        ("first", epoch, batch, 0.5, True, False) for epoch in (1, 2) for batch in (1, 2, 3)
    ]
    assert made.steps == [*expected, ("last", 1, "own", 0.05, False, True)]
    assert made.distiller.module.begun == ["first", "last"] and made.resumed is False
    assert (
        capsys.readouterr().out
        == "phase first, epoch 1 of 2: loss 0.2500\nphase first, epoch 2 of 2: loss 0.2500\n"
    )


def test_resuming_goes_on_in_the_last_phase_if_it_has_saved_anything(tmp_path):
    early = trainer(tmp_path)
    early.train(resume=True)
    assert len(early.steps) == 7 and early.resumed is False
    (tmp_path / "latest").touch()
    late = trainer(tmp_path)
    late.train(resume=True)
    assert [step[0] for step in late.steps] == ["last"] and late.resumed is True
    assert late.distiller.module.begun == []


def test_learning_rates_that_upstream_would_overwrite_are_refused(tmp_path):
    with pytest.raises(UserError, match="phase 'first' has learning rates of its own"):
        trainer(tmp_path, lr_factor=2.0).train()
