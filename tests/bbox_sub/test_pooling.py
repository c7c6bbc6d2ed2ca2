"""RoIAlign by look-up against torchvision's operator."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import roi_align

from bbox_sub import pooling

SIDE = 7


def by_torchvision(level, boxes, stride):
    pooled = roi_align(level.permute(2, 0, 1)[None], [boxes], SIDE, 1 / stride, sampling_ratio=0, aligned=True)
    return pooled.flatten(2).transpose(1, 2)  # (N, 49, C)


def pool_boxes(level, boxes, stride, side):
    """Boxes of a single picture."""
    return pooling.pool_boxes(level[None], torch.zeros(len(boxes), dtype=torch.int64), boxes, stride, side)


def random_level(height, width, channels=5, seed=0):
    return torch.randn(height, width, channels, generator=torch.Generator().manual_seed(seed))


coordinate = st.floats(-20, 250, width=32)
box = st.tuples(coordinate, coordinate, st.floats(0, 300, width=32), st.floats(0, 300, width=32)).map(
    lambda each: (each[0], each[1], each[0] + each[2], each[1] + each[3])
)


@given(st.lists(box, min_size=1, max_size=6), st.sampled_from([4, 8, 32]), st.integers(1, 40), st.integers(1, 40))
def test_the_numbers_of_torchvision(boxes, stride, height, width):
    level, boxes = random_level(height, width), torch.tensor(boxes)
    pooled = pool_boxes(level, boxes, stride, SIDE)
    # A sample on the rim of what counts (-1 or the map's size) falls to one side or the other by its last bit.
    assert torch.allclose(pooled, by_torchvision(level, boxes, stride), atol=2e-3)


@pytest.mark.parametrize("height, width", [(1, 1), (1, 30), (30, 1), (38, 68)])
def test_boxes_inside_the_picture_to_the_last_digits(height, width):
    generator = torch.Generator().manual_seed(1)
    corners = torch.rand(300, 2, 2, generator=generator) * torch.tensor([width * 16.0, height * 16.0])
    boxes = torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)
    level = random_level(height, width)
    assert torch.allclose(pool_boxes(level, boxes, 16, SIDE), by_torchvision(level, boxes, 16), atol=1e-4)


def test_a_plane_is_read_off_at_the_bins_centres():
    y, x = torch.meshgrid(torch.arange(20.0), torch.arange(30.0), indexing="ij")
    level = torch.stack([x, y], dim=2)
    pooled = pool_boxes(level, torch.tensor([[16.0, 24.0, 72.0, 52.0]]), 4, SIDE)[0].reshape(SIDE, SIDE, 2)
    centres = torch.arange(SIDE) + 0.5  # cells are 4 px, and the first one's centre is at 2 px
    assert torch.allclose(pooled[0, :, 0], (16 + 8 * centres) / 4 - 0.5, atol=1e-5)
    assert torch.allclose(pooled[:, 0, 1], (24 + 4 * centres) / 4 - 0.5, atol=1e-5)


def test_any_order_names_the_box_of_each_row():
    generator = torch.Generator().manual_seed(2)
    corners = torch.rand(40, 2, 2, generator=generator) * 90
    boxes = torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)
    maps = random_level(20, 25)[None]
    pooled, box_of = pooling.pool_in_any_order(maps, torch.zeros(40, dtype=torch.int64), boxes, 4, SIDE)
    assert sorted(box_of.tolist()) == list(range(40)) != box_of.tolist()
    assert torch.allclose(pooled, by_torchvision(maps[0], boxes, 4)[box_of], atol=1e-4)


def test_a_box_gives_the_same_bits_in_any_company():
    boxes, level = many_boxes(40, 200.0, seed=2), random_level(50, 50)
    together = pool_boxes(level, boxes, 4, SIDE)
    assert all(torch.equal(pool_boxes(level, boxes[k : k + 1], 4, SIDE)[0], together[k]) for k in range(len(boxes)))


def test_no_boxes():
    assert pool_boxes(random_level(4, 4), torch.zeros(0, 4), 4, SIDE).shape == (0, SIDE * SIDE, 5)


def many_boxes(n_boxes, size, seed):
    corners = torch.rand(n_boxes, 2, 2, generator=torch.Generator().manual_seed(seed)) * size
    return torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)


def test_several_pictures_and_the_gradient_of_torchvision():
    """Maps of three pictures, channels last as a network leaves them; the sum of all that both give, weighted at random."""
    boxes, picture_of = many_boxes(60, 220.0, seed=3), torch.arange(60) % 3
    maps = torch.stack([random_level(52, 50, seed=k) for k in range(3)]).requires_grad_()
    pooled = pooling.pool_boxes(maps, picture_of, boxes, 4, SIDE)
    upstream = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(4))
    [gradient] = torch.autograd.grad((pooled * upstream).sum(), maps)
    rois = torch.cat([picture_of[:, None].float(), boxes], dim=1)
    expected = roi_align(maps.permute(0, 3, 1, 2), rois, SIDE, 1 / 4, sampling_ratio=0, aligned=True)
    expected = expected.flatten(2).transpose(1, 2)
    [expected_gradient] = torch.autograd.grad((expected * upstream).sum(), maps)
    assert torch.allclose(pooled, expected, atol=1e-5)
    assert torch.allclose(gradient, expected_gradient, atol=1e-5) and gradient.abs().max() > 0.1


def test_boxes_get_no_gradient():
    boxes = many_boxes(5, 60.0, seed=5).requires_grad_()
    assert not pool_boxes(random_level(20, 20), boxes, 4, SIDE).requires_grad


def test_boxes_off_the_map_give_zeros():
    boxes = torch.tensor([[500.0, 500.0, 600.0, 600.0], [-90.0, -90.0, -40.0, -40.0], [3.0, 3.0, 3.0, 9.0]])
    assert not pool_boxes(random_level(20, 20), boxes, 4, SIDE).any()
