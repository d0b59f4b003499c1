"""Checkpoints: weights, optimizer and random state in one safetensors file, written atomically."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol
from warnings import warn

import torch
from torch import Tensor

from medlip.errors import MedLIPError, MedLIPWarning
from medlip.methods.base import load_strict, read_safetensors, write_safetensors
from medlip.nn.device import random_state, set_random_state
from medlip.training.loop import Training
from medlip.training.recipe import recorded_recipe

UNBINDING = ("keep", "checkpoint_minutes", "log_gradients", "on_nan", "checkpointing", "sample_maps")
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
    """Write everything that the next step depends on, and what made it; the main process does, for all of them."""
    draws = training.of_all_processes(random_state(training.device))
    if not training.processes.is_main_process:
        return
    names = {id(parameter): name for name, parameter in training.module.named_parameters()}
    tensors: dict[str, Tensor] = {f"method.{name}": tensor for name, tensor in training.module.state_dict().items()}
    for parameter, state in training.optimizer.state.items():
        tensors.update({f"optimizer.{key}.{names[id(parameter)]}": torch.as_tensor(value) for key, value in state.items()})
    for part, owner in (parts or {}).items():
        tensors.update({f"{part}.{name}": tensor for name, tensor in owner.state().items()})
    if training.scaler is not None:
        tensors.update({f"scaler.{name}": torch.as_tensor(value) for name, value in training.scaler.state_dict().items()})
    for rank, states in enumerate(draws):
        tensors.update({_of_rank(rank, name): state for name, state in states.items()})
    progress = {
        "step": str(training.step),
        "seconds": str(training.seconds),
        "processes": str(len(draws)),
        "epoch": str(len(training.batches)),
    }
    write_safetensors(tensors, path, {**progress, "manifest": json.dumps(manifest)})


def load_checkpoint(
    path: Path,
    training: Training,
    manifest: Mapping[str, Any],
    parts: Mapping[str, Stateful] | None = None,
    *,
    extend: bool = False,
) -> None:
    """Bring a training to where `save_checkpoint` left it.

    With another number of processes than it was saved by it goes on at the same share of the epoch, and a note says what
    differs then.

    Args:
        path: of the checkpoint.
        training: to bring there.
        manifest: what makes the training.
        parts: what else was saved, by name.
        extend: let it go on for more epochs than it was begun for.

    Raises:
        MedLIPError: the checkpoint was made with another recipe or other data.
    """
    tensors, metadata = read_safetensors(path)
    made_with = json.loads(metadata["manifest"])
    for key in ("recipe", "data"):
        before, now = _binding(made_with[key]), _binding(manifest[key])
        if key == "recipe":
            before = _extended(before, now, path, extend)
        _require_equal(before, now, key, path)
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
    if training.scaler is not None:
        kinds = {name: type(value) for name, value in training.scaler.state_dict().items()}
        training.scaler.load_state_dict({name: kind(tensors[f"scaler.{name}"].item()) for name, kind in kinds.items()})
    rank = training.processes.process_index
    known = {
        name: tensors[_of_rank(rank, name)] for name in random_state(training.device) if _of_rank(rank, name) in tensors
    }
    if "random" in known:  # else there was no such process, and it draws what it was seeded for
        set_random_state(known, training.device)
    training.step, training.seconds = int(metadata["step"]), float(metadata.get("seconds", 0))
    _move(training, int(metadata.get("processes", 0)), int(metadata.get("epoch", 0)))


def _of_rank(rank: int, name: str) -> str:
    return name if rank == 0 else f"rank{rank}.{name}"


def _move(training: Training, processes: int, epoch: int) -> None:
    """Bring a training of another number of processes to the same share of its epoch.

    Args:
        training: its step is that of before.
        processes: that there were before, 0 where that is not known.
        epoch: steps of an epoch then.
    """
    today = training.processes.num_processes
    if processes in (0, today):
        return
    before, (epochs, done) = training.step, divmod(training.step, epoch)
    training.step = epochs * len(training.batches) + min(done * processes // today, len(training.batches) - 1)
    warn(
        f"the run was saved by {processes} processes after {before:,} steps, and {today} go on, at step {training.step:,}: "
        f"the same images in the same order, but {today} / {processes} as many in a step. So the number of steps, what each "
        "learns, the rates and the dropout are not those that it would have had",
        MedLIPWarning,
        stacklevel=2,
    )


def require_recipe(made_with: Any, now: Any, path: Path) -> None:
    """Raise unless what lies at `path` was made with the recipe of now, both as plain data.

    Raises:
        MedLIPError: names the first setting that differs.
    """
    _require_equal(_binding(made_with), _binding(now), "recipe", path)


def _require_equal(before: Any, now: Any, key: str, path: Path) -> None:
    if before != now:
        what = {"recipe": "another recipe", "data": "other data"}[key]
        raise MedLIPError(
            f"{path}: made with {what}, so it can't be resumed: {_difference(before, now)}. "
            "Use what it was made with, or start a new run in another folder."
        )


def _extended(before: Any, now: Any, path: Path, extend: bool) -> Any:
    """Return what must stay the same, with as many epochs as now where it may be extended.

    Raises:
        MedLIPError: it is longer now and otherwise the same, but may not be extended.
    """
    try:
        old, new = before["training"]["epochs"], now["training"]["epochs"]
    except (KeyError, TypeError):  # no recipe of a pre-training
        return before
    if new <= old:
        return before
    longer = {**before, "training": {**before["training"], "epochs": new}}
    if not extend and longer == now:
        raise MedLIPError(
            f"{path}: made for {old} epochs, now training.epochs={new}. Add --extend to go on, at the rates of that length."
        )
    return longer if extend else before


def _binding(made_with: Any) -> Any:
    """Return what must stay the same; settings of a recipe that have come since stand at their defaults."""
    recipe = recorded_recipe(made_with)
    if recipe is made_with:  # no recipe of a pre-training
        return made_with
    recipe["training"] = {key: value for key, value in recipe["training"].items() if key not in UNBINDING}
    return recipe


def _difference(old: Any, new: Any, path: str = "") -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                return _difference(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
    return f"{path} was {old!r}, now {new!r}"
