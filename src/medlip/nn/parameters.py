"""What training changes of a network."""

from __future__ import annotations

from torch import nn


def learned_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of a network that are not frozen."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def count_learned(network: nn.Module) -> int:
    """Return how many numbers these hold."""
    return sum(parameter.numel() for parameter in learned_parameters(network))
