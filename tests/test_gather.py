"""Contrast over two processes: the same loss and the same gradients as in one process with the whole batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from medlip.methods.contrastive import contrastive_loss
from medlip.nn.gather import gather, gather_padded

RANKS, SHARE = 2, 3


def tensors() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(RANKS * SHARE, 4, generator=generator), torch.randn(RANKS * SHARE, 4, generator=generator)


def loss_of(images: torch.Tensor, texts: torch.Tensor, layer: torch.nn.Linear) -> torch.Tensor:
    weights = gather((images.sum(1) > 0).float() + 0.5)
    return contrastive_loss(gather(layer(images)) @ gather(texts).T, weights)


def layer() -> torch.nn.Linear:
    torch.manual_seed(1)
    return torch.nn.Linear(4, 4)


def work(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=RANKS)
    try:
        images, texts = tensors()
        mine = slice(rank * SHARE, (rank + 1) * SHARE)
        model = layer()
        loss = loss_of(images[mine], texts[mine], model)
        loss.backward()  # type: ignore[no-untyped-call]
        gradient = model.weight.grad
        assert gradient is not None
        dist.all_reduce(gradient)  # data parallelism averages the processes' gradients
        lengths = gather_padded(torch.ones(SHARE, 1 + rank, 2))
        torch.save({"loss": loss.detach(), "gradient": gradient / RANKS, "padded": lengths}, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(work, (str(folder),), nprocs=RANKS)  # type: ignore[no-untyped-call]
    return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(RANKS)]


def test_two_processes_learn_what_one_would(results: list[dict[str, torch.Tensor]]) -> None:
    images, texts = tensors()
    model = layer()
    loss = loss_of(images, texts, model)
    loss.backward()  # type: ignore[no-untyped-call]
    for result in results:
        torch.testing.assert_close(result["loss"], loss.detach())
        torch.testing.assert_close(result["gradient"], model.weight.grad)


def test_rows_of_other_lengths_are_filled_with_zeros(results: list[dict[str, torch.Tensor]]) -> None:
    for result in results:
        assert result["padded"].shape == (RANKS * SHARE, RANKS, 2)
        assert result["padded"][:SHARE, 1].eq(0).all()
        assert result["padded"][SHARE:].eq(1).all()


def test_a_process_alone_keeps_its_tensor() -> None:
    values = torch.randn(3, 2)
    assert gather(values) is values
    assert gather_padded(values) is values
