"""DataParallel's replicas without its devices."""

from torch import nn


def replicate(module: nn.Module, change: float, same_device: bool = False) -> nn.Module:
    """What torch.nn.parallel.replicate makes of a module: weights are plain tensors, no longer
    leaves nor listed.

    Args:
        change: factor on every weight, so that a replica that looks elsewhere for them is found
            out.
        same_device: the first replica shares the module's buffers, the others have copies.
    """
    replicas = {m: m._replicate_for_data_parallel() for m in module.modules()}
    for original, replica in replicas.items():
        for name, child in original._modules.items():
            replica._modules[name] = None if child is None else replicas[child]
        for name, parameter in original._parameters.items():
            if parameter is None:
                replica._parameters[name] = None
            else:
                setattr(replica, name, parameter * change)
        for name, buffer in original._buffers.items():
            replica._buffers[name] = buffer if buffer is None or same_device else buffer.clone()
    return replicas[module]
