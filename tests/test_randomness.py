"""Random numbers depend on their key alone."""

import hashlib

import numpy as np
import pytest
import torch

from sdkd_plugin.randomness import keyed_generator, torch_seeded


def draws(*key: object) -> list[int]:
    return keyed_generator(*key).integers(0, 2**63, size=4).tolist()


def test_a_key_always_gives_the_same_stream_whatever_else_was_drawn():
    first = draws(0, "epoch", 1)
    np.random.default_rng().random(1000)
    keyed_generator(0, "epoch", 1).random(17)
    assert draws(0, "epoch", 1) == first


def test_every_part_of_the_key_counts():
    streams = {
        tuple(draws(*key))
        for key in [
            (0, "epoch", 1),
            (1, "epoch", 1),
            (0, "subset", 1),
            (0, "epoch", 2),
            (0, "epoch"),
        ]
    }
    assert len(streams) == 5


def test_the_stream_is_philox_keyed_by_sha256():
    """Recomputed from the description: results of one version must be had again with the next."""
    digest = hashlib.sha256(b"3/epoch/12").digest()
    words = [int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")]
    philox = np.random.Philox(key=np.array(words, dtype=np.uint64))
    assert (
        keyed_generator(3, "epoch", 12).bit_generator.random_raw(5).tolist()
        == philox.random_raw(5).tolist()
    )


def test_torchs_generator_is_seeded_inside_and_untouched_outside():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with torch_seeded(0, "student"):
        inside = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with torch_seeded(0, "student"):
        assert torch.equal(torch.rand(3), inside)
    with torch_seeded(1, "student"):
        assert not torch.equal(torch.rand(3), inside)


def test_torchs_generator_is_restored_after_an_error():
    before = torch.random.get_rng_state()
    with pytest.raises(RuntimeError, match="on purpose"), torch_seeded(0, "student"):
        torch.rand(3)
        raise RuntimeError("on purpose")
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("seed", [0, 1, 2**63, 10**30])
def test_any_seed_will_do(seed):
    with torch_seeded(seed, "x"):
        torch.rand(1)
    assert len(set(draws(seed, "x"))) == 4
