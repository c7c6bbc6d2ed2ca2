"""Between our state dict of a detector and detectron2's: names, the place of the background class, and the input's form.

detectron2's VoVNets (vovnet-detectron2) call a weight stage3.OSA3_2.layers.4.OSA3_2_4/conv.weight where timm has
stages.1.blocks.1.conv_mid.4.conv.weight. Their classifier has the background last, torchvision's first; their box regressor
has no background. They take BGR of 0..255 with PIXEL_MEAN subtracted, ours take RGB of 0..1, normalised: the first
convolution's weights take up the difference, so that the features are the same.
"""

import re

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from shared.errors import UserError

BODY = "backbone.body."
STEM = "stem.0.conv.weight"
CLASSES = ("roi_heads.box_predictor.cls_score.", "roi_heads.box_predictor.bbox_pred.")
CONSTANTS = re.compile(r"(.*\.)?(num_batches_tracked|anchor_generator\.cell_anchors\.\d+)|pixel_mean|pixel_std")
VOVNETS = (
    "ese_vovnet19b_slim",
    "ese_vovnet19b",
    "ese_vovnet39b",
    "ese_vovnet57b",
    "ese_vovnet99b",
)  # that detectron2 has too
PARTS = {  # of the network behind the body: ours -> detectron2's
    **{f"backbone.pyramid.inner_blocks.{k}.0.": f"backbone.fpn_lateral{k + 2}." for k in range(4)},
    **{f"backbone.pyramid.layer_blocks.{k}.0.": f"backbone.fpn_output{k + 2}." for k in range(4)},
    "rpn.head.conv.0.0.": "proposal_generator.rpn_head.conv.",
    "rpn.head.cls_logits.": "proposal_generator.rpn_head.objectness_logits.",
    "rpn.head.bbox_pred.": "proposal_generator.rpn_head.anchor_deltas.",
    "roi_heads.box_head.fc6.": "roi_heads.box_head.fc1.",
    "roi_heads.box_head.fc7.": "roi_heads.box_head.fc2.",
    **{name: name for name in CLASSES},
}


def from_detectron2(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A detectron2 checkpoint's weights under our names: the body's begin with backbone.body., be the file a body alone or all.

    Names that are not known stay as they are; constants that our network computes (anchors, pixel_mean, pixel_std) and
    counters are left out. Raises UserError for a pixel_mean that is not ImageNet's, which the first convolution cannot take up.
    """
    std = _deviation(state)
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        if CONSTANTS.fullmatch(name):
            continue
        place = next((ours for ours, theirs in PARTS.items() if name.startswith(theirs)), None)
        if place and value.ndim:
            renamed[place + name.removeprefix(PARTS[place])] = background_first(name, value)
        else:
            renamed[BODY + timm_name(name.removeprefix("backbone.").removeprefix("bottom_up."))] = value
    if BODY + STEM in renamed and renamed[BODY + STEM].shape[1:2] == (3,) and renamed[BODY + STEM].ndim == 4:
        scale = 255 * torch.tensor(IMAGENET_DEFAULT_STD) / std
        renamed[BODY + STEM] = renamed[BODY + STEM][:, [2, 1, 0]] * scale.view(1, 3, 1, 1)
    return renamed


def to_detectron2(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our detector's weights under detectron2's names, for its input (BGR, PIXEL_MEAN ImageNet's, PIXEL_STD 1): `from_detectron2` undone."""
    renamed = {}
    for name, value in state.items():
        if CONSTANTS.fullmatch(name):
            continue
        if name.startswith(BODY):
            name = name.removeprefix(BODY)
            if name == STEM:
                value = (value / (255 * torch.tensor(IMAGENET_DEFAULT_STD)).view(1, 3, 1, 1))[:, [2, 1, 0]]
            renamed[f"backbone.bottom_up.{vovnet_name(name)}"] = value.contiguous()
        else:
            place = next(ours for ours in PARTS if name.startswith(ours))
            renamed[PARTS[place] + name.removeprefix(place)] = background_last(name, value)
    return renamed


def timm_name(name: str) -> str:
    """timm's name of a detectron2 VoVNet's weight; a name of another form stays."""
    name = name.replace("/norm.", "/bn.")
    if match := re.fullmatch(r"stem\.stem_(\d)/(.+)", name):
        return f"stem.{int(match[1]) - 1}.{match[2]}"
    if match := re.fullmatch(r"stage(\d)\.OSA\d_(\d+)\.(?:layers\.(\d+)|(concat))\.[^/]+/(.+)", name):
        inner = f"conv_mid.{match[3]}" if match[3] else "conv_concat"
        return f"stages.{int(match[1]) - 2}.blocks.{int(match[2]) - 1}.{inner}.{match[5]}"
    if match := re.fullmatch(r"stage(\d)\.OSA\d_(\d+)\.ese\.(fc\..+)", name):
        return f"stages.{int(match[1]) - 2}.blocks.{int(match[2]) - 1}.attn.{match[3]}"
    return name


def vovnet_name(name: str) -> str:
    """The detectron2 VoVNet's name of a weight of timm's."""
    name = name.replace(".conv.weight", "/conv.weight").replace(".bn.", "/norm.")
    if match := re.fullmatch(r"stem\.(\d)(/.+)", name):
        return f"stem.stem_{int(match[1]) + 1}{match[2]}"
    match = re.fullmatch(r"stages\.(\d)\.blocks\.(\d+)\.(?:conv_mid\.(\d+)|(conv_concat)|attn)([/.].+)", name)
    stage, block = int(match[1]) + 2, int(match[2]) + 1
    place = f"stage{stage}.OSA{stage}_{block}"
    if match[3]:
        return f"{place}.layers.{match[3]}.OSA{stage}_{block}_{match[3]}{match[5]}"
    return f"{place}.concat.OSA{stage}_{block}_concat{match[5]}" if match[4] else f"{place}.ese{match[5]}"


def is_detectron2(state: dict[str, Tensor]) -> bool:
    """Whether the names are those of a detectron2 VoVNet, alone or in a detector."""
    return any("/conv." in name for name in state)


def _deviation(state: dict[str, Tensor]) -> Tensor:
    """What the checkpoint divides the pixels by, RGB (3,); where it does not say, detectron2's 1."""
    mean = state.get("pixel_mean")
    for name, fits, words in (("pixel_mean", torch.isfinite, "numbers"), ("pixel_std", lambda value: value > 0, "numbers above 0")):
        if name in state and (state[name].numel() != 3 or not fits(state[name]).all()):
            raise UserError(f"{name}: expected three {words}, found {state[name].flatten()[:5].tolist()} ({tuple(state[name].shape)}).")
    expected = 255 * torch.tensor(IMAGENET_DEFAULT_MEAN)
    if mean is not None and not torch.allclose(mean.flatten().float(), expected.flip(0), atol=0.01):
        raise UserError(
            f"pixel_mean: expected ImageNet's, in BGR ({expected.flip(0).tolist()}), found {mean.flatten().tolist()}: "
            "our networks subtract that mean."
        )
    return state["pixel_std"].flatten().float().flip(0) if "pixel_std" in state else torch.ones(3)


def background_first(name: str, value: Tensor) -> Tensor:
    """detectron2's predictor rows as torchvision has them: the background's first; boxes of the background are zeros.

    `name` tells the two layers of the predictor (called alike in both); other weights stay.
    """
    if name.startswith(CLASSES[0]):
        return torch.cat([value[-1:], value[:-1]])
    return torch.cat([torch.zeros_like(value[:4]), value]) if name.startswith(CLASSES[1]) else value


def background_last(name: str, value: Tensor) -> Tensor:
    """`background_first` undone."""
    if name.startswith(CLASSES[0]):
        return torch.cat([value[1:], value[:1]])
    return value[4:] if name.startswith(CLASSES[1]) else value
