"""`distill` with batches that are short, run out, or are drawn by."""

import pytest
import torch
from support.loop import zoo
from support.tiny import assert_bits_equal, state_copy
from torch import nn

from sdkd_plugin import distill
from sdkd_plugin.errors import UserError
from sdkd_plugin.randomness import torch_seeded


def batch(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(n)), torch.arange(n)


@pytest.mark.parametrize(("method", "sizes"), [("SEMCKD", [8]), ("KD", [8, 3])])
def test_a_short_batch_is_left_out_where_a_method_needs_whole_ones(method, sizes):
    made = distill(zoo("resnet8"), zoo("resnet14"), [batch(8), batch(3)], method, epochs=1)
    assert [len(losses.logits) for losses in made] == sizes


def test_a_loader_that_has_run_out_is_told():
    class Once(list):
        looks = 0

        def __iter__(self):
            self.looks += 1
            return super().__iter__() if self.looks <= 2 else iter(())  # the first look, one epoch

    made = distill(zoo("resnet8"), zoo("resnet14"), Once([batch(4)]), "KD", epochs=2)
    with pytest.raises(UserError, match="no whole batch in epoch 2 of phase 'train'"):
        list(made)


def test_what_a_step_draws_is_the_seeds_and_leaves_the_callers_stream():
    def run(own: int, seed: int = 3) -> dict[str, torch.Tensor]:
        with torch_seeded(0, "student"):
            student = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(768, 10))
        torch.manual_seed(own)
        expected = torch.rand(1, generator=torch.Generator().manual_seed(own))
        list(distill(student, zoo("resnet14"), [batch(8)], "KD", epochs=2, seed=seed))
        assert torch.equal(torch.rand(1), expected)
        return state_copy(student)

    assert_bits_equal(run(5), run(6))
    assert not run(5)["2.weight"].equal(run(5, seed=4)["2.weight"])
