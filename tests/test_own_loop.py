"""`distill`: a method in a loop of one's own, on networks and batches of one's own."""

import copy
from functools import partial

import pytest
import torch
from cases import CASES
from support.loop import zoo
from support.tiny import assert_bits_equal, save_teacher, state_copy, tiny_config
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, AdamW
from torch.utils.data import DataLoader, TensorDataset

from sdkd_plugin import distill
from sdkd_plugin.config import scaled_config
from sdkd_plugin.data.batches import TrainBatches
from sdkd_plugin.data.dataset import load_dataset
from sdkd_plugin.distillers.kd import kd_loss
from sdkd_plugin.engine.build import build_distiller, build_teacher
from sdkd_plugin.engine.device import make_accelerator
from sdkd_plugin.engine.trainer import Trainer
from sdkd_plugin.errors import UserError
from sdkd_plugin.registry import METHODS

REFUSED = {
    "CRD": "needs each image's place in the training set",
    "MLLD": "needs a second view of each image",
    "SOTEACHER": "needs each image's place in the training set",
    "DISTPRO": "holds images out of training",
}


def pairs(batches: int = 2, n: int = 8, size: int = 16) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(n, 3, size, size, generator=generator),
            torch.randint(10, (n,), generator=generator),
        )
        for _ in range(batches)
    ]


class Plain(nn.Module):
    """A network of nobody's family: logits alone, activations in place, its own size of images."""

    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU(True)),
            nn.Sequential(nn.Conv2d(width, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(True)),
            nn.Sequential(nn.Conv2d(width, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(True)),
        )
        self.head = nn.Linear(width, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(image).mean((2, 3)))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_method_trains_or_says_by_name_why_it_cannot(case):
    student, teacher = zoo("resnet8"), zoo("resnet14", 1)
    before = state_copy(student)
    source = METHODS[case.name].build.teacher_from
    taught = state_copy(teacher)
    own = {
        key.removeprefix(f"{case.name}."): value
        for key, value in case.overrides.items()
        if key.startswith(f"{case.name}.")
    }

    def run() -> list:
        given = None if source == "none" else teacher
        small = partial(SGD, lr=0.002)
        made = distill(
            student, given, pairs(), case.name, epochs=1, settings=own, optimizer=small, seed=3
        )
        return list(made)

    if case.name in REFUSED:
        with pytest.raises(UserError, match=f"{case.name}.*{REFUSED[case.name]}"):
            run()
        return
    turns = run()
    assert {turn.step for turn in turns} == {1, 2}
    assert all(torch.isfinite(turn.total) and not turn.total.requires_grad for turn in turns)
    assert all(turn.logits.shape == (8, 10) for turn in turns)
    moved = [key for key, value in student.state_dict().items() if not value.equal(before[key])]
    assert any(key.endswith("weight") for key in moved)
    if source == "checkpoint":
        assert_bits_equal(state_copy(teacher), taught)


def test_the_steps_are_the_trainers_to_the_bit(tmp_path):
    """The same student, teacher and batches give the same weights as the package's own loop."""
    changes = {"DISTILLER.TYPE": "SDKD", "SOLVER.EPOCHS": 2, "SOLVER.CHANNELS_LAST": False}
    teacher_file = save_teacher(tmp_path / "teacher")
    cfg = tiny_config(tmp_path, {**changes, "DISTILLER.TEACHER_CKPT": teacher_file})
    dataset = load_dataset(cfg)
    scaled = scaled_config(cfg)
    method = build_distiller(scaled, dataset, build_teacher(cfg, 10, teacher_file))
    student = copy.deepcopy(method.student)
    trainer = Trainer(scaled, method, dataset, make_accelerator(cfg))
    trainer.reach(trainer.schedule[0][0])
    for epoch in (1, 2):
        trainer.train_epoch(epoch)

    batches = TrainBatches(dataset, cfg, "cpu")

    class Epochs:
        def __init__(self):
            self.epoch = 0

        def __len__(self):
            return len(batches)

        def __iter__(self):
            self.epoch += 1
            return ((batch.image, batch.target) for batch in batches.epoch(self.epoch))

    loader = Epochs()
    solver = cfg.SOLVER
    optimizer = partial(
        SGD,
        lr=solver.LR,
        momentum=solver.MOMENTUM,
        weight_decay=solver.WEIGHT_DECAY,
        fused=True,
    )
    teacher = build_teacher(cfg, 10, teacher_file)
    made = distill(student, teacher, loader, epochs=2, schedule_epochs=2, optimizer=optimizer)
    loader.epoch = 0  # the first look does not count
    assert len(list(made)) == 2 * len(batches)
    # the decay in both: none within two epochs of [150, 180, 210], and after 2 of the config's [2]
    assert_bits_equal(state_copy(student), state_copy(method.student))


def test_ones_own_steps_are_a_loop_written_by_hand():
    student, teacher = zoo("resnet8"), zoo("resnet14", 1)
    by_hand = copy.deepcopy(student)
    settings = {"TEMPERATURE": 2.0, "LOSS.CE_WEIGHT": 0.5}
    made = distill(student, teacher, pairs(), "KD", epochs=2, settings=settings, optimizer=None)
    optimizer = AdamW(made.parameters(), lr=1e-3)
    for losses in made:
        losses.total.backward()
        optimizer.step()
        optimizer.zero_grad()

    optimizer = AdamW(by_hand.parameters(), lr=1e-3)
    by_hand.train()
    for image, target in pairs() * 2:
        logits, _ = by_hand(image)
        with torch.no_grad():
            logits_teacher, _ = teacher.eval()(image)
        loss = 0.5 * cross_entropy(logits, target) + 0.9 * kd_loss(logits, logits_teacher, 2.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert_bits_equal(state_copy(student), state_copy(by_hand))


@pytest.mark.parametrize("name", ["KD", "AT", "SDKD", "FITNET"])
def test_a_network_of_nobodys_family_learns_and_is_left_as_it_was(name):
    torch.manual_seed(0)
    student, teacher = Plain(4), Plain(8)
    keys = list(student.state_dict())
    made = distill(student, teacher, pairs(), name, epochs=1)
    list(made)
    assert made.deployed is student and list(student.state_dict()) == keys
    assert isinstance(student(pairs()[0][0]), torch.Tensor)
    for module in (*student.modules(), *teacher.modules()):
        assert not module._forward_hooks and not module._forward_pre_hooks
        assert not {"kept_output", "kept_input"} & module.__dict__.keys()


def test_a_loop_that_is_left_early_leaves_the_networks_alone():
    student, teacher = Plain(4), Plain(8)
    for _ in distill(student, teacher, pairs(), "AT", epochs=1):
        break
    import gc

    gc.collect()
    assert not any(module._forward_hooks for module in student.modules())


@pytest.mark.parametrize(
    ("method", "settings", "shares"),
    [("KD", {}, [1]), ("DML", {"PEER_LR_FACTOR": 0.25}, [1, 0.25])],
)
def test_the_rate_falls_as_the_protocol_says_for_each_group_by_its_share(method, settings, shares):
    rates = []

    class Seen(SGD):
        def step(self, *given):
            rates.append([group["lr"] for group in self.param_groups])
            return super().step(*given)

    networks = zoo("resnet8"), zoo("resnet14", 1)
    seen = partial(Seen, lr=0.08)
    list(distill(*networks, pairs(1), method, epochs=8, settings=settings, optimizer=seen))
    # 5, 6 and 7 eighths of the epochs
    expected = [0.08] * 5 + [0.008, 0.0008, 0.00008]
    assert rates == [pytest.approx([rate * share for share in shares]) for rate in expected]


def test_what_a_loader_draws_and_the_global_stream_stay_as_they_were():
    images, targets = pairs(1, 12)[0]
    student, teacher = zoo("resnet8"), zoo("resnet14", 1)
    loader = DataLoader(TensorDataset(images, targets), 4, shuffle=True)
    torch.manual_seed(5)
    order = [target.tolist() for _, target in loader]
    after = torch.rand(1)
    torch.manual_seed(5)
    made = distill(student, teacher, loader, "SDKD", epochs=1)
    seen = [losses.logits.shape[0] for losses in made]
    assert seen == [4, 4, 4] and torch.equal(torch.rand(1), after) and len(order) == 3


class Tupled(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, image):
        return {"logits": image}


BAD = [
    (dict(method="KDD"), "unknown method 'KDD' in method: did you mean 'KD'"),
    (dict(settings={"TAO": 1}), "unknown config key 'SDKD.TAO'"),
    (dict(settings={"TAU": -1}), "SDKD.TAU is -1.0; allowed: above 0"),
    (dict(epochs=0), "SOLVER.EPOCHS is 0; allowed: from 1"),
    (dict(teacher=None), "teacher is None; method 'SDKD' needs a network"),
    (dict(method="NONE"), "method 'NONE' has no teacher; give None"),
    (dict(method="AB", optimizer=None), "method 'AB' trains in phases of their own optimisers"),
    (dict(loader=iter(pairs())), "which can be gone through once"),
    (dict(loader=[]), "loader gave no batch"),
    (dict(loader=[torch.zeros(2, 3, 8, 8)]), "loader gives a tensor [2, 3, 8, 8]; allowed: pairs"),
    (dict(loader=[(torch.zeros(2, 1, 8, 8), torch.zeros(2))]), "images of shape [2, 1, 8, 8]"),
    (dict(loader=[(torch.zeros(2, 3, 8, 8).byte(), torch.zeros(2))]), "images of torch.uint8"),
    (dict(loader=[(torch.zeros(2, 3, 8, 8), torch.zeros(2))]), "targets [2] of torch.float32"),
    (dict(loader=[(torch.zeros(2, 3, 8, 8), torch.eye(2).long())]), "targets [2, 2] of"),
    (dict(loader=[(pairs(1)[0][0], torch.full((8,), 10))]), "from 10 to 10; allowed: 0 to 9, as"),
    (dict(loader=[(pairs(1)[0][0], torch.full((8,), -1))]), "targets from -1 to -1; allowed: 0"),
    (dict(student=nn.Flatten()), "Flatten has no weights to learn or to teach by"),
    (dict(teacher=lambda image: image), "function has no weights"),
    (dict(student=Tupled()), "Tupled returns dict; allowed: logits"),
    (dict(student=nn.Sequential(nn.Linear(5, 5))), "cannot run images [N, 3, 16, 16]"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[message for _, message in BAD])
def test_what_cannot_be_is_told(changes, message):
    usual = dict(student=zoo("resnet8"), teacher=zoo("resnet14"), loader=pairs(1), epochs=1)
    with pytest.raises(UserError) as told:
        distill(**{**usual, **changes})
    assert message in str(told.value)


def test_a_later_batch_with_a_class_too_many_is_told_too():
    image, target = pairs(1)[0]
    made = distill(
        zoo("resnet8"), zoo("resnet14"), [(image, target), (image, target + 9)], "KD", epochs=1
    )
    with pytest.raises(UserError, match="allowed: 0 to 9, as the student has 10 classes"):
        list(made)


def test_a_loss_that_is_not_finite_stops_before_it_changes_a_weight():
    student = zoo("resnet8")
    image, target = pairs(1)[0]
    before = [p.clone() for p in student.parameters()]
    made = distill(student, zoo("resnet14"), [(image * torch.inf, target)], "KD", epochs=1)
    with pytest.raises(UserError, match="epoch 1, step 1: .*; lower the optimiser's learning rate"):
        list(made)
    assert all(torch.equal(p, q) for p, q in zip(student.parameters(), before, strict=True))
    with pytest.raises(UserError, match="can be gone through once"):
        list(made)
