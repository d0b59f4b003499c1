"""Losses as pure functions of tensors, one a file, each with its paper, its shapes, an example and a plain reference.

None changes its arguments; where there is nothing to learn from, a loss is 0 with gradient 0. Optimal transport, whose
similarity MLIP contrasts, is in `medlip.nn.transport`.
"""

from medlip.losses.existence import existence_labels, existence_loss
from medlip.losses.infonce import info_nce, learned_scale
from medlip.losses.integrity import (
    attention_integrity,
    normalized_weights,
    position_integrity,
    reconstruction_integrity,
    similarity_integrity,
    true_integrity,
)
from medlip.losses.pairs import icl_loss, pair_loss
from medlip.losses.prototype import draw_negatives, draw_positive, protocl_loss
from medlip.losses.reconstruction import prediction_errors
from medlip.losses.sentences import pooled_similarity, sentence_contrast
from medlip.losses.sigmoid import sigmoid_contrast
from medlip.losses.word_region import attention_similarity, local_logits

__all__ = [
    "attention_integrity",
    "attention_similarity",
    "draw_negatives",
    "draw_positive",
    "existence_labels",
    "existence_loss",
    "icl_loss",
    "info_nce",
    "learned_scale",
    "local_logits",
    "normalized_weights",
    "pair_loss",
    "pooled_similarity",
    "position_integrity",
    "prediction_errors",
    "protocl_loss",
    "reconstruction_integrity",
    "sentence_contrast",
    "sigmoid_contrast",
    "similarity_integrity",
    "true_integrity",
]
