"""Checkpoints: weights, optimizer and random state in one safetensors file, written atomically."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from pydantic import ValidationError
from torch import Tensor

from medlip.errors import MedLIPError
from medlip.methods.base import load_strict, read_safetensors, write_safetensors
from medlip.nn.device import random_state, set_random_state
from medlip.training.loop import Training
from medlip.training.recipe import Recipe

UNBINDING = ("keep", "checkpoint_minutes", "log_gradients", "on_nan")
"""Settings of the loop that may be others when a training goes on: no weight depends on them."""


class Stateful(Protocol):
    """What has a state of its own that the next step depends on."""

    def state(self) -> dict[str, Tensor]:
        """Return the state, by name."""
        ...

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Bring back what `state` gave."""
        ...


def save_checkpoint(
    path: Path, training: Training, manifest: Mapping[str, Any], parts: Mapping[str, Stateful] | None = None
) -> None:
    """Write everything that the next step depends on, and what made it."""
    names = {id(parameter): name for name, parameter in training.module.named_parameters()}
    tensors: dict[str, Tensor] = {f"method.{name}": tensor for name, tensor in training.module.state_dict().items()}
    for parameter, state in training.optimizer.state.items():
        tensors.update({f"optimizer.{key}.{names[id(parameter)]}": torch.as_tensor(value) for key, value in state.items()})
    for part, owner in (parts or {}).items():
        tensors.update({f"{part}.{name}": tensor for name, tensor in owner.state().items()})
    tensors |= random_state(training.device)
    progress = {"step": str(training.step), "seconds": str(training.seconds)}
    write_safetensors(tensors, path, {**progress, "manifest": json.dumps(manifest)})


def load_checkpoint(
    path: Path, training: Training, manifest: Mapping[str, Any], parts: Mapping[str, Stateful] | None = None
) -> None:
    """Bring a training to where `save_checkpoint` left it.

    Raises:
        MedLIPError: the checkpoint was made with another recipe or other data.
    """
    tensors, metadata = read_safetensors(path)
    made_with = json.loads(metadata["manifest"])
    for key, what in (("recipe", "another recipe"), ("data", "other data")):
        before, now = _binding(made_with[key]), _binding(manifest[key])
        if before != now:
            raise MedLIPError(
                f"{path}: made with {what}, so it can't be resumed: {_difference(before, now)}. "
                "Use what it was made with, or start a new run in another folder."
            )
    weights = {name.removeprefix("method."): tensor for name, tensor in tensors.items() if name.startswith("method.")}
    load_strict(training.module, weights, str(path))
    parameters = dict(training.module.named_parameters())
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, key, parameter = name.split(".", 2)
            # In the place and layout of its parameter: the fused update walks both side by side in memory.
            learned = parameters[parameter]
            like = torch.empty_like(learned) if tensor.ndim else torch.empty_like(tensor, device=learned.device)
            training.optimizer.state[learned][key] = like.copy_(tensor)
    for part, owner in (parts or {}).items():
        own = {name.removeprefix(f"{part}."): tensor for name, tensor in tensors.items() if name.startswith(f"{part}.")}
        owner.restore(own)
    set_random_state(tensors, training.device)
    training.step, training.seconds = int(metadata["step"]), float(metadata.get("seconds", 0))


def _binding(made_with: Any) -> Any:
    """Return what must stay the same; settings of a recipe that have come since stand at their defaults."""
    try:
        recipe = Recipe.model_validate(made_with).model_dump(mode="json")
    except ValidationError:
        return made_with
    recipe["training"] = {key: value for key, value in recipe["training"].items() if key not in UNBINDING}
    return recipe


def _difference(old: Any, new: Any, path: str = "") -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                return _difference(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
    return f"{path} was {old!r}, now {new!r}"
