"""Depthwise convolutions whose gradients in bfloat16 are quick on a CPU.

oneDNN computes well what is of 3 x 3 and has no stride. For the gradient of larger kernels, and that of maps behind a stride, it takes
code for convolutions in general, half of a training step of an EfficientNet-B5. Here the first is written as a depthwise
convolution, and the second is computed in float32, for which oneDNN has a kernel.
"""

import torch
from timm.layers import Conv2dSame, pad_same
from torch import Tensor, nn
from torch.nn import functional as F

LARGEST = 3  # the side of a kernel whose gradient oneDNN computes well


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, maps: Tensor, kernels: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]
    ) -> Tensor:
        ctx.save_for_backward(maps, kernels)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(maps, kernels, bias, stride, padding, groups=len(kernels))

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        maps, kernels = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_maps = of_kernels = of_bias = None
        if ctx.needs_input_grad[0]:
            of_maps = _of_maps(gradient, maps, kernels, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[1]:
            gradient_of = _of_large_kernels if max(kernels.shape[2:]) > LARGEST else _of_small_kernels
            of_kernels = torch.empty_like(kernels).copy_(gradient_of(gradient, maps, kernels, ctx.stride, ctx.padding))
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum(dim=(0, 2, 3))
        return of_maps, of_kernels, of_bias, None, None


def _of_maps(
    gradient: Tensor, maps: Tensor, kernels: Tensor, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """(B, C, H, W), in the maps' dtype."""
    dtype = maps.dtype
    if max(stride) > 1:
        exact = torch.promote_types(dtype, torch.float32)
        gradient, kernels = gradient.to(exact), kernels.to(exact)
    return nn.grad.conv2d_input(maps.shape, kernels, gradient, stride, padding, groups=len(kernels)).to(dtype)


def _of_small_kernels(
    gradient: Tensor, maps: Tensor, kernels: Tensor, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """(C, 1, h, w), by torch."""
    return nn.grad.conv2d_weight(maps, kernels.shape, gradient, stride, padding, groups=len(kernels))


def _of_large_kernels(
    gradient: Tensor, maps: Tensor, kernels: Tensor, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """(C, 1, h, w): the maps convolved by the gradient, which the stride spreads out as a dilation.

    Every map of every picture is a channel of its own; the sum over the batch comes last.
    """
    n_maps, channels = maps.shape[:2]
    height, width = kernels.shape[2:]
    products = F.conv2d(
        _as_channels(maps)[None],
        _as_channels(gradient)[:, None],
        padding=padding,
        dilation=stride,
        groups=n_maps * channels,
    )[..., :height, :width]  # what lies behind comes of rows that the stride leaves over
    return products.reshape(n_maps, channels, 1, height, width).sum(dim=0)


def _as_channels(maps: Tensor) -> Tensor:
    """(B, C, H, W) -> (B * C, H, W) with the channels last in memory."""
    n_maps, channels, height, width = maps.shape
    return maps.permute(2, 3, 0, 1).reshape(height, width, n_maps * channels).permute(2, 0, 1)


class DepthwiseConv2d(nn.Conv2d):
    """The depthwise convolution `of`, with its parameters, for maps (B, C, H, W), B >= 1; in float32 torch computes its gradients."""

    def __init__(self, of: nn.Conv2d):
        super().__init__(
            of.in_channels,
            of.out_channels,
            of.kernel_size,
            of.stride,
            of.padding,
            groups=of.groups,
            bias=of.bias is not None,
            device="meta",
        )
        self.weight, self.bias = of.weight, of.bias
        self._same = isinstance(of, Conv2dSame)

    def forward(self, maps: Tensor) -> Tensor:
        if self._same:
            maps = pad_same(maps, self.kernel_size, self.stride)
        kind = maps.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else maps.dtype
        padding = (0, 0) if self._same else self.padding
        if dtype == torch.float32:
            return F.conv2d(maps, self.weight, self.bias, self.stride, padding, groups=self.groups)
        bias = None if self.bias is None else self.bias.to(dtype)
        return _Depthwise.apply(maps.to(dtype), self.weight.to(dtype), bias, self.stride, padding)  # (B, C, h, w)


def with_quick_gradients(network: nn.Module) -> nn.Module:
    """The network, its depthwise convolutions of more than 3 x 3, or with a stride, replaced; parameters and their names stay."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if type(child) in (nn.Conv2d, Conv2dSame) and _gains(child):
                setattr(parent, name, DepthwiseConv2d(child))
    return network


def _gains(convolution: nn.Conv2d) -> bool:
    depthwise = convolution.groups == convolution.in_channels == convolution.out_channels > 1
    padded_by_zeros = convolution.padding_mode == "zeros" and not isinstance(convolution.padding, str)
    plain = padded_by_zeros and set(convolution.dilation) == {1}
    return depthwise and plain and (max(convolution.kernel_size) > LARGEST or max(convolution.stride) > 1)
