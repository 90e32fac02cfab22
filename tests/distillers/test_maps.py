"""The pieces that methods on maps share."""

import pytest
import torch
import torch.nn.functional as F
from support.oracles import formula

from sdkd_plugin.distillers.maps import fitting_convolution, pool_pair, unit


def test_the_larger_map_is_pooled_whichever_it_is_and_equal_ones_are_left_alone():
    large, small = formula((2, 3, 4, 4), "a"), formula((2, 5, 2, 2), "b")
    corner = large[:, :, :2, :2].mean((2, 3))
    for pair, place in ((pool_pair(large, small), 0), (pool_pair(small, large), 1)):
        assert pair[place].shape == (2, 3, 2, 2) and pair[1 - place] is small
        torch.testing.assert_close(pair[place][:, :, 0, 0], corner)
    assert all(one is large for one in pool_pair(large, large))


def test_each_side_is_pooled_to_the_smaller_one():
    wide, high = pool_pair(formula((1, 1, 2, 4), "a"), formula((1, 1, 4, 2), "b"))
    assert wide.shape == high.shape == (1, 1, 2, 2)


def test_unit_is_torchs_normalize():
    x = formula((3, 4, 5), "x").requires_grad_()
    torch.testing.assert_close(unit(x), F.normalize(x, dim=-1), rtol=1e-14, atol=1e-15)
    assert torch.autograd.gradcheck(unit, x)


def test_a_row_without_direction_is_0_and_gets_no_gradient():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    rows = unit(x)
    torch.testing.assert_close(rows.detach(), torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
    (gradient,) = torch.autograd.grad(rows, x, torch.ones(2, 2))
    assert gradient[1].tolist() == [0, 0] and gradient[0].abs().min() > 0


@pytest.mark.parametrize(
    "own, theirs, kernel",
    [(8, 4, (3, 3)), (4, 8, (4, 4)), (4, 4, (1, 1)), (8, 5, (4, 4)), (8, 2, (7, 7))],
)
def test_the_convolution_reaches_the_teachers_shape(own, theirs, kernel):
    student, teacher = torch.Size((1, 3, own, own)), torch.Size((1, 5, theirs, theirs))
    convolution = fitting_convolution(student, teacher)
    assert convolution(torch.zeros(student)).shape == teacher
    assert convolution.kernel_size == kernel and convolution.bias is not None


def test_no_convolution_fits_a_student_map_much_smaller_than_the_teachers():
    assert fitting_convolution(torch.Size((1, 3, 4, 4)), torch.Size((1, 5, 16, 16))) is None
