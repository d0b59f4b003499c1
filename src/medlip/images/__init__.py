"""Files to pixels, pixels to tensors: reading, pre-processing, side-aware augmentation."""

from medlip.images.read import XRay, looks_like_image, read_image, read_xray, resize_short_side

__all__ = ["XRay", "looks_like_image", "read_image", "read_xray", "resize_short_side"]
