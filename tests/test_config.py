"""The configuration: whose value wins, which values are refused, and that mdistiller's files mean
here what they mean there.
"""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from support.configs import value, yaml_file
from yacs.config import CfgNode as CN

from sdkd_plugin.config import (
    load_config,
)
from sdkd_plugin.defaults import DEFAULTS
from sdkd_plugin.errors import UserError, unknown
from sdkd_plugin.registry import METHODS
from sdkd_plugin.settings import flatten

ALL = [entry.name for entry in METHODS]


def test_override_beats_yaml_beats_default(tmp_path):
    path = yaml_file(tmp_path, "SOLVER: {LR: 0.3, SEED: 7}\nKD: {LOSS: {CE_WEIGHT: 0.4}}")
    cfg = load_config(path, ["SOLVER.LR", "0.2", "KD.TEMPERATURE", "3.5"])
    assert (cfg.SOLVER.LR, cfg.SOLVER.SEED, cfg.SOLVER.MOMENTUM) == (0.2, 7, 0.9)
    assert (cfg.KD.LOSS.CE_WEIGHT, cfg.KD.LOSS.KD_WEIGHT, cfg.KD.TEMPERATURE) == (0.4, 0.9, 3.5)


def test_a_loaded_config_is_frozen_and_leaves_the_defaults_alone():
    cfg = load_config(None, ["SOLVER.LR_DECAY_STAGES", "[1]", "KD.LOSS.CE_WEIGHT", "0.7"])
    with pytest.raises(AttributeError):
        cfg.SOLVER.LR = 1.0
    cfg.SOLVER.LR_DECAY_STAGES.append(2)
    assert (
        load_config(None).SOLVER.LR_DECAY_STAGES
        == DEFAULTS["SOLVER"]["LR_DECAY_STAGES"]
        == [150, 180, 210]
    )
    assert load_config(None).KD.LOSS.CE_WEIGHT == 0.1


@pytest.mark.parametrize(
    ("key", "text", "wanted"),
    [
        ("SOLVER.LR", "1", 1.0),
        ("SOLVER.LR", "5e-2", 0.05),
        ("SOLVER.EPOCHS", "3.0", 3),
        ("SOLVER.LR_DECAY_STAGES", "(1, 2)", [1, 2]),
        ("SOLVER.LR_DECAY_STAGES", "1,2", [1, 2]),
        ("SOLVER.LR_DECAY_STAGES", "[]", []),
        ("LOG.WANDB", "False", False),
        ("LOG.TRACKERS", "[mlflow, wandb]", ["mlflow", "wandb"]),
        ("LOG.TRACKERS", "['mlflow']", ["mlflow"]),
        ("LOG.TRACKERS", "[]", []),
        ("EXPERIMENT.TAG", "kd,res56", "kd,res56"),
        ("EXPERIMENT.NAME", "2024", "2024"),
        ("DATASET.ROOT", "a/b.npz", "a/b.npz"),
    ],
)
def test_values_take_their_defaults_type(key, text, wanted, tmp_path):
    found = value(key, key, text)
    assert found == wanted and type(found) is type(wanted)
    node, leaf = key.split(".")
    quoted = yaml_file(tmp_path, yaml.safe_dump({node: {leaf: text}}))
    assert value(key, path=quoted) == wanted


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("SOLVER.WEIGHT_DECAY", "5e-4"),
        ("SOLVER.LR", "1e-2"),
        ("SOLVER.LR_DECAY_STAGES", "(1, 2)"),
        ("SOLVER.EPOCHS", "12"),
    ],
)
def test_text_that_yaml_takes_for_a_string_means_what_it_means_in_yacs(key, text, tmp_path):
    """Yaml 1.1 wants a dot in a float, so that `WEIGHT_DECAY: 5e-4` is a string to it.

    yacs puts that right.
    """
    node, leaf = key.split(".")
    path = yaml_file(tmp_path, f"{node}: {{{leaf}: '{text}'}}")
    yacs = CN({"SOLVER": {**DEFAULTS["SOLVER"]}})
    yacs.merge_from_file(str(path))
    theirs = yacs.SOLVER[leaf]
    assert value(key, path=path) == (list(theirs) if isinstance(theirs, tuple) else theirs)


@pytest.mark.parametrize(
    ("key", "text", "kind"),
    [
        ("SOLVER.LR", "a", "'a' (str); allowed: float, such as 0.05"),
        ("SOLVER.LR", "True", "True (bool); allowed: float"),
        ("SOLVER.LR", "[1]", "[1] (list); allowed: float"),
        ("SOLVER.LR", "{[1]: 2}", "'{[1]: 2}' (str); allowed: float"),
        ("SOLVER.LR", "((((", "'((((' (str); allowed: float"),
        ("SOLVER.EPOCHS", "True", "True (bool); allowed: int"),
        ("SOLVER.EPOCHS", "2.5", "2.5 (float); allowed: int"),
        ("LOG.WANDB", "1", "1 (int); allowed: bool"),
        ("SOLVER.LR_DECAY_STAGES", "3", "3 (int); allowed: list, such as [150, 180, 210]"),
        ("SOLVER", "3", "'3'; it is a node, with the keys"),
        ("SOLVER.LR.X", "3", "{'X': '3'} (dict); allowed: float"),
    ],
)
def test_another_type_is_refused(key, text, kind):
    with pytest.raises(UserError) as caught:
        load_config(None, [key, text])
    assert kind in str(caught.value) and "the command line" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "text", "allowed"),
    [
        ("SOLVER.EPOCHS", "0", "from 1 to any"),
        ("SOLVER.BATCH_SIZE", "0", "from 1"),
        ("SOLVER.LR", "-0.1", "from 0.0"),
        ("SOLVER.LR_DECAY_RATE", "-1", "from 0.0"),
        ("SOLVER.WEIGHT_DECAY", "-1", "from 0.0"),
        ("SOLVER.MOMENTUM", "-1", "from 0.0 to 1.0"),
        ("SOLVER.SEED", "-1", "from 0"),
        ("SOLVER.SCHEDULE_EPOCHS", "-1", "from 0"),
        ("DATASET.SUBSET", "0", "to 1.0"),
        ("DATASET.SUBSET", "1.5", "to 1.0"),
        ("DATASET.VAL_FRACTION", "1", "to 0.999"),
        ("DATASET.VAL_FRACTION", "-0.1", "from 0.0"),
        ("DATASET.TEST.BATCH_SIZE", "0", "from 1"),
        ("LOG.SAVE_CHECKPOINT_FREQ", "0", "from 1"),
        ("DATASET.MEAN", "[0.5]", "three numbers"),
        ("DATASET.MEAN", "['a', 1, 1]", "three numbers"),
        ("DATASET.STD", "[0.5, 0, 0.5]", "above 0"),
        ("SOLVER.LR_DECAY_STAGES", "[1, 'a']", "[150, 180, 210]"),
        ("SOLVER.LR_DECAY_STAGES", "[True]", "[150, 180, 210]"),
        ("SOLVER.DEVICE", "gpu", "known: auto, cpu, cuda, mps"),
        ("SOLVER.PRECISION", "fp64", "did you mean 'fp16'"),
        ("SOLVER.TYPE", "Adam", "known: SGD"),
        ("DATASET.AUGMENT", "flip", "crop_flip"),
    ],
)
def test_values_out_of_range_are_refused(key, text, allowed):
    with pytest.raises(UserError) as caught:
        load_config(None, [key, text])
    message = str(caught.value)
    assert key in message and allowed in message and "\n" not in message


def test_nan_is_out_of_every_range(tmp_path):
    with pytest.raises(UserError, match="SOLVER.LR is nan"):
        load_config(yaml_file(tmp_path, "SOLVER: {LR: .nan}"))


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("SOLVER.LRR", "'SOLVER.LR'"),
        ("solver.lr", "'SOLVER'"),
        ("SOLVR.LR", "'SOLVER'"),
        ("KD.LOSS.CE_WEIGTH", "'KD.LOSS.CE_WEIGHT'"),
        ("DISTILLER.STUDNT", "'DISTILLER.STUDENT'"),
    ],
)
def test_an_unknown_key_names_the_nearest(key, near):
    with pytest.raises(UserError, match="unknown config key") as caught:
        load_config(None, [key, "1"])
    assert f"did you mean {near}?" in str(caught.value)


def test_an_unknown_method_or_data_set_names_the_nearest():
    with pytest.raises(
        UserError, match=r"unknown method 'KDD' in DISTILLER\.TYPE: did you mean 'KD'\?"
    ):
        load_config(None, ["DISTILLER.TYPE", "KDD"])
    with pytest.raises(
        UserError, match=r"unknown data set 'cifar10' in DATASET\.TYPE: did you mean 'cifar100'\?"
    ):
        load_config(None, ["DATASET.TYPE", "cifar10"])


@pytest.mark.parametrize("method", ["KD", "DKD", "SDKD", "CRD", "NORM", "AB"])
@pytest.mark.parametrize("tau", ["0", "-1", "1e999"])
def test_a_wrong_temperature_is_found_with_the_config(method, tau):
    key = {"KD": "TEMPERATURE", "DKD": "T", "CRD": "NCE.TEMPERATURE"}.get(method, "TAU")
    words = ["DISTILLER.TYPE", method, f"{method}.{key}", tau]
    with pytest.raises(UserError, match=f"{method}.{key} is {float(tau)}; allowed: above 0"):
        load_config(None, words)


def test_only_the_chosen_methods_node_is_checked():
    assert load_config(None, ["KD.TEMPERATURE", "0"]).KD.TEMPERATURE == 0


def test_infinity_is_out_of_every_range():
    with pytest.raises(UserError, match="SOLVER.LR is inf; allowed: from 0.0 to any"):
        load_config(None, ["SOLVER.LR", "1e999"])


def test_no_hint_where_nothing_is_near():
    assert (
        str(unknown("model", "zzz", ["resnet20"], "X"))
        == "unknown model 'zzz' in X: known: resnet20"
    )
    assert "did you mean 'ResNet18'?" in str(
        unknown("model", "resnet18", ["vgg8", "ResNet18"], "X")
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no valid yaml"),
        ("", "holds NoneType, not a tree of keys"),
        ("- 1", "holds list"),
        ("SOLVER:", "SOLVER in .* is None; it is a node"),
        ("1: 2", "unknown config key '1'"),
        ("SOLVER: {LR: 2024-13-45}", r"SOLVER.LR in .* is '2024-13-45' \(str\); allowed: float"),
        ("SOLVER: {LR: 1, LR: 2}", "'LR' stands in line 1 and again in line 1"),
        ("!!python/object/apply:os.getcwd []", "is no valid yaml"),
    ],
)
def test_a_yaml_file_that_is_none_is_refused(text, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        load_config(yaml_file(tmp_path, text))
    assert "some.yaml" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        (
            "SOLVER.LR",
            "9" * 400,
            r"is 9{197}\.\.\.; allowed: whole numbers up to 9223372036854775807",
        ),
        ("SOLVER.LR", "9" * 5000, r"is '9{196}\.\.\. \(str\); allowed: float"),
        ("SOLVER.SEED", "9" * 30, "allowed: whole numbers up to"),
        ("SOLVER.EPOCHS", "1e300", "allowed: whole numbers up to"),
        ("SOLVER.LR_DECAY_STAGES", f"[{'9' * 400}]", "allowed: whole numbers up to"),
        ("SOLVER.EPOCHS", "1" + "0" * 11, "SOLVER.EPOCHS is 100000000000, scaled; allowed: up to"),
        ("SOLVER.SCHEDULE_EPOCHS", "1" + "0" * 11, "SOLVER.SCHEDULE_EPOCHS is 100000000000"),
        ("FT.INIT_EPOCHS", "1e12", "FT.INIT_EPOCHS is 1000000000000, scaled"),
        ("EXPERIMENT.NAME", "a\udcff", "which no file name could hold"),
        ("DATASET.ROOT", "a\0", "which no file name could hold"),
    ],
    ids=lambda text: text[:20].encode(errors="replace").decode(),
)
def test_what_no_run_could_hold_is_refused_in_a_short_line(key, text, message):
    with pytest.raises(UserError, match=message) as caught:
        load_config(None, ["DISTILLER.TYPE", "FT", key, text])
    assert len(str(caught.value)) < 400


def test_epochs_count_as_scaled():
    keys = ["DISTILLER.TYPE", "FT", "SOLVER.SCHEDULE_EPOCHS", "1", "SOLVER.EPOCHS", "100000"]
    with pytest.raises(UserError, match="FT.INIT_EPOCHS is 3000000"):
        load_config(None, keys)
    assert load_config(None, keys[2:]).SOLVER.EPOCHS == 100_000


def test_files_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(UserError, match="--cfg is empty"):
        load_config("")
    with pytest.raises(UserError, match=r"nix\.yaml' cannot be read: No such file"):
        load_config(tmp_path / "nix.yaml")
    with pytest.raises(UserError, match="cannot be read: Is a directory; see configs/"):
        load_config(tmp_path)
    (tmp_path / "bytes.yaml").write_bytes(b"\x80\xff")
    with pytest.raises(UserError, match="is no valid yaml: .*utf-8"):
        load_config(tmp_path / "bytes.yaml")


def test_overrides_come_in_pairs_and_options_before_them():
    with pytest.raises(UserError, match="'SOLVER.LR' has no partner"):
        load_config(None, ["SOLVER.SEED", "1", "SOLVER.LR"])
    with pytest.raises(UserError, match="option --resume stands among the KEY VALUE overrides"):
        load_config(None, ["SOLVER.SEED", "1", "--resume"])
    # the last one counts
    assert value("SOLVER.LR", "SOLVER.LR", "0.5", "SOLVER.LR", "0.25") == 0.25


@settings(deadline=None, max_examples=60)  # a busy machine is no failure
@given(key=st.sampled_from([key for key, _ in flatten(DEFAULTS)]), text=st.text(max_size=30))
def test_any_text_is_either_a_value_or_a_users_error(key, text):
    try:
        cfg = load_config(None, [key, text])
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert type(dict(flatten(cfg))[key]) is type(dict(flatten(DEFAULTS))[key])
