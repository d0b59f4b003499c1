"""Images to patch tokens, of all patches or of the visible ones alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import timm
import torch
from timm.layers import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import interpolate

from medlip.errors import MedLIPError
from medlip.nn.image_encoder import ImageEncoder, load_backbone


class PatchEncoder(nn.Module):
    """A timm vision transformer that computes visible patches alone, or any other backbone's locations as patches.

    A transformer's positions are fixed sines and cosines. A convolutional backbone can't leave patches out: hidden ones are
    grey in its input, and their locations are dropped from its output. The statistics of its batch normalisation are never
    those of masked images, for it is used on whole ones: they stay as they came with given weights; from random weights,
    each step looks at the whole images, too.

    Args:
        backbone: name of a timm model.
        image_size: side of the input in pixels, a multiple of the patch.
        patch: side of a patch in pixels; None for the transformer's own, 16 for other backbones.
        depth: transformer blocks; None for the model's own.
        weights: initial weights, as `ImageEncoder` takes them. Of a transformer's, the positions are not needed.

    Raises:
        MedLIPError: timm does not know the backbone, the size is no multiple of the patch, or the weights can't be had.
    """

    def __init__(
        self,
        backbone: str = "vit_base_patch16_224",
        image_size: int = 224,
        *,
        patch: int | None = None,
        depth: int | None = None,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        self.transformer: Any = None
        self.keeps_statistics = False
        self.convolutions: ImageEncoder | None = None
        if backbone.startswith("vit_") and timm.is_model(backbone):
            self.transformer = _transformer(backbone, image_size, patch, depth, weights)
            if weights and weights != "timm":
                load_backbone(self.transformer, weights, "pos_embed")
            self.patch: int = self.transformer.patch_embed.patch_size[0]
            self.width: int = self.transformer.num_features
        else:
            if depth is not None:
                raise MedLIPError(
                    f"backbone {backbone!r} is no vision transformer, so it takes no depth={depth}. Leave it out."
                )
            self.patch = patch or 16
            self.convolutions = ImageEncoder(backbone, self.patch, weights)
            self.keeps_statistics = weights is not None
            self.width = self.convolutions.width
        if image_size % self.patch:
            raise MedLIPError(f"image size {image_size} is no multiple of the patch of {self.patch} px. Change one of them.")
        side = image_size // self.patch
        self.grid = (side, side)
        self.patches = side * side
        if self.transformer is not None:
            self.transformer.pos_embed = None  # learned ones give way to fixed ones
            self.register_buffer("positions", sine_cosine_positions(side, self.width), persistent=False)

    def forward(self, images: Tensor, visible: Tensor | None = None) -> Tensor:
        """Encode images (B, 3, S, S), or of each only the patches `visible` (B, n): tokens (B, n, width), in that order."""
        if self.transformer is None:
            assert self.convolutions is not None
            if visible is None:
                tokens, _ = self.convolutions(images)
                return cast("Tensor", tokens)
            if self.training and not self.keeps_statistics:
                with torch.no_grad():
                    self.convolutions(images)  # whole images, whose statistics are the ones to keep
            with self._statistics_kept():
                tokens, _ = self.convolutions(images * self._pixels(visible).to(images.dtype))
            return take(tokens, visible)
        return self._patches(self.transformer.blocks(self._embed(images, visible)))

    @property
    def widths(self) -> list[int]:
        """Channels of the `pyramid`."""
        return self.convolutions.widths if self.convolutions is not None else [self.width] * len(self._tapped())

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """Return features (B, `widths[i]`, h, w) of several depths, the last those of all patches as `forward` gives them.

        A transformer gives a third, half, two thirds and all of its blocks, all of one grid; other backbones their stages,
        the finest first.
        """
        if self.convolutions is not None:
            return self.convolutions.pyramid(images)
        tokens, depths = self._embed(images), []
        for depth, block in enumerate(self.transformer.blocks, 1):
            tokens = block(tokens)
            if depth in self._tapped():
                depths.append(self._patches(tokens).transpose(1, 2).reshape(len(images), self.width, *self.grid))
        return depths

    def _tapped(self) -> list[int]:
        depth = len(self.transformer.blocks)
        return sorted({max(1, round(depth * share)) for share in (1 / 3, 1 / 2, 2 / 3, 1)})

    def _embed(self, images: Tensor, visible: Tensor | None = None) -> Tensor:
        """Return what the first block gets: a class token, if there is one, and the patches with their positions."""
        vit = self.transformer
        tokens: Tensor = vit.patch_embed(images) + self.get_buffer("positions").to(images.dtype)
        if visible is not None:
            tokens = take(tokens, visible)
        if vit.cls_token is not None:
            tokens = torch.cat([vit.cls_token.to(tokens.dtype).expand(len(tokens), -1, -1), tokens], 1)
        return cast("Tensor", vit.norm_pre(tokens))

    def _patches(self, tokens: Tensor) -> Tensor:
        return cast("Tensor", self.transformer.norm(tokens))[:, int(self.transformer.cls_token is not None) :]

    def train(self, mode: bool = True) -> PatchEncoder:
        """Switch between training and use, statistics that are to be kept aside."""
        super().train(mode)
        if self.keeps_statistics:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    @contextmanager
    def _statistics_kept(self) -> Iterator[None]:
        layers = [module for module in self.modules() if isinstance(module, nn.BatchNorm2d)]
        momenta = [layer.momentum for layer in layers]
        for layer in layers:
            layer.momentum = 0.0
        try:
            yield
        finally:
            for layer, momentum in zip(layers, momenta, strict=True):
                layer.momentum = momentum

    def _pixels(self, visible: Tensor) -> Tensor:
        """Return (B, 1, S, S): 1 where a pixel's patch is visible, else 0 (mean grey of a normalised image)."""
        shown = visible_map(visible, self.patches).view(-1, 1, *self.grid).float()
        return interpolate(shown, scale_factor=self.patch, mode="nearest")


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


def draw_visible(batch: int, patches: int, ratio: float, generator: torch.Generator) -> Tensor:
    """Draw which patches of each of B images stay visible: (B, n), rising, n = patches * (1 - ratio) but at least 1."""
    keep = max(1, int(patches * (1 - ratio) + 1e-6))
    return torch.rand(batch, patches, generator=generator).argsort(1)[:, :keep].sort(1).values


def visible_map(visible: Tensor, patches: int) -> Tensor:
    """Return bool (B, patches): True for the patches listed in `visible` (B, n)."""
    shown = torch.zeros(len(visible), patches, dtype=torch.bool, device=visible.device)
    return shown.scatter_(1, visible, True)


def take(tokens: Tensor, indices: Tensor) -> Tensor:
    """Return the tokens (B, n, W) at `indices` (B, n) of (B, N, W)."""
    return tokens.gather(1, indices[..., None].expand(-1, -1, tokens.shape[2]))


def sine_cosine_positions(side: int, width: int) -> Tensor:
    """Return fixed positions (side * side, width) of a square grid: half the channels for the column, half for the row.

    They are those of the masked autoencoder (He et al., 2022), so that its weights fit.
    """
    quarter = width // 4
    rates = 10000 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.arange(side, dtype=torch.float64)[:, None] * rates
    waves = torch.cat([angles.sin(), angles.cos()], 1)  # (side, 2 * quarter)
    positions = torch.zeros(side, side, width, dtype=torch.float64)
    positions[..., : 2 * quarter] = waves[None]
    positions[..., 2 * quarter : 4 * quarter] = waves[:, None]
    return positions.flatten(0, 1).float()
