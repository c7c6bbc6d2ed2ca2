"""A plain VoVNetV2 with detectron2's names, written from the paper's figures (Lee & Park 2020): a reference for tests.

Stem of three 3 x 3 convolutions, four stages of one-shot-aggregation blocks: each concatenates its input with the outputs of
a chain of 3 x 3 convolutions, joins them by a 1 x 1 convolution, weighs the channels by eSE, and from the second block of a
stage on adds its input.
"""

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional

SHAPES = {  # convolutions' channels per stage, blocks' channels, convolutions per block, blocks per stage
    "ese_vovnet19b_slim": ([64, 80, 96, 112], [112, 256, 384, 512], 3, [1, 1, 1, 1]),
    "ese_vovnet19b": ([128, 160, 192, 224], [256, 512, 768, 1024], 3, [1, 1, 1, 1]),
    "ese_vovnet39b": ([128, 160, 192, 224], [256, 512, 768, 1024], 5, [1, 1, 2, 2]),
    "ese_vovnet57b": ([128, 160, 192, 224], [256, 512, 768, 1024], 5, [1, 1, 4, 3]),
    "ese_vovnet99b": ([128, 160, 192, 224], [256, 512, 768, 1024], 5, [1, 3, 9, 3]),
}


def layer(name, n_in, n_out, kernel, stride=1):
    return [
        (f"{name}/conv", nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2, bias=False)),
        (f"{name}/norm", nn.BatchNorm2d(n_out)),
        (f"{name}/relu", nn.ReLU()),
    ]


class ESE(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        return x * functional.relu6(self.fc(x.mean(dim=(2, 3), keepdim=True)) + 3) / 6


class Block(nn.Module):
    def __init__(self, name, n_in, n_mid, n_out, n_layers, adds):
        super().__init__()
        ins = [n_in] + [n_mid] * (n_layers - 1)
        self.layers = nn.ModuleList(
            nn.Sequential(OrderedDict(layer(f"{name}_{k}", channels, n_mid, 3))) for k, channels in enumerate(ins)
        )
        self.concat = nn.Sequential(OrderedDict(layer(f"{name}_concat", n_in + n_layers * n_mid, n_out, 1)))
        self.ese = ESE(n_out)
        self.adds = adds

    def forward(self, x):
        outputs = [x]
        for each in self.layers:
            outputs.append(each(outputs[-1]))
        y = self.ese(self.concat(torch.cat(outputs, dim=1)))
        return y + x if self.adds else y


class VoVNet(nn.Module):
    def __init__(self, name):
        super().__init__()
        mids, outs, n_layers, n_blocks = SHAPES[name]
        stem = [*layer("stem_1", 3, 64, 3, 2), *layer("stem_2", 64, 64, 3), *layer("stem_3", 64, 128, 3, 2)]
        self.stem = nn.Sequential(OrderedDict(stem))
        ins = [128, *outs[:-1]]
        for k, (n_in, n_mid, n_out, count) in enumerate(zip(ins, mids, outs, n_blocks, strict=True)):
            blocks = [("Pooling", nn.MaxPool2d(3, 2, ceil_mode=True))] if k else []
            for b in range(count):
                block = f"OSA{k + 2}_{b + 1}"
                blocks.append((block, Block(block, n_out if b else n_in, n_mid, n_out, n_layers, adds=b > 0)))
            self.add_module(f"stage{k + 2}", nn.Sequential(OrderedDict(blocks)))

    def forward(self, x):
        x, levels = self.stem(x), {}
        for k in range(2, 6):
            x = levels[f"stage{k}"] = getattr(self, f"stage{k}")(x)
        return levels
