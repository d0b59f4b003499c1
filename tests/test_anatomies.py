"""Maps of a lung's zones are held against that lung, a radiologist's or a phantom's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fakes import FakeMethod
from medlip.data.store import Store
from medlip.errors import MedLIPError
from medlip.evaluation import evaluate
from medlip.methods.base import HasStreams
from medlip.phantom import phantom
from medlip.phantom.generator import lungs_of_phantom


class Looks(FakeMethod, HasStreams):
    """Looks for what is on the patient's left in one half of the image, and for the rest in the other."""

    def __init__(self, left: slice) -> None:
        super().__init__()
        self.left = left

    def streams(self, images: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError

    def stream_maps(self, images: Tensor) -> dict[str, Tensor]:
        maps = torch.zeros(len(images), len(self.vocabulary.anatomies), 8, 8)
        for row, anatomy in enumerate(self.vocabulary.anatomies):
            half = self.left if anatomy.side == "left" else slice(8 - self.left.stop, 8 - self.left.start)
            maps[:, row, 2:5, half] = 1
        return {"anatomy": maps}


def test_a_map_in_the_own_lung_is_told_from_one_in_the_other(phantom_store: Path) -> None:
    store = Store.open(phantom_store)
    right, wrong = (
        evaluate(Looks(half), store, split="test", tasks=("anatomies",), resamples=20)["anatomies"]
        for half in (slice(5, 7), slice(1, 3))  # the patient's left is the image's right
    )
    assert right["inside"].value > 0.9 and right["own_side"].value > 0.9
    assert wrong["inside"].value < 0.1 and wrong["own_side"].value < 0.1
    assert 0.03 < right["inside"].chance < 0.3 and right["own_side"].chance == 0.5
    zones = set(right.per_class)
    assert {"left_lower_lung", "upper_right_lobe", "right_lung_unspec"} <= zones
    assert not {"left_hilar", "left_pleural", "lung_bases"} & zones


@pytest.mark.parametrize("index", range(4))
def test_a_phantom_s_findings_of_a_lung_lie_in_that_lung(index: int) -> None:
    study = phantom(index, seed=3)
    lungs = lungs_of_phantom(study.id)
    assert lungs is not None and not (lungs["left"] & lungs["right"]).any()
    for mask in study.views[0].masks:
        for side in ("left", "right"):
            if mask.pathology in ("nodule", "mass", "opacity") and side in mask.anatomy.split("_"):
                assert np.mean(lungs[side][mask.pixels]) > 0.8


def test_a_method_without_maps_of_anatomies_is_refused(phantom_store: Path) -> None:
    with pytest.raises(MedLIPError, match=r"has no maps of anatomies\. Methods that have: medlip, medslip"):
        evaluate(FakeMethod(), Store.open(phantom_store), split="test", tasks=("anatomies",))
