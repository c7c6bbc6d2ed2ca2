"""How the plain sides pool boxes: by torchvision's operator, where our detector looks them up on a CPU."""

from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from bbox_sub.rcnn import BoxPool


class OperatorPool(BoxPool):
    def pool_from(self, level: Tensor, picture_of: Tensor, boxes_xyxy: Tensor, stride: int) -> Tensor:
        return self.pool_by_operator(level, picture_of, boxes_xyxy, stride)


def pooling_plainly(network: nn.Module) -> nn.Module:
    """The network, changed in place where it is ours: detectron2's pools by an operator of its own."""
    if isinstance(network, GeneralizedRCNN):
        network.roi_heads.box_roi_pool = OperatorPool(network.roi_heads.box_roi_pool.side)
    return network
