"""`register` inside a real mdistiller, each time in a fresh process."""

import textwrap

import pytest
from support.installed import write_distribution

from sdkd_plugin.registry import METHODS
from sdkd_plugin.upstream.registration import obstacle

PROGRAM = """
import sys
from sdkd_plugin.upstream import register
from sdkd_plugin.errors import UserError
{body}
"""


def program(body: str) -> str:
    return PROGRAM.format(body=textwrap.dedent(body))


def test_registering_twice_is_registering_once_and_the_class_is_truly_upstreams(checkout, call):
    body = """
    from mdistiller.distillers import distiller_dict
    from mdistiller.distillers._base import Distiller
    from mdistiller.engine.cfg import CFG
    untouched = {name: distiller_dict[name] for name in distiller_dict}
    CFG.freeze()
    first = register()
    entries = dict(distiller_dict)
    assert register() == first and "SDKD" in first
    assert dict(distiller_dict) == entries
    assert {name: distiller_dict[name] for name in untouched} == untouched
    assert issubclass(distiller_dict["SDKD"], Distiller)
    assert CFG.is_frozen() and CFG.SDKD.TAU == 4.0 and CFG.DKD.BETA == 8.0
    """
    call(checkout, "-c", program(body))


def test_a_foreign_entry_is_replaced_only_when_asked(checkout, call):
    body = """
    from mdistiller.distillers import distiller_dict, KD
    distiller_dict["SDKD"] = type("Foreign", (), {"__module__": "someone.else"})
    for names in (None, ["SDKD"], ["KD"]):
        try:
            register(names)
        except UserError as error:
            print(error)
        else:
            raise SystemExit(f"register({names}) replaced a foreign entry")
    assert distiller_dict["KD"] is KD
    register(["KD", "SDKD"], replace=True)
    assert distiller_dict["KD"] is not KD
    """
    out = call(checkout, "-c", program(body)).stdout
    assert (
        out.count("already, from someone.else") == 2
        and "already, from mdistiller.distillers.KD" in out
    )


def test_without_mdistiller_the_error_says_what_to_do(tmp_path, call):
    body = """
    try:
        register()
    except UserError as error:
        print(error)
    """
    assert "no mdistiller on the path" in call(tmp_path, "-c", program(body)).stdout


def test_a_broken_mdistiller_is_named_with_what_it_lacks(checkout, call):
    for module in ("scipy", "tqdm"):
        blocked = checkout.parent / f"no_{module}" / module
        blocked.mkdir(parents=True)
        (blocked / "__init__.py").write_text(
            f"raise ModuleNotFoundError('No module named {module}', name='{module}')\n"
        )
    body = """
    try:
        register()
    except UserError as error:
        print(error)
    """
    out = call(checkout, "-c", program(body), path=str(checkout.parent / "no_scipy")).stdout
    assert "does not import (No module named scipy)" in out and "pip install scipy tqdm" in out


@pytest.mark.parametrize(
    "name, reason",
    [
        ("NONE", "builds its vanilla runs itself"),
        ("DML", "trains its teacher"),
        ("SRRL", "reads `head_in`"),
    ],
)
def test_a_method_that_upstreams_trainer_cannot_carry_says_why(checkout, call, name, reason):
    body = f"""
    try:
        register([{name!r}])
    except UserError as error:
        print(error)
    """
    assert reason in call(checkout, "-c", program(body)).stdout


def test_every_method_that_works_there_steps_with_upstreams_models_and_config(checkout, call):
    """Also those mdistiller has itself, whose config nodes lack keys of ours."""
    body = """
    import torch
    from mdistiller.distillers import distiller_dict
    from mdistiller.engine.cfg import CFG
    from mdistiller.models import cifar_model_dict
    from sdkd_plugin.registry import METHODS
    from sdkd_plugin.upstream.registration import obstacle

    names = [entry.name for entry in METHODS if obstacle(entry) is None]
    register(names, replace=True)
    CFG.SOLVER.TRAINER = "phases"
    CFG.CRD.FEAT.STUDENT_DIM, CFG.CRD.FEAT.TEACHER_DIM, CFG.CRD.NCE.K = 64, 64, 4
    torch.manual_seed(0)
    image, target, index = torch.randn(64, 3, 32, 32), torch.arange(64), torch.arange(64)
    for name in names:
        models = [cifar_model_dict[model][0] for model in ("resnet8", "resnet14")]
        student, teacher = (build(num_classes=100) for build in models)
        more = {"CRD": [64]}.get(name, [])
        method = distiller_dict[name](student, teacher, CFG, *more)
        distiller = torch.nn.DataParallel(method).train()
        optimizer = torch.optim.SGD(distiller.module.get_learnable_parameters(), lr=0.01)
        extras = {"epoch": 1}
        if name == "CRD":
            extras = {"index": index, "contrastive_index": torch.randint(64, (64, 5))}
        logits, losses = distiller(image=image, target=target, **extras)
        sum(loss.mean() for loss in losses.values()).backward()
        optimizer.step()
        assert logits.shape == (64, 100), name
        assert all(torch.isfinite(loss).all() for loss in losses.values()), name
        assert distiller.eval()(image=image).shape == (64, 100)
        print("stepped", name)
    """
    out = call(checkout, "-c", program(body)).stdout
    works = [entry.name for entry in METHODS if obstacle(entry) is None]
    assert out.count("stepped") == len(works) > 10


def test_a_method_with_phases_under_a_trainer_that_has_one_is_refused(checkout, call):
    body = """
    from mdistiller.distillers import distiller_dict
    from mdistiller.engine import trainer_dict
    from mdistiller.engine.cfg import CFG
    from mdistiller.models import cifar_model_dict

    assert "AB" in register() and "phases" in trainer_dict
    names = ("resnet8", "resnet14")
    student, teacher = (cifar_model_dict[name][0](num_classes=100) for name in names)
    for trainer in ("base", "phases"):
        CFG.SOLVER.TRAINER = trainer
        try:
            distiller_dict["AB"](student, teacher, CFG)
        except UserError as error:
            print(error)
    """
    assert call(checkout, "-c", program(body)).stdout.strip() == (
        "SOLVER.TRAINER is 'base', which has one phase, but AB with these settings has several; "
        "allowed: phases"
    )


def test_values_are_checked_at_construction_since_load_config_never_saw_them(checkout, call):
    body = """
    from mdistiller.distillers import distiller_dict
    from mdistiller.engine.cfg import CFG
    from mdistiller.models import cifar_model_dict

    register(["KD", "SEMCKD", "SDKD"], replace=True)
    wrong = {
        "KD": ["KD.TEMPERATURE", 0],
        "SEMCKD": ["SEMCKD.FACTOR", 65],
        "SDKD": ["SDKD.SYNC", "steps"],
    }
    for name, words in wrong.items():
        cfg = CFG.clone()
        cfg.merge_from_list(words)
        models = [cifar_model_dict[model][0] for model in ("resnet8", "resnet14")]
        networks = [build(num_classes=100) for build in models]
        try:
            distiller_dict[name](*networks, cfg)
        except UserError as error:
            print(error)
    """
    assert call(checkout, "-c", program(body)).stdout.splitlines() == [
        "KD.TEMPERATURE is 0; allowed: above 0",
        "SEMCKD.FACTOR is 65; allowed: 1 to SOLVER.BATCH_SIZE, 64",
        "unknown value 'steps' in SDKD.SYNC: did you mean 'step'? "
        "known: checkpoint, ema, epoch, init, step",
    ]


def test_first_names_of_keys_and_of_the_trainer_still_work_there(checkout, call):
    body = """
    from mdistiller.distillers import distiller_dict
    from mdistiller.engine import trainer_dict
    from mdistiller.engine.cfg import CFG
    from mdistiller.models import cifar_model_dict

    register()
    assert trainer_dict["stages"] is trainer_dict["phases"]
    for words in (["AB.TEMPERATURE", 3.0], ["AB.TAU", 3.0], ["AB.TEMPERATURE", 3, "AB.TAU", 5.0]):
        cfg = CFG.clone()
        cfg.merge_from_list([*words, "SOLVER.TRAINER", "stages"])
        before = cfg.dump()
        models = [cifar_model_dict[model][0] for model in ("resnet8", "resnet14")]
        networks = [build(num_classes=100) for build in models]
        try:
            print(distiller_dict["AB"](*networks, cfg).tau)
        except UserError as error:
            print(error)
        assert cfg.dump() == before
    """
    assert call(checkout, "-c", program(body)).stdout.splitlines() == [
        "3.0",
        "3.0",
        "AB.TEMPERATURE is 3 and AB.TAU is 5.0, which are two names of one key; keep the second",
    ]


OUTSIDER = """
from sdkd_plugin.distillers.kd import KD
from sdkd_plugin.registry import METHODS

@METHODS.register("{name}", config={{"WEIGHT": 1.0}})
class Outsider(KD):
    needs_model_extras = {extras}
"""


def test_methods_from_outside_are_registered_where_upstreams_trainer_can_carry_them(
    checkout, call, tmp_path
):
    site = tmp_path / "site"
    write_distribution(site, "outside", "good = good\nbad = bad")
    (site / "good.py").write_text(OUTSIDER.format(name="GOOD", extras=False))
    (site / "bad.py").write_text(OUTSIDER.format(name="BAD", extras=True))
    body = """
    from mdistiller.engine.cfg import CFG
    names = register()
    assert "GOOD" in names and "SDKD" in names and "BAD" not in names
    assert CFG.GOOD.WEIGHT == 1.0 and "BAD" not in CFG
    """
    call(checkout, "-c", program(body), path=str(site))


def test_a_script_that_run_starts_has_the_methods_of_its_imports(checkout, call, tmp_path):
    (checkout / "outsider.py").write_text(OUTSIDER.format(name="GOOD", extras=False))
    (checkout / "tools" / "show.py").write_text(
        "from mdistiller.distillers import distiller_dict as d; print(d['GOOD'].__mro__[1])"
    )
    run = ["-m", "sdkd_plugin", "run"]
    out = call(checkout, *run, "--import", "outsider.py", "tools/show.py").stdout
    assert "outsider.Outsider" in out
    assert "KeyError: 'GOOD'" in call(checkout, *run, "tools/show.py", ok=False).stderr


@pytest.mark.parametrize("form", ["--cfg {}", "--cfg={}"])
def test_run_finds_the_packages_own_configs(checkout, call, form):
    (checkout / "tools" / "show.py").write_text(
        "import sys\n"
        "from mdistiller.engine.cfg import CFG\n"
        "word = sys.argv[-1]\n"
        "CFG.merge_from_file(word.removeprefix('--cfg='))\n"
        "print(CFG.DISTILLER.TYPE, word)\n"
    )
    run = ["-m", "sdkd_plugin", "run", "tools/show.py"]
    ours, theirs = "configs/cifar100/sdkd/res56_res20.yaml", "configs/cifar100/kd.yaml"
    assert not (checkout / ours).exists() and (checkout / theirs).exists()
    shown = call(checkout, *run, *form.format(ours).split()).stdout
    assert shown.startswith("SDKD ") and f"/{ours}" in shown
    shown = call(checkout, *run, *form.format(theirs).split()).stdout
    assert shown.startswith("KD ") and shown.split()[-1].removeprefix("--cfg=") == theirs
    missing = call(checkout, *run, *form.format("configs/nix.yaml").split(), ok=False).stderr
    assert "configs/nix.yaml" in missing
