"""A number that a module keeps in its state and that the CPU needs to know in each step."""

from typing import Any

from torch import nn


class HostCopy:
    """What a scalar buffer holds, read from the device once and not in each step, which would wait
    for it; read again after a state was loaded.

    DataParallel's replicas share this object but not the buffer: they always read their own.

    Args:
        module: has the buffer.
        name: of the buffer.
    """

    def __init__(self, module: nn.Module, name: str):
        self._name = name
        self._value: float | None = None
        module.register_load_state_dict_post_hook(self._loaded)

    def read(self, module: nn.Module) -> float:
        """The buffer's value."""
        if _is_replica(module):
            return getattr(module, self._name).item()
        if self._value is None:
            self._value = getattr(module, self._name).item()
        return self._value

    def write(self, module: nn.Module, value: float) -> None:
        """Sets the buffer; a replica's may be the module's own."""
        getattr(module, self._name).fill_(value)
        self._value = None if _is_replica(module) else value

    def forget(self) -> None:
        """Somebody else has set the buffer."""
        self._value = None

    def _loaded(self, module: nn.Module, incompatible_keys: Any) -> None:
        self.forget()


def _is_replica(module: nn.Module) -> bool:
    return getattr(module, "_is_replica", False)  # as torch.nn.parallel.replicate marks them
