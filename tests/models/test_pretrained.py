"""A library's own weights as a teacher's, and a teacher that is missing."""

from urllib.error import URLError

import pytest
import torch
import torchvision

from sdkd_plugin import weights
from sdkd_plugin.config import load_config
from sdkd_plugin.errors import UserError
from sdkd_plugin.models import build_model
from sdkd_plugin.runs.teacher import teacher_path

K = 7


RESNET = "torchvision:resnet18"


def cached(tmp_path, monkeypatch) -> dict[str, torch.Tensor]:
    """ImageNet weights in torchvision's cache, as if they had been downloaded."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(9)
    state = torchvision.models.mobilenet_v3_small().state_dict()
    url = torchvision.models.get_model_weights("mobilenet_v3_small").DEFAULT.url
    folder = tmp_path / "home" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(state, folder / url.rpartition("/")[2])
    return state


def test_a_pretrained_teacher_has_the_librarys_own_weights(tmp_path, monkeypatch):
    state = cached(tmp_path, monkeypatch)
    name = "torchvision:mobilenet_v3_small"
    words = ["DISTILLER.TYPE", "KD", "DISTILLER.TEACHER", name]
    path = teacher_path(load_config(None, [*words, "DISTILLER.TEACHER_CKPT", "pretrained"]))
    teacher = build_model(name, 1000)
    weights.load_weights(teacher, path, name)
    assert all(torch.equal(value, state[key]) for key, value in teacher.state_dict().items())
    with pytest.raises(UserError, match="classifier.3.weight|1000"):
        weights.load_weights(build_model(name, K), path, name)


def test_what_has_no_pretrained_weights_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def unreachable(*args: object, **settings: object) -> None:
        raise URLError("network is unreachable")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    words = ["DISTILLER.TYPE", "KD", "DISTILLER.TEACHER_CKPT", "pretrained", "DISTILLER.TEACHER"]
    with pytest.raises(UserError, match="resnet56 is no model of a library"):
        teacher_path(load_config(None, [*words, "resnet56"]))
    with pytest.raises(UserError, match=f"{RESNET} has no weights that could be had: .*network"):
        teacher_path(load_config(None, [*words, RESNET]))


def test_a_missing_teacher_is_told_with_a_command_that_there_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["DISTILLER.TYPE", "KD", "DISTILLER.TEACHER", "timm:resnet18"]
    with pytest.raises(UserError) as caught:
        teacher_path(load_config(None, words))
    told = str(caught.value)
    assert "TEACHER_CKPT pretrained takes its library's weights" in told
    assert "vanilla/resnet20.yaml DISTILLER.STUDENT timm:resnet18, then" in told
    assert "--train-teacher" not in told, "which would have no recipe"
