"""The COVID-19 image data collection, on fixtures in its layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medlip.data.prepare import prepare
from medlip.data.sources import open_source
from medlip.data.store import Store
from medlip.errors import MedLIPError

ROWS = """patientid,offset,sex,age,finding,view,modality,filename,license
1,0,M,65,Pneumonia/Viral/COVID-19,PA,X-ray,a.jpeg,CC BY
1,3,M,65,COVID-19,AP Supine,X-ray,b.png,
2,0,F,40,No Finding,PA,X-ray,c.png,
3,,,,todo,L,X-ray,d.png,
3,,,,COVID-19,Axial,CT,e.png,
"""
MASKS = """filename,label,mask
a.jpeg,Consolidation,a1.png
a.jpeg,Left Lung,a2.png
c.png,Right Lung,c1.png
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "covid"
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    (folder / "metadata.csv").write_text(ROWS)
    (folder / "masks.csv").write_text(MASKS)
    generator = np.random.default_rng(0)
    for name in ("a.jpeg", "b.png", "c.png", "d.png"):
        Image.fromarray(generator.integers(0, 255, (60, 40)).astype(np.uint8)).save(folder / "images" / name)
    for name in ("a1", "a2", "c1"):
        pixels = np.zeros((60, 40), np.uint8)
        pixels[:30, :20] = 255
        Image.fromarray(pixels).save(folder / "masks" / f"{name}.png")
    return folder


def test_masks_are_findings_and_what_was_not_drawn_is_absent(folder: Path) -> None:
    drawn, undrawn, healthy, unknown = open_source(f"covid:{folder}")
    masks = {(mask.pathology, mask.anatomy) for mask in drawn.views[0].masks}
    assert masks == {("consolidation", ""), ("opacity", ""), ("", "left_lung_unspec")}
    assert drawn.labels["pneumonia"] == drawn.labels["opacity"] == "present"
    assert drawn.labels["effusion"] == drawn.labels["tube"] == "absent"
    assert undrawn.labels == {"pneumonia": "present"}
    assert undrawn.patient == drawn.patient
    assert healthy.labels["pneumonia"] == healthy.labels["opacity"] == "absent"
    assert unknown.labels == {}
    assert [study.views[0].position for study in (drawn, undrawn, healthy, unknown)] == ["PA", "AP", "PA", "lateral"]


def test_a_store_of_it_is_for_tests_alone(folder: Path, tmp_path: Path) -> None:
    prepare([f"covid:{folder}"], tmp_path / "store", workers=0)
    store = Store.open(tmp_path / "store")
    assert dict(store.splits) == {"test": 3}
    assert store[0].masks[0].pixels.shape == store[0].image.shape
    assert store.masked_findings() == [{"consolidation", "opacity"}, set(), set()]
    skipped = (tmp_path / "store" / "skipped.csv").read_text()
    assert "modality is CT" in skipped and "d" in skipped


def test_a_lung_s_mask_of_another_size_costs_the_mask_and_not_the_image(folder: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((30, 20), 255, np.uint8)).save(folder / "masks" / "a2.png")
    summary = prepare([f"covid:{folder}"], tmp_path / "store", workers=0)
    assert summary["images"] == 3
    assert any("masks of anatomies that don't fit" in note for note in summary["remarks"])
    assert {mask.pathology for mask in Store.open(tmp_path / "store")[0].masks} == {"consolidation", "opacity"}


def test_an_unknown_or_missing_mask_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "masks" / "a1.png").unlink()
    prepare([f"covid:{folder}"], tmp_path / "store", workers=0)
    assert "mask of Consolidation can't be read" in (tmp_path / "store" / "skipped.csv").read_text()
    (folder / "masks.csv").write_text(MASKS + "b.png,Moon,m.png\n")
    with pytest.raises(MedLIPError, match="mask of 'Moon'"):
        open_source(f"covid:{folder}")


def test_the_real_collection_is_read_whole() -> None:
    folder = Path(__file__).parents[2] / "shared" / "data" / "covid"
    if not folder.is_dir():
        pytest.skip("../shared/data/covid is not there")
    studies = list(open_source(f"covid:{folder}"))
    assert len(studies) == 392
    assert sum("opacity" in {mask.pathology for mask in study.views[0].masks} for study in studies) == 60
