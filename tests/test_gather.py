"""Losses over two processes: the same losses and the same gradients as in one process with the whole batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from medlip.concepts import default_vocabulary
from medlip.data.batch import Batch
from medlip.images.preprocessing import Preprocessing
from medlip.losses import info_nce
from medlip.methods import build_method, method_names
from medlip.methods.base import method_config
from medlip.nn.batch_norm import synchronize_statistics
from medlip.nn.gather import gather, gather_padded, total, uneven

pytestmark = pytest.mark.processes

RANKS = 2
SPLITS = {"even": (3, 3), "uneven": (4, 2)}
REPORTS = (
    ("The heart is normal in size.", "No pneumothorax."),
    (),
    ("There is a large right pleural effusion.",),
    ("No pleural effusion.", "The lungs are clear.", "There is a 3.5 cm mass in the left lung."),
    ("No change since the prior study.", "Mild cardiomegaly."),
    ("A rib is broken.",),
)
VOCABULARY = default_vocabulary()
TINY: dict[str, Any] = {
    "layers": 1, "feedforward": 32, "heads": 2, "width": 16, "text_width": 32, "text_layers": 1, "decoder_width": 16,
    "decoder_layers": 1, "decoder_heads": 2, "dropout": 0.0, "mask_ratio": 0.5,
}  # fmt: skip
PATCHES = {"backbone": "vit_tiny_patch16_224", "stride": 8, "depth": 1}
CONVOLUTIONS = {"backbone": "resnet10t", "stride": 16}
METHODS: dict[str, dict[str, Any]] = {
    "linear": {**CONVOLUTIONS, "unmentioned": 0.3},
    "medklip": CONVOLUTIONS,
    "medslip": CONVOLUTIONS,
    "medslip random": {**CONVOLUTIONS, "prototype": "random", "negatives": 3, "icl": "all"},
    "medslip cosine": {**CONVOLUTIONS, "contrast_normalize": True, "negatives": 60, "contrast_stop_gradient": True},
    "medslip scaled": {**CONVOLUTIONS, "prototype": "off", "icl": "scaled", "unmentioned": 0.3, "gate": "normalized"},
    "medlip": CONVOLUTIONS,
    "medlip apart": {**CONVOLUTIONS, "erase": "side", "positions": True, "symmetric": True, "pooled": 0.5},
    "convirt": CONVOLUTIONS,
    "convirt patches": PATCHES,
    "gloria": PATCHES,
    "mlip": PATCHES,
    "mlip convolutions": {**CONVOLUTIONS, "shuffle": False},
    "mlip attention": {**PATCHES, "integrity": "position", "local": "attention"},
    "mlip pair": {**PATCHES, "integrity": "reconstruction", "local": "pair", "distractors": 0.3},
    "mlip iterations": {**PATCHES, "integrity": "attention", "transport_gradient": "iterations"},
}
Result = dict[str, dict[str, Tensor]]


class Contrast(nn.Module):
    """A layer under a weighted contrast, which no method has as simple."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Linear(4, 4).double()

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        numbers = torch.randn(2, len(REPORTS), 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        images, texts = numbers[:, batch.seeds]
        weights = gather((images.sum(1) > 0).double() + 0.5)
        return {"contrast": info_nce(gather(self.layer(images)) @ gather(texts).T, weights)}


def make(name: str) -> Any:
    """Return a model in training, without the dropout that processes draw apart, and with statistics of the whole batch."""
    if name == "contrast":
        return Contrast()
    settings = {"name": name.split()[0]} | METHODS[name]
    known = type(method_config(settings)).model_fields
    settings = {key: value for key, value in TINY.items() if key in known} | settings
    words = [" ".join(report) for report in REPORTS] * 3
    method = build_method(settings, VOCABULARY, Preprocessing(32), lambda: words)
    return synchronize_statistics(method.double().train())


def batch_of(rows: slice) -> Batch:
    """Rows of a batch of noise, with the reports above and about a dozen facts an image, none in one of them."""
    generator, count = torch.Generator().manual_seed(0), len(REPORTS)
    images = torch.randn(count, 3, 32, 32, generator=generator, dtype=torch.float64)
    shape = (count, len(VOCABULARY.anatomies), len(VOCABULARY.pathologies))
    facts = torch.where(torch.rand(shape, generator=generator) < 0.004, torch.randint(0, 2, shape, generator=generator), -1)
    facts[1] = -1
    seeds, nothing = torch.arange(count), ((),) * count
    values: Sequence[Any] = (images, facts.to(torch.int8), nothing, nothing, nothing, REPORTS, nothing, nothing, nothing,
                             torch.zeros(count), seeds)  # fmt: skip
    return Batch(*(value[rows] for value in values))


def learn(name: str, rows: slice) -> Result:
    """Return a model's loss terms of a part of the batch, and the gradients of their sum."""
    model = make(name)
    losses = model.losses(batch_of(rows))
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    gradients = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    statistics = {key: value for key, value in model.named_buffers() if "running" in key or "erase" in key}
    return {"losses": {key: loss.detach() for key, loss in losses.items()}, "gradients": gradients, "statistics": statistics}


def work(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=RANKS)
    try:
        results: dict[str, Any] = {}
        for name in ("contrast", *METHODS):
            for split, shares in SPLITS.items():
                with uneven(shares if split == "uneven" else None):
                    first = sum(shares[:rank])
                    found = learn(name, slice(first, first + shares[rank]))
                for tensor in found["gradients"].values():  # data parallelism averages the processes' gradients
                    dist.all_reduce(tensor)
                    tensor /= RANKS
                results[f"{name} {split}"] = found
        results["padded"] = gather_padded(torch.ones(3, 1 + rank, 2))
        results["total"] = total(torch.tensor([1.0 + rank]))
        torch.save(results, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(ranks: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    ranks(work, str(folder))
    return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


@pytest.mark.parametrize("name", ["contrast", *METHODS])
def test_two_processes_learn_what_one_would(name: str, results: list[dict[str, Any]]) -> None:
    alone = learn(name, slice(None))
    for split in SPLITS:
        for result in results:
            for kind, expected in alone.items():
                torch.testing.assert_close(result[f"{name} {split}"][kind], expected, rtol=1e-5, atol=1e-7)


def test_every_method_is_among_them() -> None:
    assert {name.split()[0] for name in METHODS} >= set(method_names())


def test_rows_of_other_lengths_are_filled_with_zeros(results: list[dict[str, Any]]) -> None:
    for result in results:
        assert result["padded"].shape == (RANKS * 3, RANKS, 2)
        assert result["padded"][:3, 1].eq(0).all()
        assert result["padded"][3:].eq(1).all()
        assert result["total"].tolist() == [3]


def test_a_process_alone_keeps_its_tensor() -> None:
    values = torch.randn(3, 2)
    assert gather(values) is values
    assert gather_padded(values) is values
    assert total(values) is values


@pytest.mark.parametrize("kind", ["resnet10t", "tf_efficientnet_lite0"])
def test_statistics_of_all_processes_are_those_of_one_that_is_alone(kind: str) -> None:
    import timm

    torch.manual_seed(0)
    plain, ours = (timm.create_model(kind, features_only=True, out_indices=(0, 1)).double() for _ in range(2))
    ours.load_state_dict(plain.state_dict())
    synchronize_statistics(ours)
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    for module in (plain, ours):
        module.train()(images)[-1].square().sum().backward()
    torch.testing.assert_close(dict(ours.named_buffers()), dict(plain.named_buffers()), rtol=1e-6, atol=1e-8)
    expected = {name: part.grad for name, part in plain.named_parameters()}
    torch.testing.assert_close({name: part.grad for name, part in ours.named_parameters()}, expected, rtol=1e-5, atol=1e-7)
    assert torch.equal(ours.eval()(images)[-1], ours(images)[-1])
