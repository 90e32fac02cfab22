"""The learning rate of an epoch."""

from yacs.config import CfgNode as CN


def learning_rate(cfg: CN, epoch: int) -> float:
    """Step schedule: LR times LR_DECAY_RATE for each of LR_DECAY_STAGES before `epoch`, from 1."""
    decays = sum(epoch > stage for stage in cfg.SOLVER.LR_DECAY_STAGES)
    return cfg.SOLVER.LR * cfg.SOLVER.LR_DECAY_RATE**decays
