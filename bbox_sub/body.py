"""The detector's body: a VoVNetV2 (Lee & Park 2020) from timm, its weights from timm, a file, or detectron2."""

from functools import partial

import timm
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import BatchNormAct2d, GroupNormAct, create_attn, freeze_batch_norm_2d
from timm.models.vovnet import VovNet, model_cfgs
from torch import Tensor, nn

from bbox_sub.detectron2_names import BODY, from_detectron2, is_detectron2
from shared.config import Detector
from shared.errors import UserError
from shared.weights import fill_backbone

NORMS = {  # groups of 16 channels: all VoVNets' widths are multiples
    "batch": BatchNormAct2d,
    "frozen": BatchNormAct2d,  # and frozen when its weights are in
    "group": partial(GroupNormAct, group_size=16),
}
HAS_OWN_NORM = "ese_vovnet39b_evos"  # timm's function gives it EvoNorms, and a second norm_layer would be a TypeError


def build_body(config: Detector, load_pretrained: bool) -> nn.Module:
    """timm's VoVNet without its classifier. Raises UserError for an unknown backbone and for weights that do not fit."""
    name, options = config.backbone, {"num_classes": 0, "global_pool": "", "norm_layer": NORMS[config.norm]}
    known = {*timm.list_models("*vovnet*"), *model_cfgs} - {HAS_OWN_NORM}
    tagged = timm.is_model(name) and name.partition(".")[0] in known  # behind a dot may stand the tag of weights
    if name not in known and not tagged:
        raise UserError(f"detector.backbone: expected a VoVNet that timm has ({', '.join(sorted(known))}), found {name!r}.")
    try:
        # timm describes ese_vovnet19b and has no function that makes it
        body = timm.create_model(name, **options) if timm.is_model(name) else VovNet(model_cfgs[name], **options)
    except (RuntimeError, ValueError) as error:  # the name is known, the tag after its dot is not
        raise UserError(f"detector.backbone: {config.backbone!r}: {error}") from None
    body.head = nn.Identity()
    if config.ese_in_every_block:
        _add_ese(body)
    if load_pretrained:
        fill_backbone(body, config.backbone, config.pretrained, "detector.pretrained", "bbox_sub/pretrained", _body_of)
    if config.norm == "frozen":
        body = freeze_batch_norm_2d(body)
    return body


def preprocessing(config: Detector) -> dict:
    """What model.json says of the pixels that the network takes: mean and std of RGB in 0..1 (timm's for the backbone; ImageNet's for a
    VoVNet with eSE in every block, which is detectron2's), and the order."""
    mean, std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    if not config.ese_in_every_block:
        data = timm.get_pretrained_cfg(config.backbone)
        mean, std = (data.mean, data.std) if data else (mean, std)
    return {"mean": list(mean), "std": list(std), "order": "RGB, 0..1, normalised inside the model"}


def _body_of(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The body's weights of a file under timm's names, be it a detectron2 VoVNet or a timm one."""
    if not is_detectron2(state):
        return state
    renamed = from_detectron2(state)
    return {name.removeprefix(BODY): value for name, value in renamed.items() if name.startswith(BODY)}


def _add_ese(body: nn.Module) -> None:
    """eSE on the blocks that lack it: the detectron2 VoVNets have it in every block, timm's in a stage's last."""
    for stage in body.stages:
        for block in stage.blocks:
            if block.attn is None:
                block.attn = create_attn("ese", block.conv_concat.conv.out_channels)
