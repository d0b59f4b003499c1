"""Trained models as one graph that other runtimes compute: written as ONNX or by torch.export, and used as any other."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medlip.concepts import Vocabulary
from medlip.errors import MedLIPError
from medlip.images.preprocessing import Preprocessing
from medlip.methods.base import (
    Answers,
    AnswersAtOnce,
    HasGraph,
    Method,
    Origin,
    TellsPlaces,
    WhichMaps,
    describe_method,
    method_names,
    method_type,
    parse_config,
    split_prompts,
)
from medlip.nn.text import text_encoder

if TYPE_CHECKING:
    from medlip.data.batch import Batch

ExportFormat = Literal["onnx", "torch-export"]
SUFFIXES = (".onnx", ".pt2")
"""How exported models are called, by format."""
ABOUT = "medlip"  # under which the files keep what is known of the model
TOLERANCE = 1e-4
_INPUTS, _OUTPUTS = ("images", "texts"), ("probabilities", "maps", "places")

Graph = Callable[[NDArray[np.float32], NDArray[np.float32]], Sequence[NDArray[np.float32]]]


def export_method(method: Method, path: Path, format: ExportFormat) -> float:
    """Write a model as one graph, and return by how much its answers differ from the model's own, at most.

    The graph takes `images` (B, 3, S, S), preprocessed, and `texts` (n, W), embeddings of open questions by the model's text
    encoder, at least one; it gives `probabilities` (B, P + n), `maps` (B, P + n, h, w) and `places` (B, P + n, A), of the
    vocabulary's P pathologies first. B and n are free.

    Args:
        method: the model.
        path: the file, called .onnx or .pt2.
        format: `onnx`, or `torch-export`.

    Raises:
        MedLIPError: the method has no graph, the file is called otherwise, packages are missing, or the graph's answers
            differ by more than 1e-4.
    """
    suffix = SUFFIXES[format == "torch-export"]
    if path.suffix != suffix:
        raise MedLIPError(f"{path}: a model in the format {format} is called *{suffix}. Give another name.")
    if not isinstance(method, HasGraph):
        able = ", ".join(method_names(HasGraph))
        raise MedLIPError(f"method {method.name!r} can't be exported: it has no graph. Methods that have one: {able}.")
    graph, width = method.eval().cpu().graph()
    about = {
        **describe_method(method),
        "fingerprint": method.fingerprint,
        "absolute_maps": method.absolute_maps,
        "text_width": width,
        "origin": [method.origin.name, method.origin.version] if method.origin else None,
    }
    size = method.preprocessing.size
    generator = torch.Generator().manual_seed(0)
    example = torch.randn(2, 3, size, size, generator=generator), torch.randn(3, width, generator=generator)
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        write = _write_onnx if format == "onnx" else _write_program
        write(graph.eval(), example, path, json.dumps(about))
        compute, _ = _open(path)
        worst = 0.0
        for images, texts in ((2, 3), (1, 1), (3, 2)):  # other sizes than the graph was made with, too
            inputs = torch.randn(images, 3, size, size, generator=generator), torch.randn(texts, width, generator=generator)
            found = compute(*(part.numpy() for part in inputs))
            pairs = zip(graph(*inputs), found, strict=True)
            worst = max([worst, *(float(np.abs(ours.numpy() - theirs).max()) for ours, theirs in pairs)])
    if not worst <= TOLERANCE:
        path.unlink()
        raise MedLIPError(
            f"{path}: the exported model's answers differ by {worst:.2g} from its own, more than {TOLERANCE:g}. Export it "
            "in the other format, or update torch and onnxruntime."
        )
    return worst


def load_exported(path: Path) -> Method:
    """Open what `export_method` wrote.

    Raises:
        MedLIPError: the file can't be read or was not written by MedLIP, or packages are missing.
    """
    compute, content = _open(path)
    try:
        about = json.loads(content)
        return ExportedMethod(compute, about, str(path))
    except (KeyError, TypeError, ValueError) as error:
        raise MedLIPError(f"{path}: carries no MedLIP settings. Give a file that `medlip export` wrote.") from error


class ExportedMethod(AnswersAtOnce, TellsPlaces):
    """A model whose graph another runtime computes; it answers as the model that it was exported from.

    Args:
        compute: images and texts to probabilities, maps and places.
        about: what `export_method` keeps of the model.
        where: the file, for messages.
    """

    name = "exported"

    def __init__(self, compute: Graph, about: dict[str, Any], where: str) -> None:
        settings = about["method"]
        config = parse_config(method_type(settings["name"]), settings)
        vocabulary = Vocabulary.parse(about["vocabulary"], where)
        super().__init__(config, vocabulary, Preprocessing.from_dict(about["preprocessing"]))
        self.__dict__["name"] = settings["name"]  # for this one alone: other files hold other methods
        self._compute, self._about = compute, about
        self.origin = Origin(*about["origin"]) if about["origin"] else None

    @property
    def fingerprint(self) -> str:
        """That of the model that was exported."""
        return str(self._about["fingerprint"])

    @property
    def absolute_maps(self) -> bool:
        """As the model's that was exported."""
        return bool(self._about["absolute_maps"])

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Refuse: a graph learns nothing."""
        raise MedLIPError("an exported model can't be trained. Train the run that it was made of.")

    @torch.inference_mode()
    def answer(
        self,
        images: Tensor,
        prompts: Sequence[str],
        *,
        maps: WhichMaps = False,
        anatomies: bool = False,
        embeddings: bool = False,
    ) -> Answers:
        """Return all that is wanted of images (B, 3, S, S), computed at once."""
        asked, columns = split_prompts(prompts, self.vocabulary)
        encoder = text_encoder(self.config.text_encoder, self.config.max_tokens) if asked else None
        # one text at least, which changes nothing of what the others get
        texts = encoder.encode(asked).numpy() if encoder else np.zeros((1, self._about["text_width"]), np.float32)
        computed = self._compute(images.float().cpu().numpy(), texts.astype(np.float32))
        scores, drawn, places = (torch.from_numpy(np.asarray(part))[:, columns] for part in computed)
        return Answers(scores, drawn if maps else None, places if anatomies else None)

    def score_anatomies(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the probability (B, C, A) that each prompt is present in each anatomy."""
        return cast("Tensor", self.answer(images, prompts, anatomies=True).anatomies)


def _dimensions() -> tuple[dict[int, Any], dict[int, Any]]:
    return {0: torch.export.Dim("images", min=1)}, {0: torch.export.Dim("texts", min=1)}


def _write_onnx(graph: nn.Module, example: tuple[Tensor, Tensor], path: Path, about: str) -> None:
    _require_onnx()
    program = torch.onnx.export(
        graph,
        example,
        dynamo=True,
        input_names=_INPUTS,
        output_names=_OUTPUTS,
        dynamic_shapes=_dimensions(),
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props[ABOUT] = about
    program.save(path)


def _write_program(graph: nn.Module, example: tuple[Tensor, Tensor], path: Path, about: str) -> None:
    program = torch.export.export(graph, example, dynamic_shapes=_dimensions())
    torch.export.save(program, path, extra_files={ABOUT: about})


def _open(path: Path) -> tuple[Graph, str]:
    """Return what computes an exported file, and what it keeps of the model."""
    if not path.is_file():
        raise MedLIPError(f"{path}: there is no such file.")
    try:
        return _open_onnx(path) if path.suffix == SUFFIXES[0] else _open_program(path)
    except MedLIPError:
        raise
    except Exception as error:  # runtimes raise errors of their own kinds
        reason = str(error).strip().split("\n")[0]
        raise MedLIPError(f"{path}: no readable exported model ({reason}). Export it again.") from error


def _open_onnx(path: Path) -> tuple[Graph, str]:
    runtime = _require_onnx()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def compute(images: NDArray[np.float32], texts: NDArray[np.float32]) -> Sequence[NDArray[np.float32]]:
        found: Sequence[NDArray[np.float32]] = session.run(list(_OUTPUTS), dict(zip(_INPUTS, (images, texts), strict=True)))
        return found

    return compute, session.get_modelmeta().custom_metadata_map.get(ABOUT, "null")


def _open_program(path: Path) -> tuple[Graph, str]:
    kept = {ABOUT: ""}
    module = torch.export.load(path, extra_files=kept).module()

    def compute(images: NDArray[np.float32], texts: NDArray[np.float32]) -> Sequence[NDArray[np.float32]]:
        with torch.inference_mode():
            found = module(torch.from_numpy(images), torch.from_numpy(texts))
        return [part.numpy() for part in found]

    return compute, kept[ABOUT]


def _require_onnx() -> Any:
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MedLIPError(f"models in ONNX need further packages ({error}). Run: pip install 'medlip[onnx]'") from error
    return onnxruntime
