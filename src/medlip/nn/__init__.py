"""Building blocks of the methods: image and text encoders, the disentangler, the query decoder, transport."""

from medlip.nn.cpu import optimize_for_cpu
from medlip.nn.disentangler import Disentangler
from medlip.nn.query_decoder import QueryDecoder
from medlip.nn.text import LexicalEncoder, TextBank, TextEncoder, TransformersEncoder, text_encoder
from medlip.nn.transport import Transport, sinkhorn, transport_similarity
from medlip.nn.vision_encoder import Features, VisionEncoder, vision_encoder

__all__ = [
    "Disentangler",
    "Features",
    "LexicalEncoder",
    "QueryDecoder",
    "TextBank",
    "TextEncoder",
    "TransformersEncoder",
    "Transport",
    "VisionEncoder",
    "optimize_for_cpu",
    "sinkhorn",
    "text_encoder",
    "transport_similarity",
    "vision_encoder",
]
