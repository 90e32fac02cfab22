"""The CPU's copy of a buffer is the buffer, whoever sets it, copies it or loads it."""

import copy

import torch
from torch import Tensor, nn

from sdkd_plugin.distillers.host_copy import HostCopy


class Counter(nn.Module):
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.tensor(-1))
        self.known = HostCopy(self, "count")


def test_it_is_read_once_and_known_when_written():
    counter = Counter()
    assert counter.known.read(counter) == -1
    counter.known.write(counter, 3)
    assert counter.known.read(counter) == 3 and counter.count.item() == 3
    counter.count.fill_(7)
    assert counter.known.read(counter) == 3, "it is not read in each step"
    counter.known.forget()
    assert counter.known.read(counter) == 7


def test_a_loaded_state_is_read_again():
    counter, other = Counter(), Counter()
    counter.known.write(counter, 3)
    other.known.write(other, 5)
    counter.load_state_dict(other.state_dict())
    assert counter.known.read(counter) == 5


def test_a_copy_knows_its_own_buffer():
    counter = Counter()
    counter.known.write(counter, 3)
    twin = copy.deepcopy(counter)
    twin.known.write(twin, 4)
    twin.load_state_dict(Counter().state_dict())
    assert (counter.known.read(counter), twin.known.read(twin)) == (3, -1)


def test_replicas_read_their_own_buffer_and_one_that_writes_is_seen():
    counter = Counter()
    counter.known.write(counter, 1)
    first, second = (counter._replicate_for_data_parallel() for _ in range(2))
    first.count, second.count = counter.count, counter.count.clone()  # as replicate does
    first.known.write(first, 2)
    assert second.known.read(second) == 1, "another replica's write is not its own"
    assert counter.known.read(counter) == 2
    second.known.write(second, 9)  # into a buffer that dies with it
    assert counter.known.read(counter) == 2
