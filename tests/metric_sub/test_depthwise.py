"""The depthwise convolutions with quick gradients: against finite differences, torch's own, and float32."""

import copy

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import Conv2dSame
from torch import nn
from torch.nn import functional as F

from metric_sub.depthwise import DepthwiseConv2d, with_quick_gradients


@settings(max_examples=40, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    more=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    same=st.booleans(),
    bias=st.booleans(),
)
def test_every_gradient_is_that_of_finite_differences(kernel, stride, more, same, bias):
    torch.manual_seed(0)
    padding = 0 if same else (kernel[0] // 2, kernel[1] // 2)
    convolution = (Conv2dSame if same else nn.Conv2d)(3, 3, kernel, stride, padding, groups=3, bias=bias).double()
    maps = torch.randn(2, 3, kernel[0] + more[0], kernel[1] + more[1], dtype=torch.double, requires_grad=True)
    ours = DepthwiseConv2d(convolution)
    assert torch.equal(ours(maps), convolution(maps))

    def of(maps, *parameters):
        return torch.func.functional_call(ours, dict(zip(("weight", "bias"), parameters, strict=False)), maps)

    assert torch.autograd.gradcheck(of, (maps, *convolution.parameters()))


def gradients(network, images, bfloat16):
    network.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        features = network(images)
    (features.float() * torch.linspace(-1, 1, features.shape[1])).sigmoid().sum().backward()
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters()])


def test_a_network_keeps_its_parameters_and_learns_the_same():
    torch.manual_seed(0)
    images = torch.randn(8, 3, 64, 64)
    plain = timm.create_model("tf_efficientnet_b0", num_classes=0).train()
    quick = with_quick_gradients(copy.deepcopy(plain))
    assert list(quick.state_dict()) == list(plain.state_dict())
    replaced = [module for module in quick.modules() if isinstance(module, DepthwiseConv2d)]
    assert len(replaced) == 11  # of 16 blocks 5 x 5: nine; 3 x 3 with a stride: blocks 2 and 4
    assert {id(p) for module in replaced for p in module.parameters()} <= {id(p) for p in quick.parameters()}
    exact = gradients(plain, images, bfloat16=False)
    assert torch.equal(gradients(quick, images, bfloat16=False), exact)
    rounded = {name: gradients(net, images, bfloat16=True) for name, net in (("plain", plain), ("quick", quick))}
    error = {name: float((found - exact).norm() / exact.norm()) for name, found in rounded.items()}
    assert 0 < error["quick"] < 1.1 * error["plain"]


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(4, 8, 5, groups=4),
        nn.Conv2d(4, 4, 5),
        nn.Conv2d(4, 4, 5, groups=4, dilation=2),
        nn.Conv2d(4, 4, 5, groups=4, padding_mode="reflect"),
        nn.Conv2d(4, 4, 3, groups=4),
    ],
)
def test_other_convolutions_stay(convolution):
    assert with_quick_gradients(nn.Sequential(convolution))[0] is convolution


def test_what_needs_no_gradient_gets_none():
    convolution = DepthwiseConv2d(nn.Conv2d(4, 4, 5, groups=4))
    maps = torch.randn(1, 4, 8, 8, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        convolution(maps).float().sum().backward()
    assert maps.grad is None
    expected = F.unfold(maps.float(), 5).view(4, 25, 16).sum(2).view(4, 1, 5, 5)  # what each weight met
    torch.testing.assert_close(convolution.weight.grad, expected, rtol=0.01, atol=0.05)
    convolution.requires_grad_(False)
    maps.requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16):
        convolution(maps).float().sum().backward()
    assert maps.grad.shape == maps.shape
