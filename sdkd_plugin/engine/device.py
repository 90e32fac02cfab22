"""Device and precision of a run, through accelerate."""

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from yacs.config import CfgNode as CN

from sdkd_plugin.errors import UserError


def make_accelerator(cfg: CN) -> Accelerator:
    """Device and precision from SOLVER.DEVICE and SOLVER.PRECISION.

    Raises:
        UserError: no such device here, a precision the device lacks, or more than one process.
    """
    device = cfg.SOLVER.DEVICE
    precision = cfg.SOLVER.PRECISION
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not here.get(device, True):
        others = [name for name, there in here.items() if there]
        raise UserError(
            f"SOLVER.DEVICE is {device!r}, but torch sees no {device.upper()} device here; "
            f"allowed: {', '.join(['auto', 'cpu', *others])}"
        )
    # auto never takes mps: nobody has tested it
    cpu = device == "cpu" or (device == "auto" and not here["cuda"])
    if device == "mps" and precision != "fp32":
        raise UserError(
            f"SOLVER.PRECISION is {precision!r}, which needs CUDA or the CPU; allowed on mps: fp32"
        )
    if cpu and precision == "fp16":
        raise UserError(
            "SOLVER.PRECISION is 'fp16', which needs CUDA; allowed on the CPU: fp32, bf16"
        )

    # else one process could not train in two precisions
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=cpu, mixed_precision="no" if precision == "fp32" else precision)
    if accelerator.num_processes > 1:
        raise UserError(
            f"started as {accelerator.num_processes} processes; allowed: 1, data-parallel training "
            "is not built yet"
        )
    return accelerator
