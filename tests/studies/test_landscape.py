"""`landscape` against losses by hand, and on small real runs."""

import csv
import math

import pytest
import torch
from support.tiny import assert_bits_equal, contents, result, save_teacher, state_copy, tiny_config
from torch import Tensor, nn

from sdkd_plugin.__main__ import main
from sdkd_plugin.engine.run import train
from sdkd_plugin.models import build_model
from sdkd_plugin.studies.landscape import filter_direction, losses_along, rise_grid


class Line(nn.Module):
    """logits (w_0 x, w_1 x) of an image that is one number: each filter has one weight."""

    def __init__(self, first: float, second: float):
        super().__init__()
        self.head = nn.Linear(1, 2, bias=False, dtype=torch.float64)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[first], [second]]))

    def forward(self, x: Tensor) -> tuple[Tensor, dict]:
        return self.head(x), {}


BATCHES = [
    (torch.tensor([[1.0], [2.0]], dtype=torch.float64), torch.tensor([0, 1])),
    (torch.tensor([[-1.0]], dtype=torch.float64), torch.tensor([0])),
]


def loss_of(gap: float, label: int) -> float:
    """Cross entropy of logits (gap, 0)."""
    return math.log1p(math.exp(-gap if label == 0 else gap))


def test_losses_by_hand():
    """Along d = (0, 2) of w = (3, 1) the logits' gap on x is (3 - 1 - 2 alpha) x."""
    network = Line(3.0, 1.0)
    direction = {"head.weight": torch.tensor([[0.0], [2.0]], dtype=torch.float64)}
    rows = losses_along(network, direction, [-1.0, 0.0, 0.25], BATCHES)
    for row, slope in zip(rows, (4.0, 2.0, 1.5), strict=True):
        losses = [loss_of(slope * x, label) for x, label in ((1, 0), (2, 1), (-1, 0))]
        assert row["loss"] == pytest.approx(sum(losses) / 3, rel=1e-12)
        assert row["top1"] == pytest.approx(100 / 3)  # the first alone
    assert [row["alpha"] for row in rows] == [-1.0, 0.0, 0.25]


def test_a_quadratic_loss_rises_by_alpha_squared():
    """Near two equal logits and both labels alike, CE is log 2 + gap^2 / 8 + ..."""
    network = Line(1.0, 1.0)
    direction = {"head.weight": torch.tensor([[1.0], [0.0]], dtype=torch.float64)}
    batches = [(torch.ones(2, 1, dtype=torch.float64), torch.tensor([0, 1]))]
    small, twice = losses_along(network, direction, [0.01, 0.02], batches)
    assert small["loss"] - math.log(2) == pytest.approx(0.01**2 / 8, rel=1e-3)
    assert twice["loss"] - math.log(2) == pytest.approx(0.02**2 / 8, rel=1e-3)


def test_each_filter_is_as_long_as_the_networks_and_norms_and_biases_stay():
    network = build_model("resnet8", 10)
    parameters = dict(network.named_parameters())
    direction = filter_direction(parameters, 0, 0)
    assert direction.keys() == parameters.keys()
    for name, weight in parameters.items():
        if weight.dim() < 2:
            assert not direction[name].any()
        else:
            ours, theirs = (t.detach().flatten(1).norm(dim=1) for t in (direction[name], weight))
            assert torch.allclose(ours, theirs, rtol=1e-5)


def test_two_networks_have_the_same_direction_but_for_its_length():
    one, two = build_model("resnet8", 10), build_model("resnet8", 10)
    first, second = (filter_direction(dict(n.named_parameters()), 3, 1) for n in (one, two))
    for name in first:
        if first[name].dim() > 1:
            a, b = (d[name].flatten(1) for d in (first, second))
            assert torch.allclose(torch.cosine_similarity(a, b), torch.ones(len(a)), atol=1e-5)
    again = filter_direction(dict(one.named_parameters()), 3, 1)
    assert_bits_equal(first, again)
    for other in ((4, 1), (3, 2)):
        changed = filter_direction(dict(one.named_parameters()), *other)
        assert not torch.equal(changed["conv1.weight"], first["conv1.weight"])


def test_a_walk_changes_nothing():
    network = build_model("resnet8", 10).eval()
    before = state_copy(network)
    direction = filter_direction(dict(network.named_parameters()), 0, 0)
    batches = [(torch.randn(4, 3, 8, 8), torch.arange(4))]
    rows = losses_along(network, direction, [-1.0, 0.0, 1.0], batches)
    assert_bits_equal(dict(network.state_dict()), before)
    assert len({row["loss"] for row in rows}) == 3


def test_the_rise_is_the_mean_over_signs_and_directions():
    def row(direction: int, alpha: float, loss: float) -> dict:
        return {"network": "KD", "direction": direction, "alpha": alpha, "loss": loss, "top1": 0.0}

    rows = [row(0, a, loss) for a, loss in zip((-2, -1, 0, 1, 2), (5, 2, 1, 3, 9), strict=True)]
    rows += [row(1, a, loss) for a, loss in zip((-2, -1, 0, 1, 2), (6, 2, 1, 3, 8), strict=True)]
    grid = rise_grid(rows, "4 images")
    assert [cell.text for cell in grid.rows[0]] == ["KD", "1.0000", "1.5000 at 1", "6.0000 at 2"]


def test_the_middle_is_what_the_runs_recorded(runs, tmp_path, capsys):
    folders = [runs["NONE"], runs["KD"]]
    before = [contents(folder) for folder in folders]
    words = ["--points", "3", "--directions", "2", "--images", "0", "--span", "0.3"]
    seen = tmp_path / "seen"
    assert main(["landscape", *map(str, folders), *words, "--output", str(seen)]) == 0
    assert [contents(folder) for folder in folders] == before
    assert (seen / "landscape.png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader((seen / "landscape.csv").open()))
    assert [row["network"] for row in rows] == ["student alone"] * 6 + ["KD"] * 6
    assert [float(row["alpha"]) for row in rows[:3]] == [-0.3, 0.0, 0.3]
    for start, folder in ((0, folders[0]), (6, folders[1])):
        for middle in (rows[start + 1], rows[start + 4]):
            last = result(folder)["last"]
            assert float(middle["loss"]) == pytest.approx(last["loss"], rel=1e-6)
            assert float(middle["top1"]) == pytest.approx(last["top1"], abs=1e-9)
    assert "rise at the end" in capsys.readouterr().out

    first = (seen / "landscape.csv").read_bytes()
    assert main(["landscape", *map(str, folders), *words, "--output", str(seen)]) == 0
    assert (seen / "landscape.csv").read_bytes() == first


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--points", "4"], "--points is 4; allowed: odd"),
        (["--points", "1"], "--points is 1; allowed: odd"),
        (["--span", "0"], "--span is 0.0; allowed: above 0"),
        (["--span", "nan"], "--span is nan; allowed: above 0"),
        (["--directions", "0"], "--directions is 0; allowed: 1 or more"),
        (["--images", "-1"], "--images is -1"),
    ],
)
def test_options_out_of_range_are_one_line(words, message, runs, capsys):
    assert main(["landscape", str(runs["KD"]), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line


def test_students_of_two_models_are_refused(runs, tmp_path, capsys):
    teacher = save_teacher(tmp_path / "teacher")
    words = {"DISTILLER.STUDENT": "resnet14", "DISTILLER.TYPE": "KD", "SOLVER.EPOCHS": 1}
    other = train(tiny_config(tmp_path, {**words, "DISTILLER.TEACHER_CKPT": teacher})).path
    assert main(["landscape", str(runs["KD"]), str(other)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "resnet14, resnet8: a direction is of one model's weights" in line
