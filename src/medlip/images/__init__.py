"""Files to pixels, pixels to tensors: reading, pre-processing, side-aware augmentation."""

from medlip.images.read import XRay, read_image, read_xray, resize_short_side

__all__ = ["XRay", "read_image", "read_xray", "resize_short_side"]
