"""Checkpoints: weights, optimizer and random state in one safetensors file, written atomically."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medlip.errors import MedLIPError
from medlip.methods import Method
from medlip.methods.base import load_strict, read_safetensors, write_safetensors


def save_checkpoint(
    path: Path, method: Method, optimizer: torch.optim.Optimizer, step: int, manifest: dict[str, Any]
) -> None:
    """Write everything that the next step depends on."""
    names = {id(parameter): name for name, parameter in method.named_parameters()}
    tensors: dict[str, Tensor] = {f"method.{name}": tensor for name, tensor in method.state_dict().items()}
    for parameter, state in optimizer.state.items():
        tensors.update({f"optimizer.{key}.{names[id(parameter)]}": torch.as_tensor(value) for key, value in state.items()})
    tensors["random"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    write_safetensors(tensors, path, {"step": str(step), "manifest": json.dumps(manifest)})


def load_checkpoint(path: Path, method: Method, optimizer: torch.optim.Optimizer, manifest: dict[str, Any]) -> int:
    """Bring method, optimizer and random state to where `save_checkpoint` left them; return the step.

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
    load_strict(
        method, {name.removeprefix("method."): t for name, t in tensors.items() if name.startswith("method.")}, str(path)
    )
    parameters = dict(method.named_parameters())
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, key, parameter = name.split(".", 2)
            # In the layout of its parameter: the fused update walks both side by side in memory.
            like = torch.empty_like(parameters[parameter]) if tensor.ndim else torch.empty_like(tensor)
            optimizer.state[parameters[parameter]][key] = like.copy_(tensor)
    torch.set_rng_state(tensors["random"])
    if torch.cuda.is_available() and "random.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random.cuda"])
    return int(metadata["step"])


def _difference(old: Any, new: Any, path: str = "") -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                return _difference(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
    return f"{path} was {old!r}, now {new!r}"
