"""What is used of timm."""

from __future__ import annotations

from medlip.imports import without_compiler

with without_compiler():
    import timm
    from timm.layers import BatchNormAct2d, Conv2dSame, PatchEmbed, pad_same
    from timm.models.efficientnet import EfficientNetFeatures
    from timm.models.mobilenetv3 import MobileNetV3Features
    from timm.models.vision_transformer import Block, VisionTransformer

__all__ = [
    "BatchNormAct2d",
    "Block",
    "Conv2dSame",
    "EfficientNetFeatures",
    "MobileNetV3Features",
    "PatchEmbed",
    "VisionTransformer",
    "pad_same",
    "timm",
]
