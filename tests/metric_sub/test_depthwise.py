"""The depthwise convolutions with quick gradients: against finite differences, float32, and sums by other functions."""

import copy
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import Conv2dSame
from torch import nn
from torch.nn import functional as F

from metric_sub.depthwise import DepthwiseConv2d, with_quick_gradients
from metric_sub.embedder import build_embedder
from metric_sub.train import training_network


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


def gradients_of(convolution, maps, towards):
    """Of the maps and of the parameters, one after the other, under autocast."""
    maps = maps.clone().requires_grad_(True)
    convolution.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        sums = convolution(maps)
    assert sums.dtype == torch.bfloat16
    sums.backward(towards.to(torch.bfloat16))
    return sums, [maps.grad, *(parameter.grad for parameter in convolution.parameters())]


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("same", [False, True])
def test_in_bfloat16_the_gradients_are_those_of_float32_but_for_rounding(kernel, stride, same):
    torch.manual_seed(0)
    padding = 0 if same else kernel // 2
    exact = (Conv2dSame if same else nn.Conv2d)(24, 24, kernel, stride, padding, groups=24)
    maps = torch.randn(4, 24, 15, 18).contiguous(memory_format=torch.channels_last).requires_grad_(True)
    sums = exact(maps)
    towards = torch.randn_like(sums)
    expected = torch.autograd.grad(sums, [maps, *exact.parameters()], towards)
    ours = DepthwiseConv2d(exact)
    found_sums, found = gradients_of(ours, maps.detach(), towards)
    assert found_sums.grad_fn.name() == "_DepthwiseBackward"  # it is ours, not torch's
    assert found[1].stride() == exact.weight.stride()
    for ours_is, should_be in zip([found_sums, *found], [sums, *expected], strict=True):
        assert (ours_is - should_be).norm() < 0.01 * should_be.norm()  # torch itself has 0.003


def test_a_network_that_trains_on_a_cpu_has_them_and_keeps_its_parameters(tiny_config):
    model = tiny_config.embedders[0].model_copy(update={"backbone": "tf_efficientnet_b0"})
    outputs = {}
    images = torch.rand(2, 3, 64, 64)
    for device in ("cpu", "cuda"):  # without a GPU: nothing is sent there
        torch.manual_seed(0)
        accelerator = SimpleNamespace(num_processes=1, device=torch.device(device))
        network = training_network(tiny_config, model, accelerator)
        replaced = [module for module in network.modules() if isinstance(module, DepthwiseConv2d)]
        assert len(replaced) == (11 if device == "cpu" else 0)  # nine blocks of 5 x 5, two of 3 x 3 with a stride
        plain = build_embedder(model, tiny_config.embed, load_pretrained=False)
        plain.load_state_dict(copy.deepcopy(network).state_dict())
        with torch.inference_mode():
            outputs[device] = network.eval()(images)
            assert torch.equal(outputs[device], plain.eval().to(memory_format=torch.channels_last)(images))
    assert torch.equal(*outputs.values())


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(4, 8, 5, groups=4),
        nn.Conv2d(4, 4, 5),
        nn.Conv2d(4, 4, 5, groups=4, dilation=2),
        nn.Conv2d(4, 4, 5, groups=4, padding_mode="reflect"),
        nn.Conv2d(4, 4, 5, groups=4, padding="same"),
        nn.Conv2d(4, 4, 5, groups=4, padding="valid"),
        nn.Conv2d(4, 4, 3, groups=4),
    ],
)
def test_other_convolutions_stay(convolution):
    assert with_quick_gradients(nn.Sequential(convolution))[0] is convolution


def test_what_needs_no_gradient_gets_none():
    convolution = DepthwiseConv2d(nn.Conv2d(4, 4, 5, groups=4, bias=False))
    maps = torch.randn(1, 4, 8, 8, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        convolution(maps).float().sum().backward()
    met = F.unfold(maps.float(), 5).view(4, 25, 16).sum(dim=2).view(4, 1, 5, 5)  # the sum of what each weight met
    torch.testing.assert_close(convolution.weight.grad, met, rtol=0.01, atol=0.05)
    convolution.weight.grad = None
    convolution.requires_grad_(False)
    maps.requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16):
        convolution(maps).float().sum().backward()
    assert convolution.weight.grad is None
    met = F.conv_transpose2d(torch.ones(1, 4, 4, 4), convolution.weight, groups=4)  # the sum of what each pixel met
    torch.testing.assert_close(maps.grad.float(), met, rtol=0.01, atol=0.01)
