"""RoIAlign by look-up against torchvision's operator."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import roi_align

from bbox_sub.pooling import pool_boxes

SIDE = 7


def by_torchvision(level, boxes, stride):
    pooled = roi_align(level.permute(2, 0, 1)[None], [boxes], SIDE, 1 / stride, sampling_ratio=0, aligned=True)
    return pooled.flatten(2).transpose(1, 2)  # (N, 49, C)


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


def test_a_box_gives_the_same_bits_in_any_company():
    generator = torch.Generator().manual_seed(2)
    corners = torch.rand(40, 2, 2, generator=generator) * 200
    boxes = torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)
    level = random_level(50, 50)
    together = pool_boxes(level, boxes, 4, SIDE)
    assert all(torch.equal(pool_boxes(level, boxes[k : k + 1], 4, SIDE)[0], together[k]) for k in range(len(boxes)))


def test_no_boxes():
    assert pool_boxes(random_level(4, 4), torch.zeros(0, 4), 4, SIDE).shape == (0, SIDE * SIDE, 5)
