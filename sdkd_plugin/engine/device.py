"""Device and precision of a run, through accelerate."""

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from yacs.config import CfgNode as CN

from sdkd_plugin.errors import UserError


def make_accelerator(cfg: CN, several: bool = False) -> Accelerator:
    """Device and precision from SOLVER.DEVICE, SOLVER.PRECISION and SOLVER.TF32.

    Args:
        several: whether other processes may do this with us, see `engine.ranks`.
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

    if cpu and cfg.SOLVER.TF32:
        raise UserError("SOLVER.TF32 is True, which needs CUDA; allowed on the CPU: False")
    torch.backends.cuda.matmul.allow_tf32 = cfg.SOLVER.TF32
    torch.backends.cudnn.allow_tf32 = cfg.SOLVER.TF32  # torch's own default is True

    # else one process could not train in two precisions
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=cpu, mixed_precision="no" if precision == "fp32" else precision)
    if accelerator.num_processes > 1 and not several:
        raise UserError(
            f"started as {accelerator.num_processes} processes; only `train` without --dry-run can "
            "be, allowed here: 1"
        )
    return accelerator
