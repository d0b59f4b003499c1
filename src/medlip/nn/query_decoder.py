"""Queries that read the image: a pre-norm transformer decoder without positional encoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medlip.nn.parts import Recomputing, recompute_blocks

Columns = Sequence[int] | Tensor
"""Some of the queries, by their numbers; in a tensor, where those are only known on an accelerator."""


@dataclass(frozen=True, slots=True)
class LayerTrace:
    """How one layer read N locations with q queries.

    Attributes:
        attention: (B, heads, q, N) cross-attention.
        values: (B, heads, N, width / heads), what it weighs.
        read: (B, q, width), the states behind the cross-attention.
        hidden: (B, q, feed-forward), the units of the feed-forward part behind it, those that are silent 0.
    """

    attention: Tensor
    values: Tensor
    read: Tensor
    hidden: Tensor

    def of(self, images: slice, columns: Columns) -> LayerTrace:
        """Return the trace of some of the images and some of the queries."""
        return LayerTrace(
            self.attention[images][:, :, columns],
            self.values[images],
            self.read[images][:, columns],
            self.hidden[images][:, columns],
        )


@dataclass(frozen=True, slots=True)
class Opening:
    """What q queries ask of any image, before they have seen one.

    Attributes:
        states: (B or 1, q, width), behind the first layer's self-attention.
        asks: (B or 1, heads, q, width / heads), what its cross-attention asks.
        mask: (q, q), who may attend to whom, None: everyone to everyone.
    """

    states: Tensor
    asks: Tensor
    mask: Tensor | None


class QueryDecoder(nn.Module, Recomputing):
    """Self-attention among queries, cross-attention to image locations, feed-forward; repeated.

    Keys and values of all layers are projected from the locations in one product, since the locations stay the same from
    layer to layer.

    Args:
        width: of queries and locations.
        layers: number of layers L.
        heads: attention heads.
        feedforward: hidden width of the feed-forward part.
        dropout: on attention weights, hidden units and residual branches.
    """

    def __init__(
        self, width: int = 256, layers: int = 4, heads: int = 4, feedforward: int = 1024, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.heads = heads
        self.layers = nn.ModuleList(DecoderLayer(width, heads, feedforward, dropout) for _ in range(layers))

    def open(self, queries: Tensor, mask: Tensor | None = None) -> Opening:
        """Let queries look at one another before they look at images, which is the same for all images but for dropout.

        Args:
            queries: (B or 1, q, width).
            mask: (q, q) boolean, True where a query (row) may attend to another (column); None: everywhere.
        """
        return Opening(*cast("DecoderLayer", self.layers[0]).ask(queries, mask), mask)

    def forward(
        self, opening: Opening, locations: Tensor, *, need_attention: bool = False, real: Tensor | None = None
    ) -> tuple[Tensor, tuple[LayerTrace, ...]]:
        """Decode.

        Args:
            opening: of the queries, as `open` gives it.
            locations: (B, N, width).
            need_attention: also return how each layer read the locations; the states are the same either way.
            real: (B, N) boolean, which locations are there to be read, one at least; None: all.

        Returns:
            States (B, q, width), before any final norm, and a trace of each layer, none where not asked for.
        """
        layers = cast("list[DecoderLayer]", list(self.layers))
        crosses = [layer.cross_attention for layer in layers]
        width = locations.shape[-1]
        weight = _joined([cross.in_proj_weight[width:] for cross in crosses])
        bias = _joined([cross.in_proj_bias[width:] for cross in crosses])
        batch, n, _ = locations.shape
        keys_values = F.linear(locations, weight, bias).view(batch, n, len(crosses), 2, self.heads, width // self.heads)
        keys_values = keys_values.permute(2, 3, 0, 4, 1, 5)  # (L, 2, B, heads, N, width / heads)

        states = opening.states.expand(batch, -1, -1)
        asks: Tensor | None = opening.asks.expand(batch, -1, -1, -1)
        traces: list[LayerTrace] = []
        there = None if real is None else real[:, None, None]
        for layer, (keys, values) in zip(layers, keys_values, strict=True):
            states, trace = layer(states, asks, opening.mask, keys, values, need_attention, there)
            traces += [trace] if trace is not None else []
            asks = None  # the first layer's were asked before any image was there
        return states, tuple(traces)

    def recompute(self) -> None:
        """Compute the activations of each layer again in the backward pass."""
        recompute_blocks(self.layers)

    def contributions(self, traces: Sequence[LayerTrace], gradient: Tensor) -> Tensor:
        """Return how much each location contributed to something that is read from the queries' final states.

        Of every layer: attention times the projected value, along the gradient at the states behind the cross-attention.
        The gradient is carried down in closed form along the residual path and through the feed-forward parts, with the
        attention of the layers above held fixed: no autograd, and for one layer exactly attention times its gradient.

        Args:
            traces: of all layers.
            gradient: (B, q, width) at the final states, of what each query itself is asked.

        Returns:
            (B, q, N), summed over layers and heads; negative where a location speaks against it.
        """
        total: Tensor | None = None
        for module, trace in zip(reversed(self.layers), reversed(traces), strict=True):
            layer = cast("DecoderLayer", module)
            gradient = gradient + layer.feed_back(trace, gradient)
            there = layer.cross_attention.contributions(trace, gradient)
            total = there if total is None else total + there
        assert total is not None, "the queries were read without attention"
        return total


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Return tensors one behind the other; a single one isn't copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def norm_gradient(norm: nn.LayerNorm, states: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient (..., width) at the input of a layer norm, from that at its output."""
    centred = states - states.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + norm.eps).rsqrt()
    unit, weighted = centred * scale, gradient * norm.weight
    return scale * (weighted - weighted.mean(-1, keepdim=True) - unit * (weighted * unit).mean(-1, keepdim=True))


class DecoderLayer(nn.Module):
    """One pre-norm decoder layer: x + f(norm(x)) for self-attention, cross-attention and feed-forward in turn."""

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = Attention(width, heads, dropout)
        self.cross_attention = Attention(width, heads, dropout)
        self.linear1 = nn.Linear(width, feedforward)
        self.linear2 = nn.Linear(feedforward, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        states: Tensor,
        asks: Tensor | None,
        mask: Tensor | None,
        keys: Tensor,
        values: Tensor,
        need_attention: bool,
        there: Tensor | None = None,
    ) -> tuple[Tensor, LayerTrace | None]:
        """Update states (B, q, width): `ask`, unless what they ask is given, then `read`."""
        if asks is None:
            states, asks = self.ask(states, mask)
        return self.read(states, asks, keys, values, need_attention, there)

    def ask(self, states: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Let queries look at one another: states (B, q, width), and what they ask (B, heads, q, width / heads)."""
        states = states + self.dropout(self.self_attention.mix(self.norm1(states), mask))
        return states, self.cross_attention.ask(self.norm2(states))

    def read(
        self, states: Tensor, asks: Tensor, keys: Tensor, values: Tensor, need_attention: bool, there: Tensor | None = None
    ) -> tuple[Tensor, LayerTrace | None]:
        """Update states (B, q, width) from keys and values (B, heads, N, width / heads) of the locations."""
        read, attention = self.cross_attention.read(asks, keys, values, need_attention, there)
        states = states + self.dropout(read)
        hidden = F.relu(self.linear1(self.norm3(states)))
        trace = None if attention is None else LayerTrace(attention, values, states, hidden)
        return states + self.dropout(self.linear2(self.dropout(hidden))), trace

    def feed_back(self, trace: LayerTrace, gradient: Tensor) -> Tensor:
        """Return the gradient at the states that were read, through the feed-forward part, from that at its output."""
        at_hidden: Tensor = torch.ops.aten.threshold_backward(gradient @ self.linear2.weight, trace.hidden, 0)
        return norm_gradient(self.norm3, trace.read, at_hidden @ self.linear1.weight)


class Attention(nn.Module):
    """Multi-head attention with the packed parameters of `torch.nn.MultiheadAttention` (query, key, value in turn)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def mix(self, states: Tensor, mask: Tensor | None) -> Tensor:
        """Attend from states (B, q, width) to themselves."""
        query, key, value = self._split(F.linear(states, self.in_proj_weight, self.in_proj_bias)).chunk(3, dim=1)
        return self._attend(query, key, value, mask)[0]

    def ask(self, states: Tensor) -> Tensor:
        """Project states (B, q, width) to what is asked of other keys, (B, heads, q, width / heads)."""
        width = states.shape[-1]
        return self._split(F.linear(states, self.in_proj_weight[:width], self.in_proj_bias[:width]))

    def read(
        self, asks: Tensor, keys: Tensor, values: Tensor, need_attention: bool, there: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from what is asked to projected keys and values; weights are (B, heads, q, N), 0 where none is `there`."""
        return self._attend(asks, keys, values, there, need_attention)

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, need_attention: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        def weights() -> Tensor:
            scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
            masked = scores if mask is None else scores.masked_fill(~mask, float("-inf"))
            return F.softmax(masked, -1)

        # Gradients of what is read can be taken with respect to the attention only where it is worked out; and in use, with
        # few locations, that is as fast, and what is read is the same whether the attention is asked for or not.
        if (self.training and self.dropout.p) or need_attention or not torch.is_grad_enabled():
            attention = weights()
            return self._join(self.dropout(attention) @ value), attention if need_attention else None
        return self._join(F.scaled_dot_product_attention(query, key, value, attn_mask=mask)), None

    def contributions(self, trace: LayerTrace, gradient: Tensor) -> Tensor:
        """Return attention times the value's part along a gradient (B, q, width) at the output, (B, q, N)."""
        along = self._split(gradient @ self.out_proj.weight) @ trace.values.transpose(-1, -2)  # (B, heads, q, N)
        return (trace.attention * along).sum(1)

    def _split(self, packed: Tensor) -> Tensor:
        """(B, n, k * width) -> (B, k * heads, n, width / heads)."""
        batch, n, packed_width = packed.shape
        width = self.out_proj.in_features // self.heads
        return packed.view(batch, n, packed_width // width, width).transpose(1, 2)

    def _join(self, heads: Tensor) -> Tensor:
        """(B, heads, n, width / heads) -> (B, n, width), projected."""
        joined: Tensor = self.out_proj(heads.transpose(1, 2).flatten(2))
        return joined
