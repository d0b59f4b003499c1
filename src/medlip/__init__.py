"""MedLIP: fine-grained medical language-image pre-training."""
