"""The phantom chest: deterministic, sided, visible, and described by its report."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import lru_cache
from itertools import combinations, product

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from medlip.concepts import default_vocabulary
from medlip.data.sources import open_source
from medlip.data.study import Study, View
from medlip.errors import MedLIPError
from medlip.phantom import PATHOLOGIES, contact_sheet, phantom, phantoms, truth
from medlip.phantom.cases import PhantomCase, anatomies_of, draw_case
from medlip.phantom.findings import PhantomFinding, side_of
from medlip.phantom.generator import drawn_without, render

SIZE = 128
# SHA-256 of what reports and truth of twenty phantoms have been from the first.
PLAIN = "9bf05090b76df25ecedb7277b5dfee04f1fdd5999b7b72a952c158f6836a8dd2"


@lru_cache(maxsize=1)
def studies() -> tuple[Study, ...]:
    return tuple(phantoms(160, size=SIZE))


@lru_cache(maxsize=1)
def cases() -> tuple[PhantomCase, ...]:
    return tuple(draw_case(np.random.default_rng([7, index])) for index in range(4000))


@lru_cache(maxsize=1)
def independent_cases() -> tuple[PhantomCase, ...]:
    return tuple(draw_case(np.random.default_rng([7, index]), independent=True) for index in range(4000))


def every_finding(severity: float) -> list[PhantomFinding]:
    return [
        PhantomFinding(
            pathology,
            anatomy,
            severity,
            side_of(anatomy) or (1 if pathology in ("fracture", "pacemaker", "catheter") else 0),
        )
        for pathology in PATHOLOGIES
        for anatomy in anatomies_of(pathology) | anatomies_of(pathology, independent=True)
    ]


def one(pathology: str, anatomy: str, severity: float = 0.5) -> PhantomCase:
    return PhantomCase("M", 60, "PA", (PhantomFinding(pathology, anatomy, severity, side_of(anatomy) or 1),))


def same_view(a: View, b: View) -> bool:
    masks = all(np.array_equal(x.pixels, y.pixels) for x, y in zip(a.masks, b.masks, strict=True))
    return np.array_equal(a.image, b.image) and a.position == b.position and a.boxes == b.boxes and masks


def same(one: Study, other: Study) -> bool:
    views = all(same_view(a, b) for a, b in zip(one.views, other.views, strict=True))
    return views and one.report == other.report and one.labels == other.labels


def test_a_study_is_the_same_in_any_order() -> None:
    forwards = [phantom(index, seed=3, size=SIZE, lateral=True) for index in range(6)]
    backwards = [phantom(index, seed=3, size=SIZE, lateral=True) for index in reversed(range(6))]
    assert all(same(a, b) for a, b in zip(forwards, reversed(backwards), strict=True))


def test_a_study_is_the_same_in_another_process() -> None:
    code = (
        "import hashlib; from medlip.phantom import phantom; s = phantom(5, 1, 128, lateral=True);"
        "print(hashlib.sha256(b''.join(v.image.tobytes() for v in s.views) + s.report.encode()).hexdigest())"
    )
    elsewhere = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    study = phantom(5, 1, 128, lateral=True)
    pixels = b"".join(np.asarray(view.image).tobytes() for view in study.views)
    assert elsewhere == hashlib.sha256(pixels + study.report.encode()).hexdigest()


def test_index_and_seed_each_change_the_study() -> None:
    assert not np.array_equal(phantom(0, 0, SIZE).views[0].image, phantom(0, 1, SIZE).views[0].image)
    assert not np.array_equal(phantom(0, 0, SIZE).views[0].image, phantom(1, 0, SIZE).views[0].image)


@pytest.mark.parametrize("size", [64, 100, 256])
def test_any_size_gives_an_image_and_masks_of_that_size(size: int) -> None:
    (view,) = phantom(3, size=size).views
    assert isinstance(view.image, np.ndarray)
    assert view.image.shape == (size, size)
    assert view.image.dtype == np.uint8
    assert all(mask.pixels.shape == (size, size) and mask.pixels.dtype == np.bool_ for mask in view.masks)


@pytest.mark.parametrize(("index", "seed", "size"), [(-1, 0, 128), (0, -1, 128), (0, 0, 10)])
def test_bad_arguments_are_refused_with_advice(index: int, seed: int, size: int) -> None:
    with pytest.raises(MedLIPError, match="at least"):
        phantom(index, seed, size)


def test_boxes_fit_their_masks_tightly() -> None:
    for study in studies():
        (view,) = study.views
        assert [(box.pathology, box.anatomy) for box in view.boxes] == [
            (mask.pathology, mask.anatomy) for mask in view.masks
        ]
        for box, mask in zip(view.boxes, view.masks, strict=True):
            rows, columns = np.nonzero(mask.pixels)
            assert (box.x, box.y) == (columns.min(), rows.min())
            assert (box.width, box.height) == (np.ptp(columns) + 1, np.ptp(rows) + 1)


def test_the_patients_right_is_on_the_images_left() -> None:
    sided = [(mask, side_of(mask.anatomy)) for study in studies() for mask in study.views[0].masks if side_of(mask.anatomy)]
    assert {side for _, side in sided} == {-1, 1}
    for mask, side in sided:
        middle = np.nonzero(mask.pixels)[1].mean()
        assert (middle > SIZE / 2) == (side > 0), (mask.pathology, mask.anatomy)


@pytest.mark.parametrize("severity", [0.0, 1.0])
def test_every_finding_shows_inside_its_mask_and_hardly_outside(severity: float) -> None:
    for finding in every_finding(severity):
        case = PhantomCase("M", 60, "PA", (finding,))
        seen, (region,) = render(case, 11, 0, SIZE)[0]
        bare, _ = render(case, 11, 0, SIZE, without=[0])[0]
        change = np.abs(seen.astype(int) - bare)
        assert region.any(), finding
        assert change[region].mean() > 6, finding
        if finding.pathology not in ("cardiomegaly", "hyperinflate"):  # these move the whole chest
            assert change[region].mean() > 4 * change[~region].mean(), finding


def test_leaving_a_finding_out_keeps_the_others() -> None:
    two = PhantomCase(
        "F",
        50,
        "PA",
        (PhantomFinding("nodule", "left_upper_lung", 0.5, 1), PhantomFinding("effusion", "right_pleural", 0.7, -1)),
    )
    whole, rest = (render(two, 4, 0, SIZE, without=out, lateral=True) for out in ((), [0]))
    for (seen, (nodule, effusion)), (bare, (left,)) in zip(whole, rest, strict=True):
        assert np.array_equal(left, effusion)
        assert np.array_equal(np.where(nodule, 0, seen), np.where(nodule, 0, bare))


def test_more_severe_is_larger() -> None:
    for pathology, anatomy in (
        ("effusion", "left_pleural"),
        ("pneumothorax", "right_apical_lung"),
        ("nodule", "left_mid_lung"),
    ):
        areas = [
            [0 if region is None else region.sum() for _, (region,) in render(case, 2, 0, SIZE, lateral=True)]
            for case in (one(pathology, anatomy, severity) for severity in (0.0, 0.5, 1.0))
        ]
        for seen in zip(*areas, strict=True):
            assert list(seen) == sorted(seen), pathology
            assert seen[2] > 1.3 * seen[0] or not any(seen), pathology


def test_a_nodule_is_at_least_a_twentieth_of_the_image_wide() -> None:
    boxes = [box for study in studies() for box in study.views[0].boxes if box.pathology == "nodule"]
    assert boxes
    assert min(box.width for box in boxes) >= 0.05 * SIZE - 1


def test_every_name_is_in_the_vocabulary() -> None:
    vocabulary = default_vocabulary()
    assert len(PATHOLOGIES) >= 16
    for pathology in PATHOLOGIES:
        assert pathology in vocabulary.pathology_index
        for independent in (False, True):
            assert set(anatomies_of(pathology, independent)) <= set(vocabulary.anatomy_index)


def test_labels_say_present_or_absent_of_every_pathology() -> None:
    for study in studies():
        assert set(study.labels) == set(PATHOLOGIES)
        present = {name for name, presence in study.labels.items() if presence == "present"}
        assert present == {fact.pathology for fact in truth(study)}
        assert set(study.labels.values()) <= {"present", "absent"}
        assert study.facts is None


def test_prevalence_is_as_in_practice() -> None:
    found = Counter(pathology for case in cases() for pathology in {finding.pathology for finding in case.findings})
    shares = {pathology: found[pathology] / len(cases()) for pathology in PATHOLOGIES}
    assert all(0.07 <= share <= 0.3 for share in shares.values()), shares
    counts = Counter(len({finding.pathology for finding in case.findings}) for case in cases())
    assert 0.2 <= counts[0] / len(cases()) <= 0.3
    assert max(counts) == 4


@pytest.mark.parametrize(
    ("one", "other"),
    [("cardiomegaly", "edema"), ("edema", "effusion"), ("pneumothorax", "tube"), ("hyperinflate", "emphysema")],
)
def test_findings_occur_together_as_in_practice(one: str, other: str) -> None:
    having = [{finding.pathology for finding in case.findings} for case in cases()]
    share = sum(other in case for case in having) / len(having)
    given = [other in case for case in having if one in case]
    assert np.mean(given) > 1.5 * share


def test_a_chest_tube_lies_on_the_side_of_the_pneumothorax() -> None:
    pairs = []
    for case in cases():
        sides = {finding.pathology: finding.side for finding in case.findings if finding.side}
        if {"pneumothorax", "tube"} <= set(sides):
            pairs.append(sides["pneumothorax"] == sides["tube"])
    assert len(pairs) > 10
    assert np.mean(pairs) > 0.85


def test_every_report_has_its_sections_filled() -> None:
    headings = ("INDICATION", "TECHNIQUE", "COMPARISON", "FINDINGS", "IMPRESSION")
    for study in studies():
        lines = study.report.splitlines()
        assert [line.split(":")[0] for line in lines] == list(headings)
        assert all(len(line.split(": ", 1)[1]) > 4 for line in lines)
        assert "{" not in study.report
        assert "  " not in study.report


def test_reports_vary_negate_hedge_and_omit() -> None:
    reports = [study.report.split("FINDINGS: ")[1] for study in studies()]
    assert len(set(reports)) == len(reports)
    joined = " ".join(reports).lower()
    assert all(
        phrase in joined
        for phrase in ("no pneumothorax", "possible", "cannot be excluded", "within normal limits", "prior study")
    )


def test_a_clear_lung_is_never_claimed_beside_a_consolidation() -> None:
    for study in studies():
        text = study.report.split("FINDINGS: ")[1].lower()
        if study.labels["consolidation"] == "present":
            assert "lungs are clear" not in text


def test_the_split_depends_on_the_index_alone() -> None:
    splits = [phantom(index, seed, 64).split for seed in (0, 9) for index in range(8)]
    assert splits[:8] == splits[8:]
    shares = Counter(study.split for study in studies())
    assert set(shares) == {"train", "val", "test"}
    assert 0.58 < shares["train"] / len(studies()) < 0.82


def test_a_patient_has_one_study_and_no_identifier() -> None:
    assert len({study.patient for study in studies()}) == len(studies())
    assert all(set(study.attributes) == {"sex", "age"} for study in studies())


def test_a_plain_phantom_is_what_it_always_was() -> None:
    told = [phantom(index, seed, 64) for seed in (0, 1) for index in range(10)]
    content = repr([(study.id, study.report, truth(study), study.labels) for study in told])
    assert hashlib.sha256(content.encode()).hexdigest() == PLAIN


def test_independent_phantoms_are_other_patients_with_findings_in_other_places() -> None:
    plain, independent = phantom(4, 1, SIZE), phantom(4, 1, SIZE, independent=True)
    assert independent.id == independent.patient == "phantom-independent-1-4"
    assert independent.split == plain.split
    worlds = [[s for s in phantoms(20, size=64, independent=on) if not s.views[0].masks] for on in (False, True)]
    assert not any(np.array_equal(one.views[0].image, other.views[0].image) for one, other in product(*worlds))
    assert next(iter(open_source("phantom:1@1?independent"))).report == phantom(0, 1, independent=True).report
    assert same(list(phantoms(5, 1, SIZE, independent=True))[4], independent)
    places = {(finding.pathology, finding.anatomy) for case in independent_cases() for finding in case.findings}
    assert ("nodule", "right_hilar") in places
    assert {anatomy for pathology, anatomy in places if pathology == "effusion"} == {"left_pleural", "right_pleural"}


def test_a_phantom_is_drawn_without_a_finding_by_its_name_alone() -> None:
    for lateral, independent in ((False, False), (True, False), (False, True)):
        studies = phantoms(20, 2, SIZE, independent=independent, lateral=lateral)
        study = next(study for study in studies if study.views[-1].masks)
        view = study.views[-1]
        before, after = drawn_without(study.id, view.masks[0].pathology, SIZE, lateral=lateral)
        assert np.array_equal(before, view.image)
        assert not np.array_equal(after, before)
    assert drawn_without(study.id, "no finding of it") is None
    assert drawn_without("openi-1-2", "mass") is drawn_without("phantom-other-1-2", "mass") is None


def test_a_lateral_view_comes_beside_a_study_that_stays_as_it_is() -> None:
    for plain in (*phantoms(4, 3, SIZE), phantom(2, 3, SIZE, independent=True)):
        both = phantom(int(plain.id.split("-")[-1]), 3, SIZE, independent="independent" in plain.id, lateral=True)
        frontal, lateral = both.views
        assert same(replace(both, views=(frontal,)), plain)
        assert (both.patient, both.split, truth(both)) == (plain.patient, plain.split, truth(plain))
        assert both.id != plain.id
        assert lateral.position == "lateral"
        assert np.asarray(lateral.image).shape == (SIZE, SIZE)
        assert not np.array_equal(lateral.image, frontal.image)
    assert same(next(iter(open_source("phantom:1@1?lateral"))), phantom(0, 1, lateral=True))


def test_every_finding_shows_on_the_lateral_view_in_its_mask_at_its_height_or_not_at_all() -> None:
    hidden = set()
    for finding in (finding for finding in every_finding(0.3) if finding.side <= 0 or "_" not in finding.anatomy):
        case = PhantomCase("M", 60, "PA", (finding,))
        (_, (frontal,)), (seen, (region,)) = render(case, 5, 0, 64, lateral=True)
        bare, _ = render(case, 5, 0, 64, without=[0], lateral=True)[1]
        change = np.abs(seen.astype(int) - bare)
        if region is None:
            assert not change.any(), finding
            hidden.add(finding.pathology)
            continue
        assert change[region].mean() > 6, finding
        if finding.pathology not in ("cardiomegaly", "hyperinflate"):  # these move the whole chest
            assert change[region].mean() > 4 * change[~region].mean(), finding
        heights = [np.flatnonzero(mask.any(1))[[0, -1]] for mask in (frontal, region)]
        assert np.abs(heights[0] - heights[1]).max() < 0.08 * 64, finding
    assert hidden == {"pneumothorax", "thicken", "scar", "fracture"}


def test_findings_lie_as_deep_on_the_lateral_view_as_their_anatomy() -> None:
    def depth(pathology: str, anatomy: str) -> float:
        _, (region,) = render(one(pathology, anatomy), 5, 0, SIZE, lateral=True)[1]
        assert region is not None
        return float(np.nonzero(region)[1].mean() / SIZE)

    places = [
        ("consolidation", "middle_right_lobe"), ("cardiomegaly", "heart_size"),
        ("tube", "trachea"), ("hernia", "retrocardiac"), ("consolidation", "lower_right_lobe"),
    ]  # fmt: skip  # from front to back
    depths = [depth(*place) for place in places]
    assert depths == sorted(depths)
    assert depth("effusion", "right_pleural") > depth("cardiomegaly", "heart_size")


LESIONS = ("opacity", "nodule", "mass", "calcification")


def told(features: np.ndarray, labels: np.ndarray) -> float:
    """Macro AUROC of the columns of labels, a logistic regression of one half of the cases asked for the other."""
    half, areas = len(labels) // 2, []
    for column in labels.T:
        model = LogisticRegression(C=0.1, max_iter=1000).fit(features[:half], column[:half])
        areas.append(roc_auc_score(column[half:], model.decision_function(features[half:])))
    return float(np.mean(areas))


@pytest.mark.parametrize("independent", [True, False])
def test_places_tell_which_lesion_there_is_and_the_other_way_round_but_not_where_they_are_independent(
    independent: bool,
) -> None:
    having = [
        (lesion, case)
        for case in (independent_cases() if independent else cases())
        if len(lesions := [finding for finding in case.findings if finding.pathology in LESIONS]) == 1
        for lesion in lesions
    ]
    zones = sorted(Counter(lesion.anatomy for lesion, _ in having))
    anatomies = sorted({finding.anatomy for _, case in having for finding in case.findings})
    where = np.array([[any(f.anatomy == name for f in case.findings) for name in anatomies] for _, case in having])
    what = np.array([[any(f.pathology == name for f in case.findings) for name in PATHOLOGIES] for _, case in having])
    which_told = told(where, np.array([[lesion.pathology == name for name in LESIONS] for lesion, _ in having]))
    place_told = told(what, np.array([[lesion.anatomy == name for name in zones] for lesion, _ in having]))
    if independent:
        assert 0.47 < which_told < 0.53 and 0.47 < place_told < 0.53
    else:
        assert which_told > 0.65 and place_told > 0.6


def test_sides_of_independent_findings_are_chance_and_tell_nothing_of_one_another() -> None:
    found = [finding for case in independent_cases() for finding in case.findings if finding.side]
    for pathology in {finding.pathology for finding in found}:
        assert np.mean([f.side > 0 for f in found if f.pathology == pathology]) == pytest.approx(0.5, abs=0.09)
    pairs = [
        one.side == other.side
        for case in independent_cases()
        for one, other in combinations([finding for finding in case.findings if finding.side], 2)
    ]
    assert np.mean(pairs) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(("lateral", "count"), [(False, 4), (True, 2)])
def test_the_contact_sheet_shows_every_view_of_every_study(lateral: bool, count: int) -> None:
    sheet = contact_sheet(count=count, size=SIZE, lateral=lateral)
    assert sheet.dtype == np.uint8
    assert sheet.shape[1:] == (4 * SIZE, 3)
    assert sheet.shape[0] > SIZE
