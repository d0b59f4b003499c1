"""Building blocks of the methods: image and text encoders, the disentangler, the query decoder."""

from medlip.nn.disentangler import Disentangler
from medlip.nn.image_encoder import ImageEncoder
from medlip.nn.query_decoder import QueryDecoder
from medlip.nn.text import LexicalEncoder, TextBank, TextEncoder, TransformersEncoder, text_encoder

__all__ = [
    "Disentangler",
    "ImageEncoder",
    "LexicalEncoder",
    "QueryDecoder",
    "TextBank",
    "TextEncoder",
    "TransformersEncoder",
    "text_encoder",
]
