"""Weights that the authors of methods released: their files, their names of tensors, and the text banks that they lack."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from medlip.concepts import Vocabulary, default_vocabulary
from medlip.errors import MedLIPError, name_some
from medlip.methods.base import CLINICAL_BERT, HasReleasedWeights, Method, method_names, method_type
from medlip.nn.text import text_encoder as open_text_encoder

ReleasedNames = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]
"""Patterns of the beginnings of released names, the first that fits counts, with what takes their place."""

RELEASED_BACKBONE: ReleasedNames = (
    (r"res_features\.0\.", "encoder.stages.conv1."),
    (r"res_features\.1\.", "encoder.stages.bn1."),
    (r"res_features\.([456])\.", lambda found: f"encoder.stages.layer{int(found[1]) - 3}."),
)
"""A torchvision ResNet, cut behind its third stage."""

_RESNETS = {
    (False, 2, 2, 2): "resnet18",
    (False, 3, 4, 6): "resnet34",
    (True, 3, 4, 6): "resnet50",
    (True, 3, 4, 23): "resnet101",
    (True, 3, 8, 36): "resnet152",
}
_BANK_FIELDS = ("pathologies", "pathology_embeddings", "anatomies", "anatomy_embeddings")


def load_released(path: Path, *, text_bank: Path | None = None, text_encoder: str | None = None) -> Method:
    """Load a file of weights that the authors of a method released, in evaluation mode.

    Args:
        path: a file of `torch.save` (the weights themselves, or under "model" or "state_dict"), of which nothing but tensors
            and plain data is loaded; or a safetensors file.
        text_bank: a file with the embeddings of the vocabulary's texts, which are not part of a release, as
            `read_text_bank` takes it; None: they are computed from the published descriptions.
        text_encoder: what computes them, and embeds open questions: hub name or folder; None for the published one,
            Bio_ClinicalBERT.

    Raises:
        MedLIPError: the file can't be read or holds no such weights, or the text bank or the encoder can't be had.
    """
    state = _read_weights(path)
    kinds = [method_type(name) for name in method_names(HasReleasedWeights)]
    kind = next((kind for kind in kinds if cast("type[HasReleasedWeights]", kind).is_released(state)), None)
    if kind is None:
        known = " and ".join(kind.__name__ for kind in kinds)
        raise MedLIPError(
            f"{path}: holds no weights that MedLIP knows: tensors {name_some(sorted(state), 3)}. Give a model that MedLIP "
            f"saved, or released weights ({known}); other ones can be renamed for MeDSLIP.from_released."
        )
    vocabulary, encoder = default_vocabulary(), text_encoder or CLINICAL_BERT
    bank = _compute_bank(path, vocabulary, encoder) if text_bank is None else read_text_bank(text_bank, vocabulary)
    pathologies, anatomies = bank
    try:
        return cast("type[HasReleasedWeights]", kind).from_released(
            state,
            pathology_embeddings=pathologies,
            anatomy_embeddings=anatomies,
            vocabulary=vocabulary,
            text_encoder=encoder,
        )
    except MedLIPError as error:
        raise MedLIPError(f"{path}: {error}") from error


def read_text_bank(path: Path, vocabulary: Vocabulary) -> tuple[Tensor, Tensor]:
    """Read the embeddings (P, W) and (A, W) of a vocabulary's pathologies and anatomies, matched by name.

    Args:
        path: an .npz file with `pathologies` and `anatomies` (names), `pathology_embeddings` and `anatomy_embeddings`.
        vocabulary: says whose embeddings, and in which order.

    Raises:
        MedLIPError: the file can't be read, or lacks one of these, or a concept.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            names = {field: np.asarray(content[field]) for field in _BANK_FIELDS}
    except (OSError, ValueError, EOFError, KeyError, TypeError, AttributeError) as error:
        raise MedLIPError(
            f"{path}: no readable text bank ({error}). Give a file that numpy.savez wrote, with {', '.join(_BANK_FIELDS)}."
        ) from error
    banks = []
    for field, own, concepts in (
        ("pathologies", "pathology_embeddings", vocabulary.pathologies),
        ("anatomies", "anatomy_embeddings", vocabulary.anatomies),
    ):
        rows = {str(name): row for row, name in enumerate(names[field])}
        missing = [concept.name for concept in concepts if concept.name not in rows]
        if missing or len(names[field]) != len(names[own]) or names[own].ndim != 2:
            why = f"lacks {name_some(missing, 5)}" if missing else f"{own} is {names[own].shape}, not a row for each name"
            raise MedLIPError(f"{path}: {why}. Give one embedding for each of the {len(concepts)} {field}, by name.")
        banks.append(torch.from_numpy(np.float32(names[own][[rows[concept.name] for concept in concepts]])))
    return banks[0], banks[1]


def released_name(name: str, names: ReleasedNames) -> str | None:
    """Return our name of a released tensor, None where no pattern fits."""
    for pattern, replacement in names:
        renamed, count = re.subn(f"^{pattern}", replacement, name)
        if count:
            return renamed
    return None


def released_decoder(theirs: str, ours: str) -> ReleasedNames:
    """Return the names of a query decoder, from the pattern of their beginning and ours."""
    last = theirs.count("(") + 1  # the group of the layer's number
    return (
        (rf"{theirs}layers\.(\d+)\.self_attn\.", rf"{ours}layers.\{last}.self_attention."),
        (rf"{theirs}layers\.(\d+)\.multihead_attn\.", rf"{ours}layers.\{last}.cross_attention."),
        (theirs, ours),
    )


def rename_released(released: Mapping[str, Tensor], names: ReleasedNames, method: str) -> dict[str, Tensor]:
    """Return released tensors under our names.

    Raises:
        MedLIPError: a name is unknown, or tensors that are shared here differ.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in released.items():
        renamed = released_name(name.removeprefix("module."), names)
        if renamed is None:
            raise MedLIPError(
                f"released weights: {name!r} is no tensor of {method}. Give the dictionary under checkpoint['model']."
            )
        if renamed in state and not torch.equal(state[renamed], tensor):
            raise MedLIPError(f"released weights: {name!r} differs from its twin of the other stream, which it shares.")
        state[renamed] = tensor
    return state


def released_settings(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read the settings of a query method from the shapes of its renamed weights.

    Raises:
        MedLIPError: tensors are missing.
    """

    def count(pattern: str) -> int:
        return len({found[1] for name in state if (found := re.match(pattern, name))})

    stages = (count(rf"encoder\.stages\.layer{stage}\.(\d+)\.") for stage in (1, 2, 3))
    kind = ("encoder.stages.layer1.0.conv3.weight" in state, *stages)
    if kind not in _RESNETS:
        raise MedLIPError(f"released weights: no ResNet has (bottleneck, blocks a stage) = {kind}. Is the file complete?")
    hidden = next((tensor for name, tensor in state.items() if name.endswith(".linear1.weight")), None)
    if hidden is None or "embed.weight" not in state:
        raise MedLIPError("released weights: the text embedding or the query decoder is missing. Is the file complete?")
    return {
        "backbone": _RESNETS[kind],
        "width": state["embed.weight"].shape[0],
        "layers": count(r"decode\.(?:pathology\.)?layers\.(\d+)\."),
        "feedforward": hidden.shape[0],
    }


def _compute_bank(path: Path, vocabulary: Vocabulary, encoder: str) -> tuple[Tensor, Tensor]:
    """Embed the descriptions of pathologies and the short texts of anatomies, as published."""
    try:
        opened = open_text_encoder(encoder)
    except MedLIPError as error:
        raise MedLIPError(
            f"{path}: released weights come without their text bank, which the text encoder {encoder!r} computes, and that "
            f"can't be had ({error}). Run once where the hub can be reached (`medlip convert` keeps the bank with the "
            "weights), name a folder that holds it (--text-encoder), or give the embeddings (--text-bank)."
        ) from error
    pathologies = opened.encode([pathology.description for pathology in vocabulary.pathologies])
    return pathologies, opened.encode([anatomy.text for anatomy in vocabulary.anatomies])


def _read_weights(path: Path) -> dict[str, Tensor]:
    """Read tensors by name, without the "module." of distributed training and what old text encoders kept of positions."""
    try:
        content: Any = load_file(path) if path.suffix == ".safetensors" else _load_tensors(path)
    except FileNotFoundError as error:
        raise MedLIPError(f"{path}: there is no such file.") from error
    except pickle.UnpicklingError as error:
        raise MedLIPError(
            f"{path}: is no file of weights alone. Only tensors and plain data are loaded, since anything else in a pickle "
            "could run code. Ask its authors for a safetensors file, or save the state dict alone with torch.save."
        ) from error
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, SafetensorError) as error:
        reason = str(error).strip().split("\n")[0]
        raise MedLIPError(f"{path}: no readable file of weights ({reason}). Get the file again.") from error
    for name in ("model", "state_dict"):  # beside what trained them
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    tensors = (
        {str(name).removeprefix("module."): value for name, value in content.items() if isinstance(value, Tensor)}
        if isinstance(content, Mapping)
        else {}
    )
    if not tensors:
        raise MedLIPError(f"{path}: holds no weights by name. Give a state dict, or a checkpoint with one under 'model'.")
    return {name: tensor for name, tensor in tensors.items() if not name.endswith("embeddings.position_ids")}


def _load_tensors(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is refused anyway
        return torch.load(path, map_location="cpu", weights_only=True)
