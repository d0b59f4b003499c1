"""Weights of another run as the start of a training, matched by name and shape."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from medlip.errors import MedLIPError
from medlip.methods import Method
from medlip.methods.base import read_safetensors

NAMED = 4  # tensors of a kind, in the note


@dataclass(frozen=True, slots=True)
class Start:
    """What a training started from.

    Attributes:
        file: of the weights.
        sha256: of that file.
        taken: number of tensors that were taken over.
        note: says what was taken over, and names what was not.
    """

    file: str
    sha256: str
    taken: int
    note: str


def start_from(method: Method, file: Path) -> Start:
    """Take over the weights of another run, in place: parameters, and the statistics of batch normalization.

    What else a model keeps, such as its text banks and its tokenizer, follows from the recipe and stays. A part that stands
    on something of that kind, as a text encoder on its tokenizer, is taken over only if that is the same in both.

    Args:
        method: where the weights go.
        file: what `save_method` wrote, of this or another method.

    Raises:
        MedLIPError: the file can't be read, or nothing in it fits.
    """
    wanted = method.state_dict()
    saved = read_safetensors(file)[0]
    found = method.from_earlier(saved)
    learned = {name for name, _ in method.named_parameters(remove_duplicate=False)} | _statistics(method)
    fits = {name for name in wanted.keys() & found.keys() if wanted[name].shape == found[name].shape}
    other = sorted(
        name
        for name in (wanted.keys() - learned) & found.keys()
        if name not in fits or not torch.equal(wanted[name].cpu(), found[name])
    )
    stands_on_other = tuple(name[: name.rindex(".") + 1] for name in other if "." in name)
    taken = {name for name in learned & fits if not name.startswith(stands_on_other)}
    if not taken & {name for name, _ in method.named_parameters(remove_duplicate=False)}:
        raise MedLIPError(f"training.start_from={file}: none of its weights fit this recipe's model. Name another run.")
    with torch.no_grad():
        for name in taken:
            wanted[name].copy_(found[name])  # the tensors of a state dict are the module's own
    rest = learned - taken
    groups = {
        "not there": rest - found.keys(),
        "of another shape": (rest & found.keys()) - fits,
        "made for another text encoder": rest & fits,
        "unlike the recipe's, which stays": other,
        "without a place here": (found.keys() - wanted.keys()) | {name for name in saved if _of_no_part(method, name)},
    }
    exceptions = "".join(f"; {what}: {_some(names)}" for what, names in groups.items() if names)
    note = f"started from {file}: {len(taken):,} of {len(learned):,} tensors taken over{exceptions}"
    with file.open("rb") as opened:
        return Start(str(file), hashlib.file_digest(opened, "sha256").hexdigest(), len(taken), note)


def _of_no_part(method: Method, name: str) -> bool:
    """Tell whether a tensor belongs to a part that the method's settings leave out."""
    return getattr(method, name.partition(".")[0], "") is None


def _statistics(module: nn.Module) -> set[str]:
    """Return the names of batch normalization's buffers."""
    return {
        f"{prefix}.{name}".lstrip(".")
        for prefix, part in module.named_modules(remove_duplicate=False)
        if isinstance(part, _NormBase)
        for name, _ in part.named_buffers(recurse=False)
    }


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - NAMED:,} more" if len(ordered) > NAMED else ""
    return ", ".join(ordered[:NAMED]) + more
