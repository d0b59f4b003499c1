"""MeDSLIP's decoders and losses as plainly as they can be written: what the fast ones are held against.

Every layer projects its own keys and values, attention weights of all heads and layers are kept, prototypes are built from
(B, queries, partners, text width) tensors, pairs from (B, A, P, width), and losses go through the batch row by row. The
image encoder, the gate and the projections of both streams are the model's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medlip.losses import existence_labels
from medlip.methods.base import upcast
from medlip.reports.facts import NOT_MENTIONED

if TYPE_CHECKING:
    from medlip.data.batch import Batch
    from medlip.methods.medslip import MeDSLIP
    from medlip.methods.queries import PresentQueries
    from medlip.nn.query_decoder import Attention, DecoderLayer, QueryDecoder


def plain_losses(model: MeDSLIP, batch: Batch) -> dict[str, Tensor]:
    """Return the losses of a batch; partners are those that the model draws."""
    config, facts = model.config, batch.facts
    by_query = {"pathology": facts.transpose(1, 2), "anatomy": facts}
    seen = model.see(batch.images)
    read = {stream: _decode(model, stream, upcast(seen.locations[stream])) for stream in by_query}
    states = {stream: values for stream, (values, _) in read.items()}
    terms = {}
    for stream, matrix in by_query.items():
        logits = cast("nn.Linear", model.exist[stream])(model.dropout(states[stream]))
        terms[f"exist_{stream}"] = _existence(logits, existence_labels(matrix, 2), config.unmentioned)
    if model.contrast is not None:
        present = model.present_queries(facts, batch.seeds, batch.host_facts)
        for stream, other in (("pathology", "anatomy"), ("anatomy", "pathology")):
            projected = model.contrast[stream](model.dropout(model.contrasted(states[stream])))
            terms[f"protocl_{stream}"] = _prototypes(model, stream, projected, model.texts(other), present[stream])
    if config.icl != "off":
        terms["icl"] = _pairs(model, states, facts)
    return terms


def _decode(model: MeDSLIP, stream: str, locations: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return states (B, q, width) and the attention (B, heads, q, N) of every layer."""
    decoder = cast("QueryDecoder", model.decode[stream])
    states: Tensor = model.embed(model.texts(stream)).expand(len(locations), -1, -1)
    kept = []
    for layer in cast("list[DecoderLayer]", list(decoder.layers)):
        normed = layer.norm1(states)
        mixed, _ = _attend(layer.self_attention, normed, normed)
        states = states + layer.dropout(mixed)
        read, weights = _attend(layer.cross_attention, layer.norm2(states), locations)
        states = states + layer.dropout(read)
        kept.append(weights)
        hidden = layer.dropout(layer.linear1(layer.norm3(states)).relu())
        states = states + layer.dropout(layer.linear2(hidden))
    return model.norm(states), kept


def _attend(attention: Attention, asking: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
    width, heads = asking.shape[-1], attention.heads
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    query, key, value = (
        F.linear(values, weight[part * width : (part + 1) * width], bias[part * width : (part + 1) * width])
        .view(*values.shape[:2], heads, width // heads)
        .transpose(1, 2)
        for part, values in enumerate((asking, asked, asked))
    )
    weights = (query @ key.transpose(2, 3) / (width // heads) ** 0.5).softmax(-1)
    read: Tensor = attention.out_proj((attention.dropout(weights) @ value).transpose(1, 2).flatten(2))
    return read, weights


def _existence(logits: Tensor, labels: Tensor, unmentioned: float) -> Tensor:
    costs, weight = logits.new_zeros(()), logits.new_zeros(())
    for row, stated in zip(logits, labels, strict=True):
        weights = (stated >= 0).to(row.dtype) + unmentioned * (stated == NOT_MENTIONED)
        costs = costs + (F.cross_entropy(row, stated.clamp(min=0).long(), reduction="none") * weights).sum()
        weight = weight + weights.sum()
    return costs / weight.clamp(min=torch.finfo(logits.dtype).tiny)


def _prototypes(model: MeDSLIP, stream: str, states: Tensor, texts: Tensor, present: PresentQueries) -> Tensor:
    """Return the contrast of states (B, q, d) with prototypes that are built of texts (k, d)."""
    scale = model.contrast_scale
    if scale.normalize:
        states, texts = F.normalize(states, dim=-1), F.normalize(texts, dim=-1)
    shape = states.shape[:2]
    partners = torch.zeros(*shape, len(texts), dtype=torch.bool, device=states.device)
    positives = present.partners
    if model.config.prototype == "random":
        positives = F.one_hot(present.positives(), len(texts)).bool()
    partners[present.images, present.queries] = positives
    negatives = torch.full((*shape, model.config.negatives), -1, device=states.device)
    drawn = model.negatives(stream, present)
    negatives[present.images, present.queries, : drawn.shape[1]] = drawn
    expanded = texts.expand(*shape, -1, -1)  # (B, q, k, d)
    prototypes = (expanded * partners[..., None]).sum(2) / partners.sum(2).clamp(min=1)[..., None]
    costs = states.new_zeros(())
    for row, prototype, others, stated in zip(states, prototypes, negatives, partners.any(2), strict=True):
        candidates = torch.cat([prototype[:, None], texts[others.clamp(min=0)]], 1)  # (q, 1 + n, d)
        logits = (candidates * row[:, None]).sum(-1) / scale.temperature
        barred = torch.cat([torch.zeros_like(others[:, :1], dtype=torch.bool), others < 0], 1)
        costs = costs - (logits.masked_fill(barred, float("-inf")).log_softmax(1)[:, 0] * stated).sum()
    return costs / partners.any(2).sum().clamp(min=1)


def _pairs(model: MeDSLIP, states: Mapping[str, Tensor], facts: Tensor) -> Tensor:
    config = model.config
    logits = (states["anatomy"][:, :, None] * states["pathology"][:, None]).sum(-1)  # of (B, A, P, width)
    if model.pair_bias is not None:
        logits, unmentioned = logits * config.width**-0.5 + model.pair_bias, config.icl_unmentioned
    else:
        unmentioned = float(config.icl == "all")
    costs, weight = logits.new_zeros(()), logits.new_zeros(())
    for row, stated in zip(logits, facts, strict=True):
        weights = (stated >= 0).to(row.dtype) + unmentioned * (stated == NOT_MENTIONED)
        targets = stated.clamp(min=0).to(row.dtype)
        costs = costs + (F.binary_cross_entropy_with_logits(row, targets, reduction="none") * weights).sum()
        weight = weight + ((stated >= 0).sum() if model.pair_bias is not None else weights.sum())
    return costs / weight.clamp(min=1e-30)
