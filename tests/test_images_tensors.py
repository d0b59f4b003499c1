from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from medlip.errors import MedLIPError
from medlip.images.augment import Augment, move_boxes, move_masks
from medlip.images.preprocessing import Preprocessing

STILL = Augment(64, scale=(1, 1), rotate=0, translate=0, contrast=0, brightness=0, tone=0)
WILD = Augment(64, rotate=25, mirror=0.5)


def noise(count: int, height: int = 96, width: int = 96) -> torch.Tensor:
    return torch.randint(0, 256, (count, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def smooth(count: int, height: int = 96, width: int = 96) -> torch.Tensor:
    return interpolate(noise(count, 6, 6)[:, None], (height, width), mode="bilinear")[:, 0]


def test_preprocessing_squashes_to_three_normalised_channels() -> None:
    preprocessing = Preprocessing(32, mean=(0.5, 0.5, 0.25), std=(0.5, 0.25, 1))
    white = torch.full((2, 40, 60), 255, dtype=torch.uint8)
    output = preprocessing(white)
    assert output.shape == (2, 3, 32, 32) and output.dtype == torch.float32
    torch.testing.assert_close(output[0, :, 5, 5], torch.tensor([1.0, 2.0, 0.75]))
    assert torch.equal(output, preprocessing(white[:, None]))


def test_preprocessing_does_not_alias() -> None:
    stripes = torch.zeros(1, 256, 256, dtype=torch.uint8)
    stripes[:, :, ::2] = 255
    grey = Preprocessing(64, mean=(0, 0, 0), std=(1, 1, 1))(stripes)
    assert (grey[..., 2:-2] - 0.5).abs().max() < 0.02


@pytest.mark.parametrize("wrong", [torch.rand(1, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)])
def test_preprocessing_says_what_it_wants(wrong: torch.Tensor) -> None:
    with pytest.raises(MedLIPError, match="give"):
        Preprocessing(8)(wrong)


@pytest.mark.parametrize("value", [255.0, -1.0, float("nan")])
def test_normalising_twice_or_too_late_is_an_error(value: float) -> None:
    with pytest.raises(MedLIPError, match=r"floats in \[0, 1\]"):
        Preprocessing(8).normalise(torch.full((1, 8, 8), value))


def test_preprocessing_survives_the_checkpoint() -> None:
    preprocessing = Preprocessing(128, mean=(0.4, 0.4, 0.4))
    assert Preprocessing.from_dict(preprocessing.to_dict()) == preprocessing
    with pytest.raises(MedLIPError, match="'std' is missing"):
        Preprocessing.from_dict({"size": 8, "mean": [0, 0, 0]})


def test_augmentation_without_changes_is_the_image() -> None:
    images = smooth(3, 64, 64)
    augmented = STILL(images, [1, 2, 3])
    torch.testing.assert_close(augmented.images, images / 255, atol=1e-5, rtol=0)
    assert not augmented.mirrored.any()


def test_augmentation_does_not_depend_on_the_batch() -> None:
    images, seeds = noise(7), [11, 5, 3, 2**40, 9, 1, 0]
    together = WILD(images, seeds)
    alone = [WILD(images[i : i + 1], [seed]) for i, seed in enumerate(seeds)]
    for field in ("images", "transforms", "mirrored"):
        assert torch.equal(getattr(together, field), torch.cat([getattr(one, field) for one in alone]))
    assert 0 < together.mirrored.sum() < 7


def test_another_seed_gives_another_image() -> None:
    images = smooth(1).repeat(2, 1, 1)
    first, second = WILD(images, [1, 2]).images
    assert (first - second).abs().mean() > 0.02


def test_intensities_stay_in_range() -> None:
    images = replace(WILD, contrast=0.9, brightness=0.9, tone=0.9)(noise(16), range(16)).images
    assert images.min() >= 0 and images.max() <= 1


def test_augmentation_does_not_alias() -> None:
    stripes = torch.zeros(1, 256, 256, dtype=torch.uint8)
    stripes[:, :, ::2] = 255
    grey = STILL(stripes, [0]).images
    assert (grey[..., 2:-2] - 0.5).abs().max() < 0.02


def test_mirror_is_off_by_default_and_swaps_left_and_right() -> None:
    images = smooth(4, 64, 64)
    assert not Augment(64)(images, range(4)).mirrored.any()
    mirrored = replace(STILL, mirror=1)(images, range(4))
    assert mirrored.mirrored.all()
    torch.testing.assert_close(mirrored.images, images.flip(2) / 255, atol=1e-5, rtol=0)


def test_boxes_and_masks_move_along() -> None:
    size, seeds = 96, range(24)
    image = torch.zeros(size, size, dtype=torch.uint8)
    image[30:48, 20:41] = 255
    plain = replace(WILD, size=size, contrast=0, brightness=0, tone=0, scale=(0.8, 1), translate=0.0)
    augmented = plain(image.expand(len(seeds), size, size), seeds)
    box = torch.tensor([[20 / size, 30 / size, 21 / size, 18 / size]])
    for output, transform in zip(augmented.images, augmented.transforms, strict=True):
        seen = output > 0.5
        moved = move_masks((image > 0)[None], transform, size)[0]
        assert (moved == seen).float().mean() > 0.995
        x, y, width, height = (move_boxes(box, transform)[0] * size).tolist()
        rows, columns = (axis.numpy() for axis in torch.where(seen))
        np.testing.assert_allclose([columns.min(), rows.min()], [x, y], atol=2)
        np.testing.assert_allclose([columns.max() + 1, rows.max() + 1], [x + width, y + height], atol=2)


def test_a_box_that_leaves_the_image_is_empty() -> None:
    away = torch.tensor([[0.5, 0.0, 0.5], [0.0, 0.5, 0.0]])
    assert torch.equal(move_boxes(torch.tensor([[0.0, 0.4, 0.2, 0.2]]), away)[0, 2:] > 0, torch.tensor([False, True]))


@pytest.mark.parametrize(
    "setting", [{"scale": (0.0, 1.0)}, {"scale": (0.9, 0.5)}, {"rotate": 200}, {"mirror": 2}, {"tone": 1}, {"size": 0}]
)
def test_a_setting_out_of_range_is_named(setting: dict[str, object]) -> None:
    with pytest.raises(MedLIPError, match=next(iter(setting))):
        Augment(**{"size": 8, **setting})  # type: ignore[arg-type]


def test_floats_and_missing_seeds_are_refused() -> None:
    with pytest.raises(MedLIPError, match="uint8"):
        WILD(torch.rand(1, 8, 8), [1])
    with pytest.raises(MedLIPError, match="one seed for each image"):
        WILD(noise(2), [1])
