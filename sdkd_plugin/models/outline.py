"""A model's shapes by its name, without memory for its weights."""

from functools import cache

import torch

from sdkd_plugin.errors import UserError
from sdkd_plugin.models import build_model
from sdkd_plugin.models.probe import probe
from sdkd_plugin.registry import MODELS


@cache
def outline(name: str) -> tuple[list[int], list[int]] | None:
    """What mdistiller's configs say of a model's stages, stem left out, and of its pooled vector.

    Returns:
        their channels, and, the other way round, their sizes in pixels for images of 32x32; None
        for a model that has none of these, or cannot be run without memory for its weights, as a
        plug-in's may be.
    Raises:
        UserError: the name is unknown.
    """
    MODELS[name]
    try:
        with torch.device("meta"):
            _, feats = probe(build_model(name, 2))
        maps = [*feats["feats"][1:], feats["pooled_feat"][..., None, None]]
    except (RuntimeError, UserError):
        return None
    return [each.shape[1] for each in maps], [each.shape[2] for each in reversed(maps)]
