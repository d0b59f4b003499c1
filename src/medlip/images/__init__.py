"""Files to pixels, pixels to tensors: reading, pre-processing, side-aware augmentation."""
