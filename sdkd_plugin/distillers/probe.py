"""Measuring a model's shapes, for methods; the models' own room has it."""

from sdkd_plugin.models.probe import eval_mode, pooled_dim, probe

__all__ = ["eval_mode", "pooled_dim", "probe"]
