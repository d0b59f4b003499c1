"""Checkpoints: weights, optimizer and random state in one safetensors file, written atomically."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medlip.errors import MedLIPError
from medlip.methods.base import load_strict, read_safetensors, write_safetensors
from medlip.nn.device import random_state, set_random_state
from medlip.training.loop import Training


def save_checkpoint(path: Path, training: Training, manifest: Mapping[str, Any]) -> None:
    """Write everything that the next step depends on, and what made it."""
    names = {id(parameter): name for name, parameter in training.module.named_parameters()}
    tensors: dict[str, Tensor] = {f"method.{name}": tensor for name, tensor in training.module.state_dict().items()}
    for parameter, state in training.optimizer.state.items():
        tensors.update({f"optimizer.{key}.{names[id(parameter)]}": torch.as_tensor(value) for key, value in state.items()})
    tensors |= random_state(training.device)
    progress = {"step": str(training.step), "seconds": str(training.seconds)}
    write_safetensors(tensors, path, {**progress, "manifest": json.dumps(manifest)})


def load_checkpoint(path: Path, training: Training, manifest: Mapping[str, Any]) -> None:
    """Bring a training to where `save_checkpoint` left it.

    Raises:
        MedLIPError: the checkpoint was made with another recipe or other data.
    """
    tensors, metadata = read_safetensors(path)
    made_with = json.loads(metadata["manifest"])
    for key, what in (("recipe", "another recipe"), ("data", "other data")):
        if made_with[key] != manifest[key]:
            raise MedLIPError(
                f"{path}: made with {what}, so it can't be resumed: {_difference(made_with[key], manifest[key])}. "
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
    set_random_state(tensors, training.device)
    training.step, training.seconds = int(metadata["step"]), float(metadata.get("seconds", 0))


def _difference(old: Any, new: Any, path: str = "") -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                return _difference(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
    return f"{path} was {old!r}, now {new!r}"
