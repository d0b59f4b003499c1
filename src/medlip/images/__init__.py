"""Files to pixels, pixels to tensors: reading, pre-processing, side-aware augmentation."""

from medlip.images.read import read_image, resize_short_side

__all__ = ["read_image", "resize_short_side"]
