"""How strongly each loss term pulls at the encoder: measured, and held at a share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from medlip.data.batch import Batch
from medlip.errors import MedLIPError
from medlip.training.loop import Callback, Training

SMOOTHING = 0.8  # what of the norms known so far stays at a new measurement
LARGEST_FACTOR = 100.0


class Write(Protocol):
    """Writes values of the step that was just taken, as `Log.write` does."""

    def __call__(self, training: Training, **values: object) -> None:
        """Write values by name."""


Look = Callable[[Training, Mapping[str, float]], None]


def gradient_norms(training: Training, terms: Mapping[str, Tensor], parameters: Sequence[nn.Parameter]) -> dict[str, float]:
    """Return the gradient norm of each term, as it enters the total, with respect to parameters, which stay as they are.

    Args:
        training: gives the terms' weights; of several processes, the norm is that of their mean gradient.
        terms: of a batch, their graph still standing.
        parameters: such as the encoder's.

    Returns:
        Norms by term, without the terms that don't depend on the parameters.
    """
    norms = {}
    for name, term in terms.items():
        if not term.requires_grad:
            continue
        weighted = training.weight(name) * term
        gradients = torch.autograd.grad(weighted, parameters, retain_graph=True, allow_unused=True)
        if found := [gradient for gradient in gradients if gradient is not None]:
            if training.processes.num_processes > 1:
                found = [training.processes.reduce(gradient, "mean") for gradient in found]
            norms[name] = float(torch.stack([gradient.float().square().sum() for gradient in found]).sum().sqrt())
    return norms


class LogGradients(Callback):
    """Write the gradient norm of each loss term every few steps; of a batch in parts, that of its last part.

    Args:
        every: steps between two measurements, the first of which is at the first step.
        parameters: that gradients are taken of, the encoder's.
        write: where to write.
        look: takes every measurement as well.
    """

    def __init__(self, every: int, parameters: Sequence[nn.Parameter], write: Write, look: Look | None = None) -> None:
        self.every, self.parameters, self.write, self.look = every, parameters, write, look
        self._measured: dict[str, float] | None = None

    def before_backward(self, training: Training, batch: Batch, terms: Mapping[str, Tensor]) -> bool:
        """Measure if it is time to."""
        if training.step % self.every == 0:
            self._measured = gradient_norms(training, terms, self.parameters)
        return True

    def after_step(self, training: Training) -> None:
        """Write what was measured."""
        if self._measured is not None:
            self.write(training, gradient_norm=self._measured)
            if self.look is not None:
                self.look(training, self._measured)
            self._measured = None


def require_terms(shares: Iterable[str], terms: Iterable[str]) -> None:
    """Refuse to balance terms that are not there.

    Raises:
        MedLIPError: names the first one.
    """
    terms = list(terms)
    for name in shares:
        if name not in terms:
            raise MedLIPError(f"training.balance.{name}: there is no such loss term. There are: {', '.join(terms)}.")


class Balance(Callback):
    """Hold the share of each of several loss terms in their gradient at the encoder, by factors of their weights.

    Every few steps norms are measured and smoothed. A term's factor is what gives it its share of the sum that they have
    together at the recipe's weights; it stays within 1/100 and 100. Terms without a share keep their weights.

    Args:
        shares: by term, relative to one another.
        every: steps between two adjustments, the first of which is at the first step.
        parameters: that gradients are taken of, the encoder's.
        write: where to write.
    """

    def __init__(self, shares: Mapping[str, float], every: int, parameters: Sequence[nn.Parameter], write: Write) -> None:
        self.shares, self.every, self.parameters, self.write = shares, every, parameters, write
        self._norms: dict[str, float] = {}
        self._factors: dict[str, float] = {}
        self._measured = False

    def before_backward(self, training: Training, batch: Batch, terms: Mapping[str, Tensor]) -> bool:
        """Measure if it is time to, and set the factors from this step on.

        Raises:
            MedLIPError: a term to be balanced doesn't exist, or doesn't reach the encoder.
        """
        training.factors = self._factors
        self._measured = training.step % self.every == 0
        if not self._measured:
            return True
        require_terms(self.shares, terms)
        training.factors = {}
        norms = gradient_norms(training, {name: terms[name] for name in self.shares}, self.parameters)
        for name in self.shares:
            if name not in norms:
                raise MedLIPError(f"training.balance.{name}: this term gives the encoder no gradient. Leave it out.")
            if norms[name]:  # a batch may have nothing for a term to learn from
                known = self._norms.get(name, norms[name])
                self._norms[name] = SMOOTHING * known + (1 - SMOOTHING) * norms[name]
        together, shared = sum(self._norms.values()), sum(self.shares[name] for name in self._norms)
        for name, norm in self._norms.items():
            factor = self.shares[name] / shared * together / norm
            self._factors[name] = min(LARGEST_FACTOR, max(1 / LARGEST_FACTOR, factor))
        training.factors = self._factors
        return True

    def after_step(self, training: Training) -> None:
        """Write norms, as they are at the recipe's weights, and factors."""
        if self._measured:
            self.write(training, balance={"norms": dict(self._norms), "factors": dict(self._factors)})

    def state(self) -> dict[str, Tensor]:
        """Return norms and factors."""
        known = json.dumps({"norms": self._norms, "factors": self._factors}).encode()
        return {"known": torch.frombuffer(bytearray(known), dtype=torch.uint8)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Bring norms and factors back."""
        known = json.loads(state["known"].numpy().tobytes())
        self._norms, self._factors = known["norms"], known["factors"]
