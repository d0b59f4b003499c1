"""A moving average of the weights, which generalizes better than the weights of any single step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from medlip.training.loop import Callback, Training


class WeightAverage(Callback):
    """An exponential moving average of parameters and floating-point buffers, batch normalization's statistics among them.

    The decay rises with the steps that were taken, as (1 + step) / (10 + step) up to its highest value, so that the average
    of a short training isn't that of its first weights.

    Args:
        module: whose weights; those it has now are the first ones.
        decay: its highest value, from 0 to 1.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        kept, tensors = module.state_dict(), (*module.named_parameters(), *module.named_buffers())
        self._weights = {name: tensor for name, tensor in tensors if name in kept and tensor.is_floating_point()}
        self._average = {name: tensor.detach().clone() for name, tensor in self._weights.items()}

    @torch.no_grad()
    def after_step(self, training: Training) -> None:
        """Move the average towards the weights of this step."""
        decay = min(self.decay, (1 + training.step) / (10 + training.step))
        torch._foreach_lerp_(list(self._average.values()), list(self._weights.values()), 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the average in the place of the weights inside."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state(self) -> dict[str, Tensor]:
        """Return the average."""
        return self._average

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Bring the average back."""
        for name, tensor in self._average.items():
            tensor.copy_(state[name])

    @torch.no_grad()
    def _swap(self) -> None:
        for name, average in self._average.items():
            kept = self._weights[name].clone()
            self._weights[name].copy_(average)
            average.copy_(kept)
