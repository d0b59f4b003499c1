"""Files to pixels, pixels to tensors: reading, pre-processing, side-aware augmentation."""

from medlip.images.read import DeepXRay, XRay, looks_like_image, read_deep, read_image, read_xray, resize_short_side

__all__ = ["DeepXRay", "XRay", "looks_like_image", "read_deep", "read_image", "read_xray", "resize_short_side"]
