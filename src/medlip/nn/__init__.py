"""Building blocks of the methods: image and text encoders, the disentangler, the query decoder."""

from medlip.nn.disentangler import Disentangler
from medlip.nn.image_encoder import ImageEncoder
from medlip.nn.query_decoder import QueryDecoder
from medlip.nn.text import LexicalEncoder, TextBank, TextEncoder, TransformersEncoder, text_encoder
from medlip.nn.transport import Transport, sinkhorn, transport_similarity
from medlip.nn.word_region import attention_similarity

__all__ = [
    "Disentangler",
    "ImageEncoder",
    "LexicalEncoder",
    "QueryDecoder",
    "TextBank",
    "TextEncoder",
    "TransformersEncoder",
    "Transport",
    "attention_similarity",
    "sinkhorn",
    "text_encoder",
    "transport_similarity",
]
