"""How fast images come out of a store, beside the usual way of reading originals."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sized
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from medlip.concepts import default_vocabulary
from medlip.data.batch import TrainingBatches
from medlip.data.prepare import prepare
from medlip.data.sources import Source, open_source
from medlip.data.store import Store
from medlip.data.study import Study, View
from medlip.images.augment import Augment
from medlip.images.preprocessing import Preprocessing
from medlip.memory import MIB, peak_resident
from medlip.parallel import cpu_count

ORIGINAL = 2000
BATCH = 32
PASSES = 3  # in turn; the best of each counts, which other work on the machine disturbed least


def bench_store(images: int = 512, originals: int = 16, size: int = 224) -> dict[str, object]:
    """Measure images a second from a store to augmented batches, and from 2,000 px originals by per-image transforms.

    Args:
        images: in the store.
        originals: PNG and JPEG files, half of each, read the usual way (to RGB, RandomResizedCrop, RandAugment).
        size: side of the batches.

    Returns:
        images_per_second (read from the store, decoded, augmented), cached_images_per_second (from memory, as in every epoch
        but the first where the store fits), raw_images_per_second (the usual way), speedup, peak_memory_mb.
    """
    with TemporaryDirectory(prefix="medlip-") as folder:
        files = _originals(Path(folder) / "originals", originals)
        items = {str(i): Study(str(i), str(i), (View(files[i % originals]),), split="train") for i in range(images)}
        prepare([Source("bench", items)], Path(folder) / "store")
        store = Store.open(Path(folder) / "store")
        loader = DataLoader(_Originals(files, size), batch_size=8, num_workers=cpu_count())
        rates = []
        for _ in range(PASSES):
            batches = TrainingBatches(store, Preprocessing(size), Augment(size), BATCH, 0, default_vocabulary())
            ways = (batches.epoch(0), batches.epoch(1), loader)
            rates.append([_rate(way) for way in ways])
        first, cached, raw = map(max, zip(*rates, strict=True))
    return {
        "images_per_second": round(first, 1),
        "cached_images_per_second": round(cached, 1),
        "raw_images_per_second": round(raw, 1),
        "speedup": round(first / raw, 1),
        "peak_memory_mb": round(peak_resident() / MIB),
    }


def _rate(batches: Iterable[Sized]) -> float:
    start = time.perf_counter()
    return sum(map(len, batches)) / (time.perf_counter() - start)


def _originals(folder: Path, count: int) -> list[Path]:
    """Write phantoms enlarged to the size of a detector, with its noise."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    files = []
    phantoms = open_source(f"phantom:{count}")
    assert isinstance(phantoms, Source)
    for index, study in enumerate(phantoms):
        pixels = study.views[0].image
        assert isinstance(pixels, np.ndarray)
        large = np.asarray(Image.fromarray(pixels).resize((ORIGINAL, ORIGINAL), Image.Resampling.BICUBIC))
        noisy = (large + draw.normal(0, 3, large.shape)).clip(0, 255).astype(np.uint8)
        files.append(folder / f"{index}.{'png' if index % 2 else 'jpg'}")
        Image.fromarray(noisy).save(files[-1])
    return files


class _Originals(Dataset[Tensor]):
    """The usual way: one file at a time, through torchvision's transforms; every file four times."""

    def __init__(self, files: list[Path], size: int) -> None:
        from torchvision.transforms import Compose, RandAugment, RandomResizedCrop, ToTensor

        self.files = files * 4
        self.transform = Compose([RandomResizedCrop(size), RandAugment(), ToTensor()])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self.files[index]) as picture:
            image: Tensor = self.transform(picture.convert("RGB"))
        return image
