"""Losses over two processes: the same loss and the same gradients as in one process with the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from medlip.concepts import default_vocabulary
from medlip.images.preprocessing import Preprocessing
from medlip.losses import info_nce
from medlip.methods import build_method
from medlip.methods.image_text import ImageTextMethod
from medlip.methods.mlip import MLIP
from medlip.nn.gather import gather, gather_padded
from medlip.nn.patches import draw_visible

pytestmark = pytest.mark.processes

RANKS, SHARE = 2, 3
REPORTS = (
    ("The heart is normal in size.", "No pneumothorax."),
    (),
    ("There is a large right pleural effusion.",),
    ("No pleural effusion.", "The lungs are clear.", "There is a 3.5 cm mass in the left lung."),
    ("No change since the prior study.", "Mild cardiomegaly."),
    ("A rib is broken.",),
)
TINY = {"backbone": "vit_tiny_patch16_224", "stride": 8, "depth": 1, "text_width": 32, "text_layers": 1, "width": 16}
MLIP_TINY = {"name": "mlip", "mask_ratio": 0.5, "decoder_width": 16, "decoder_layers": 1, "decoder_heads": 2}
METHODS: dict[str, dict[str, Any]] = {
    "convirt": {"name": "convirt"},
    "gloria": {"name": "gloria"},
    "mlip": MLIP_TINY,
    "mlip position attention": {**MLIP_TINY, "integrity": "position", "local": "attention"},
    "mlip reconstruction pair": {**MLIP_TINY, "integrity": "reconstruction", "local": "pair"},
}
Result = dict[str, dict[str, Tensor]]


class Contrast(nn.Module):
    """A layer under a weighted contrast, which no method has as simple."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Linear(4, 4)

    def terms(self, mine: slice) -> dict[str, Tensor]:
        images, texts = torch.randn(2, RANKS * SHARE, 4, generator=torch.Generator().manual_seed(0))[:, mine]
        weights = gather((images.sum(1) > 0).float() + 0.5)
        return {"contrast": info_nce(gather(self.layer(images)) @ gather(texts).T, weights)}


def make(name: str) -> tuple[nn.Module, Callable[[slice], dict[str, Tensor]]]:
    """Return a model, without the dropout that processes draw apart, and its loss terms of a part of the batch."""
    if name == "contrast":
        contrast = Contrast()
        return contrast, contrast.terms
    words = [" ".join(report) for report in REPORTS] * 3
    method = build_method({**TINY, **METHODS[name]}, default_vocabulary(), Preprocessing(32), lambda: words)
    assert isinstance(method, ImageTextMethod)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(len(REPORTS), 3, 32, 32, generator=generator)
    visible = draw_visible(len(REPORTS), (32 // method.encoder.stride) ** 2, 0.5, generator)

    def terms(mine: slice) -> dict[str, Tensor]:
        hidden = (visible[mine],) if isinstance(method, MLIP) else ()
        return method.loss_terms(images[mine], REPORTS[mine], *hidden)

    return method.eval(), terms


def learn(name: str, mine: slice) -> Result:
    """Return a model's loss terms of a part of the batch, and the gradients of their sum."""
    model, terms = make(name)
    losses = terms(mine)
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    gradients = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    return {"losses": {key: loss.detach() for key, loss in losses.items()}, "gradients": gradients}


def work(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=RANKS)
    try:
        results: dict[str, Any] = {}
        for name in ("contrast", *METHODS):
            results[name] = learn(name, slice(rank * SHARE, (rank + 1) * SHARE))
            for tensors in results[name].values():
                for tensor in tensors.values():  # data parallelism averages the processes' gradients
                    dist.all_reduce(tensor)
                    tensor /= RANKS
        results["padded"] = gather_padded(torch.ones(SHARE, 1 + rank, 2))
        torch.save(results, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(ranks: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    ranks(work, str(folder))
    return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(RANKS)]


@pytest.mark.parametrize("name", ["contrast", *METHODS])
def test_two_processes_learn_what_one_would(name: str, results: list[dict[str, Any]]) -> None:
    alone = learn(name, slice(None))
    for result in results:
        for kind in ("losses", "gradients"):
            torch.testing.assert_close(result[name][kind], alone[kind], rtol=1e-3, atol=1e-5)


def test_rows_of_other_lengths_are_filled_with_zeros(results: list[dict[str, Any]]) -> None:
    for result in results:
        assert result["padded"].shape == (RANKS * SHARE, RANKS, 2)
        assert result["padded"][:SHARE, 1].eq(0).all()
        assert result["padded"][SHARE:].eq(1).all()


def test_a_process_alone_keeps_its_tensor() -> None:
    values = torch.randn(3, 2)
    assert gather(values) is values
    assert gather_padded(values) is values
