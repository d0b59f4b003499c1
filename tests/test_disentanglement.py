"""Disentanglement: where the truth is known, probes, maps and held-out pairs say it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from sklearn.metrics.pairwise import cosine_similarity

from medlip.app.pages.disentangle_page import disentanglement_tables as tables
from medlip.app.pages.disentangle_page import picture_cases, render_page
from medlip.concepts import default_vocabulary
from medlip.data.prepare import prepare
from medlip.data.sources import Source, open_source
from medlip.data.store import Store
from medlip.errors import MedLIPError
from medlip.experiments.composition import Composition, compositional_split, read_pairs, save_pairs, without_pairs
from medlip.experiments.conditional import OWN, probe_given
from medlip.experiments.disentanglement import disentanglement
from medlip.experiments.factors import Known, factor_classes, read_facts
from medlip.experiments.probes import probe, probe_held_out
from medlip.experiments.stream_maps import Overlaps, overlap_of_maps
from medlip.methods.base import TellsPlaces
from medlip.phantom.cases import draw_case
from medlip.reports import Fact, fact_matrix
from medlip.training import load_run

pytestmark = pytest.mark.long

VOCABULARY = default_vocabulary()
PATHOLOGIES = ("mass", "nodule", "opacity", "scar", "effusion", "fracture")
PLACES = ("left_upper_lung", "right_upper_lung", "left_lower_lung", "right_lower_lung", "left_hilar", "right_hilar")
CLASSES = {factor: factor_classes(VOCABULARY, factor) for factor in ("pathology", "anatomy")}
COLUMNS = [VOCABULARY.pathology_index[name] for name in PATHOLOGIES]
ROWS = [VOCABULARY.anatomy_index[name] for name in PLACES]


def independent_facts(n, seed=0):
    """One finding an image: a pathology and a place that know nothing of one another."""
    rng = np.random.default_rng(seed)
    what, where = rng.integers(0, 6, (2, n))
    facts = np.full((n, len(VOCABULARY.anatomies), len(VOCABULARY.pathologies)), -1, np.int8)
    facts[np.arange(n), np.array(ROWS)[where], np.array(COLUMNS)[what]] = 1
    return facts, np.eye(6)[what], np.eye(6)[where]


def known(n, seed, make):
    facts, what, where = independent_facts(n, seed)
    rng = np.random.default_rng(seed + 100)
    features = {name: values + 0.01 * rng.normal(size=values.shape) for name, values in make(what, where, rng).items()}
    return Known(facts, [f"p{i // 2}" for i in range(n)], features)


def both(make, n=600):
    return known(n, 1, make), known(n, 2, make)


def pure(what, where, rng):
    return {"encoder": np.c_[what, where], "pathology": what, "anatomy": where}


def swapped(what, where, rng):
    return {"encoder": np.c_[what, where], "pathology": where, "anatomy": what}


def noise(what, where, rng):
    return {name: rng.normal(size=what.shape) for name in ("encoder", "pathology", "anatomy")}


def mixed(what, where, rng):
    """The pathology, noisily; the anatomy stream and the encoder have the place beside it."""
    faint = what + rng.normal(size=what.shape)
    return {"encoder": np.c_[faint, where], "pathology": faint, "anatomy": np.c_[faint, where]}


@pytest.mark.parametrize("factor", ["pathology", "anatomy"])
def test_a_stream_that_is_its_factor_has_it_all_and_nothing_of_the_other(factor):
    other = {"pathology": "anatomy", "anatomy": "pathology"}[factor]
    result = probe(*both(pure), VOCABULARY, factor, resamples=100)
    macro = result.macro_auroc
    assert macro[factor].value == macro["encoder"].value == 1.0
    assert macro[other].value == pytest.approx(0.5, abs=0.05)
    assert result.own_minus_other.value == pytest.approx(macro[factor].value - macro[other].value)
    low, high = result.own_minus_other.interval
    assert 0.4 < low < result.own_minus_other.value < high
    assert set(result.per_class) == set(PATHOLOGIES if factor == "pathology" else PLACES)


def test_streams_that_are_swapped_are_found_out():
    result = probe(*both(swapped), VOCABULARY, "pathology", resamples=50)
    assert result.macro_auroc["anatomy"].value == 1.0
    assert result.own_minus_other.interval[1] < -0.4


def test_noise_holds_nothing():
    train, test = both(noise)
    for factor in ("pathology", "anatomy"):
        result = probe(train, test, VOCABULARY, factor, resamples=100)
        for estimate in result.macro_auroc.values():
            assert estimate.value == pytest.approx(0.5, abs=0.06)
        assert result.own_minus_other.interval[0] < 0 < result.own_minus_other.interval[1]


def test_the_auroc_of_a_class_is_that_of_a_probe_made_by_hand():
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def weak(what, where, rng):
        return {name: what + rng.normal(size=what.shape) for name in ("encoder", "pathology", "anatomy")}

    train, test = both(weak, 300)
    result = probe(train, test, VOCABULARY, "pathology", resamples=5)
    column = VOCABULARY.pathology_index["scar"]
    learned, asked = ((part.facts[:, :, column] == 1).any(1) for part in (train, test))
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    model.fit(train.features["anatomy"], learned)
    expected = roc_auc_score(asked, model.decision_function(test.features["anatomy"]))
    assert result.per_class["scar"].auroc["anatomy"] == pytest.approx(expected, abs=1e-3)
    assert result.per_class["scar"].train == learned.sum()
    values = [values.auroc["anatomy"] for values in result.per_class.values()]
    assert result.macro_auroc["anatomy"].value == pytest.approx(np.mean(values))


def test_what_is_uncertain_does_not_count_and_normal_statements_and_catch_alls_are_no_findings():
    train, test = both(pure)
    facts = test.facts.copy()
    scar = np.flatnonzero((facts[:, :, VOCABULARY.pathology_index["scar"]] == 1).any(1))
    facts[scar] = np.where(facts[scar] == 1, -2, facts[scar])
    facts[:, VOCABULARY.anatomy_index["heart_size"], VOCABULARY.pathology_index["normal"]] = 1
    facts[:50, VOCABULARY.anatomy_index["unspecified"], VOCABULARY.pathology_index["edema"]] = 1
    result = probe(train, replace(test, facts=facts), VOCABULARY, "pathology", resamples=5)
    assert "scar" in result.left_out
    assert "0 positives" in result.left_out["scar"]
    assert "normal" not in result.per_class
    places = probe(train, replace(test, facts=facts), VOCABULARY, "anatomy", resamples=5)
    assert set(places.per_class) == set(PLACES)
    assert places.left_out == {}


def test_a_class_that_is_too_rare_is_named_and_none_at_all_is_an_error():
    train, test = both(pure)
    few = [np.flatnonzero((part.facts[:, :, VOCABULARY.pathology_index["mass"]] == 1).any(1)) for part in (train, test)]
    facts = test.facts.copy()
    facts[few[1][4:], :, VOCABULARY.pathology_index["mass"]] = -1
    result = probe(train, replace(test, facts=facts), VOCABULARY, "pathology", resamples=5)
    assert f"{len(few[0])} positives" in result.left_out["mass"]
    assert "4 positives" in result.left_out["mass"]
    with pytest.raises(MedLIPError, match="no anatomy has 5 positives"):
        probe(train, replace(test, facts=np.full_like(facts, -1)), VOCABULARY, "anatomy")


def test_a_representation_that_is_not_finite_is_refused_by_name():
    train, test = both(pure)
    test.features["anatomy"][3, 0] = np.nan
    with pytest.raises(MedLIPError, match="'anatomy' is not finite"):
        probe(train, test, VOCABULARY, "pathology")


@pytest.mark.parametrize("factor", ["pathology", "anatomy"])
def test_a_stream_that_is_its_factor_loses_nothing_with_the_other_held_out(factor):
    result = probe_held_out(*both(pure, 900), VOCABULARY, factor, resamples=50)
    own = result.macro_auroc[factor]
    assert own.seen.value == own.held_out.value == 1.0
    assert (own.loss.value, own.loss.interval) == (0.0, (0.0, 0.0))
    assert set(result.classes) == set(PATHOLOGIES if factor == "pathology" else PLACES)


def test_a_stream_with_the_other_factor_beside_its_own_loses_what_it_took_from_there():
    result = probe_held_out(*both(mixed, 1200), VOCABULARY, "pathology", resamples=50)
    free, entangled = (result.macro_auroc[name] for name in ("pathology", "anatomy"))
    assert free.loss.interval[0] < 0 < free.loss.interval[1]
    assert entangled.seen.value > free.seen.value
    assert entangled.held_out.value < free.held_out.value
    assert entangled.loss.interval[0] > 0.1
    assert entangled.loss.value == pytest.approx(entangled.seen.value - entangled.held_out.value)
    difference = free.held_out.value - entangled.held_out.value
    assert result.own_minus_other.value == pytest.approx(difference)


def test_knowing_the_place_helps_on_seen_places_and_hurts_on_others():
    result = probe_held_out(*both(swapped, 900), VOCABULARY, "pathology", resamples=50)
    places = result.macro_auroc["pathology"]
    assert places.seen.value > 0.6
    assert places.held_out.value < 0.4


def test_classes_without_two_halves_are_named_and_without_any_there_is_no_number():
    train, test = both(pure)
    one = np.full_like(train.facts, -1)
    one[:300, VOCABULARY.anatomy_index["heart_size"], VOCABULARY.pathology_index["cardiomegaly"]] = 1
    result = probe_held_out(replace(train, facts=one), replace(test, facts=one), VOCABULARY, "pathology", resamples=5)
    assert result.classes == []
    assert result.left_out == {"cardiomegaly": "it occurs with a single partner"}
    assert result.macro_auroc["pathology"].loss.value is None


@pytest.mark.parametrize("asked", OWN)
def test_in_images_that_are_alike_in_its_own_factor_a_free_stream_tells_nothing_of_the_other(asked):
    own = OWN[asked]
    (other,) = {"pathology", "anatomy"} - {own}
    result = probe_given(*both(pure), VOCABULARY, asked, resamples=50)
    assert result.macro_auroc[own].value == result.macro_auroc["encoder"].value == 1.0
    low, high = result.macro_auroc[other].interval
    assert low < 0.5 < high
    assert result.own_minus_other.value == pytest.approx(1 - result.macro_auroc[other].value)
    assert result.own_minus_other.interval[0] > 0.3
    assert list(result.conditions) == [name for name in CLASSES[other] if name in {*PATHOLOGIES, *PLACES}]
    asked_for = {"place": set(PLACES), "side": {"left"}, "finding": set(PATHOLOGIES)}[asked]
    assert all(set(condition.asked) == asked_for for condition in result.conditions.values())
    leaking = probe_given(*both(swapped), VOCABULARY, asked, resamples=50)
    assert leaking.macro_auroc[other].value == 1.0
    assert leaking.own_minus_other.interval[1] < -0.3


@pytest.mark.parametrize("asked", OWN)
def test_streams_that_know_the_truth_of_independent_phantoms_are_found_to_be_free(asked):
    def told(seed, n):
        cases = [draw_case(np.random.default_rng([seed, index]), independent=True) for index in range(n)]
        found = [[Fact(f.pathology, f.anatomy, "present") for f in case.findings] for case in cases]
        facts = np.stack([fact_matrix(image, VOCABULARY) for image in found])
        what, where = ((facts == 1).any(axis).astype(float) for axis in (1, 2))
        return Known(facts, [str(index) for index in range(n)], {"pathology": what, "anatomy": where})

    result = probe_given(told(1, 1200), told(2, 600), VOCABULARY, asked, resamples=50)
    (other,) = {"pathology", "anatomy"} - {OWN[asked]}
    assert result.macro_auroc[OWN[asked]].value > 0.9
    assert result.macro_auroc[other].value == pytest.approx(0.5, abs=0.06)
    assert len(result.conditions) >= 10


def test_what_is_told_given_a_finding_is_what_a_probe_made_by_hand_tells():
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    def weak(what, where, rng):
        return {name: where + rng.normal(size=what.shape) for name in ("encoder", "pathology", "anatomy")}

    train, test = both(weak, 900)
    cells = [part.facts[:, :, VOCABULARY.pathology_index["scar"]] == 1 for part in (train, test)]
    scars = [part.any(1) for part in cells]
    lefts = [VOCABULARY.anatomy_index[name] for name in PLACES if name.startswith("left")]
    left = [part[:, lefts].any(1)[rows] for part, rows in zip(cells, scars, strict=True)]
    scaler = StandardScaler().fit(train.features["anatomy"])
    model = LogisticRegression(C=0.1, max_iter=1000).fit(scaler.transform(train.features["anatomy"][scars[0]]), left[0])
    scores = model.decision_function(scaler.transform(test.features["anatomy"][scars[1]]))
    found = probe_given(train, test, VOCABULARY, "side", resamples=5).conditions["scar"]
    assert found.auroc["anatomy"] == pytest.approx(roc_auc_score(left[1], scores), abs=1e-3)
    assert (found.train, found.test) == (scars[0].sum(), scars[1].sum())


def test_a_finding_in_two_places_or_an_uncertain_one_has_no_place_to_be_told_and_rare_ones_are_named():
    train, test = both(pure)
    facts = test.facts.copy()
    scar, mass = (VOCABULARY.pathology_index[name] for name in ("scar", "mass"))
    left, right = (VOCABULARY.anatomy_index[f"{side}_upper_lung"] for side in ("left", "right"))
    there = np.flatnonzero((facts[:, :, scar] == 1).any(1))
    facts[there[0]] = np.where(facts[there[0]] == 1, -2, facts[there[0]])
    facts[there[1], [left, right], scar] = 1
    kept = np.flatnonzero((facts[:, :, mass] == 1).any(1))
    facts[kept[4:], :, mass] = -1
    twice = replace(test, facts=facts)
    place, side = (probe_given(train, twice, VOCABULARY, asked, resamples=5) for asked in ("place", "side"))
    assert place.conditions["scar"].test == side.conditions["scar"].test == len(there) - 2
    masses = (train.facts[:, :, mass] == 1).any(1).sum()
    assert place.left_out == side.left_out == {"mass": f"{masses} images to learn from and 4 to test on"}
    finding = probe_given(train, twice, VOCABULARY, "finding", resamples=5)
    assert all("mass" in condition.too_rare and "mass" not in condition.asked for condition in finding.conditions.values())
    one = np.full_like(facts, -1)
    one[:300, VOCABULARY.anatomy_index["heart_size"], VOCABULARY.pathology_index["cardiomegaly"]] = 1
    nothing = probe_given(replace(train, facts=one), replace(test, facts=one), VOCABULARY, "place", resamples=5)
    assert (nothing.conditions, nothing.left_out, nothing.own_minus_other.value) == ({}, {}, None)


def test_identical_maps_overlap_fully_and_flat_ones_not_at_all():
    maps = np.random.default_rng(0).random((3, 12))
    overlap = overlap_of_maps(maps, np.vstack([maps, 7 * maps + 2]))
    np.testing.assert_allclose(np.diag(overlap), 1)
    np.testing.assert_allclose(np.diag(overlap[3:]), 1)
    scaled = [(m - m.min()) / (m.max() - m.min()) for m in maps]
    np.testing.assert_allclose(overlap[:3], cosine_similarity(scaled))
    assert overlap_of_maps(np.eye(2), np.eye(2))[0, 1] == 0
    assert np.isnan(overlap_of_maps(np.ones((1, 4)), maps[:, :4])).all()


def test_maps_of_a_finding_and_its_place_are_held_against_other_places():
    facts, _, _ = independent_facts(40)
    patients = [f"p{i // 2}" for i in range(40)]
    own_place = Overlaps(facts, patients, VOCABULARY)
    one_place = Overlaps(facts, patients, VOCABULARY)
    rng = np.random.default_rng(0)
    for row in range(40):
        anatomy = np.argwhere(facts[row] == 1)[0, 0]
        maps = np.eye(len(VOCABULARY.anatomies), 64)
        pathology = np.repeat(maps[[anatomy]], len(VOCABULARY.pathologies), 0)
        own_place.add(row, {"pathology": pathology.reshape(-1, 8, 8), "anatomy": maps.reshape(-1, 8, 8)})
        same = np.repeat(rng.random((1, 8, 8)), len(VOCABULARY.pathologies), 0)
        one_place.add(row, {"pathology": same, "anatomy": same[: len(VOCABULARY.anatomies)]})
    result = own_place.result(resamples=50)
    assert (result.own.value, result.control.value, result.n) == (1.0, 0.0, 40)
    result = one_place.result(resamples=50)
    assert result.own.value == pytest.approx(1)
    assert result.difference.value == pytest.approx(0)
    nothing = Overlaps(facts, patients, VOCABULARY).result(5).own
    assert (nothing.value, nothing.interval) == (None, None)


def test_flat_maps_are_counted_and_left_out():
    facts, _, _ = independent_facts(10)
    overlaps = Overlaps(facts, [f"p{i}" for i in range(10)], VOCABULARY)
    for row in range(10):
        maps = {"pathology": np.ones((75, 4, 4)), "anatomy": np.random.default_rng(row).random((51, 4, 4))}
        overlaps.add(row, maps)
    result = overlaps.result(5)
    assert (result.n, result.left_out, result.own.value) == (0, 10, None)


def composition(answer):
    """Ask for held-out pairs (mass, left_hilar) and (nodule, right_hilar); `answer` gives scores and places of a row."""
    facts, _, _ = independent_facts(900)
    asked = Composition(
        facts, [f"p{i // 2}" for i in range(900)], VOCABULARY, [("mass", "left_hilar"), ("nodule", "right_hilar")]
    )
    assert asked.prompts == tuple(sorted(("mass", "nodule"), key=VOCABULARY.pathology_index.get))
    columns = [VOCABULARY.pathology_index[name] for name in asked.prompts]
    for first in range(0, 900, 100):
        rows = [answer(facts[row][:, columns]) for row in range(first, first + 100)]
        asked.add(first, np.stack([scores for scores, _ in rows]), np.stack([places for _, places in rows]))
    return asked.result(resamples=50), facts


def test_a_method_that_composes_loses_nothing():
    def oracle(facts):
        return (facts == 1).any(0).astype(float), (facts.T == 1).astype(float)

    result, facts = composition(oracle)
    assert result.auroc.seen.value == result.auroc.held_out.value == 1.0
    assert result.place.seen.value == result.place.held_out.value == 1.0
    held_out = sum(
        int((facts[:, VOCABULARY.anatomy_index[a], VOCABULARY.pathology_index[p]] == 1).sum())
        for p, a in (("mass", "left_hilar"), ("nodule", "right_hilar"))
    )
    assert result.place.n_held_out == held_out == sum(pair.n for pair in result.pairs)
    masses = (facts[:, :, [VOCABULARY.pathology_index[name] for name in ("mass", "nodule")]] == 1).sum()
    assert result.place.n_seen == masses - held_out


def test_a_method_that_knows_seen_pairs_alone_loses_the_others():
    def memory(facts):
        hila = [VOCABULARY.anatomy_index[name] for name in ("left_hilar", "right_hilar")]
        facts = facts.copy()
        facts[hila] = -1  # what it sees there, it takes for nothing
        places = (facts.T == 1).astype(float)
        places[:, hila] = -1
        return (facts == 1).any(0).astype(float), places

    result, _ = composition(memory)
    assert result.auroc.held_out.value == pytest.approx(0.5, abs=0.01)
    assert result.auroc.loss.interval[0] > 0.2
    assert result.place.held_out.value == 0


def test_places_that_all_tie_are_no_hit():
    result, _ = composition(lambda facts: ((facts == 1).any(0).astype(float), np.full(facts.T.shape, 0.1)))
    assert result.place.seen.value == result.place.held_out.value == 0


class FactStore(list):
    """Lists of facts by image, all of them of the split train."""

    root, vocabulary, hash = "facts", VOCABULARY, "facts"

    @property
    def splits(self):
        return {"train": len(self)}

    def select(self, split):
        assert split == "train"
        return self

    def column(self, name):
        assert name == "facts"
        return list(self)

    def take(self, rows):
        return FactStore(self[row] for row in rows)


def pairs_of(store, presences=("present", "uncertain")):
    return {(fact.pathology, fact.anatomy) for facts in store for fact in facts if fact.presence in presences}


def random_facts(seed, n=300):
    rng = np.random.default_rng(seed)
    presences = ("present", "present", "present", "uncertain", "absent")
    return FactStore(
        tuple(
            Fact(PATHOLOGIES[p], PLACES[a], presences[rng.integers(5)])
            for p, a in {tuple(rng.integers(0, 6, 2).tolist()) for _ in range(rng.integers(1, 4))}
        )
        for _ in range(n)
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 1000), st.sampled_from([0.1, 0.2, 0.3]))
def test_held_out_pairs_are_in_no_training_image_and_each_factor_keeps_others(data, seed, share):
    store = random_facts(data)
    kept, pairs = compositional_split(store, share, seed, minimum=5)
    assert len(pairs) >= 1
    assert not pairs_of(kept) & set(pairs)
    assert set(pairs) <= pairs_of(store, ("present",))
    assert len(kept) == sum(not pairs_of([facts]) & set(pairs) for facts in store)
    for pathology, anatomy in pairs:
        for side, name in ((0, pathology), (1, anatomy)):
            assert sum(any(pair[side] == name for pair in pairs_of([facts], ("present",))) for facts in kept) >= 5


def test_a_split_is_the_seeds():
    store = random_facts(0)
    _, first = compositional_split(store, 0.2, 3, minimum=5)
    assert compositional_split(store, 0.2, 3, minimum=5)[1] == first
    assert len({compositional_split(store, 0.2, seed, minimum=5)[1] for seed in range(5)}) > 1
    assert len(first) == round(0.2 * len(pairs_of(store, ("present",))))


def test_a_split_that_would_take_a_factor_away_is_refused():
    store = FactStore([(Fact("mass", "left_hilar", "present"),)] * 30 + [(Fact("scar", "left_upper_lung", "present"),)] * 30)
    with pytest.raises(MedLIPError, match="only 0 of 1 pairs"):
        compositional_split(store, 0.3, minimum=5)
    with pytest.raises(MedLIPError, match="only 0 of 1 pairs"):
        compositional_split(random_facts(0), 0.3, minimum=10_000)
    for share in (0, 1, -0.1):
        with pytest.raises(MedLIPError, match="share="):
            compositional_split(store, share)
    with pytest.raises(MedLIPError, match="every image"):
        without_pairs(store, [("mass", "left_hilar"), ("scar", "left_upper_lung")])


def test_pairs_are_kept_in_a_file_and_a_wrong_one_is_told(tmp_path):
    path = tmp_path / "new" / "pairs.json"
    save_pairs(path, [("mass", "left_hilar")], seed=3)
    assert json.loads(path.read_text()) == {"seed": 3, "pairs": [{"pathology": "mass", "anatomy": "left_hilar"}]}
    assert read_pairs(path, VOCABULARY) == (("mass", "left_hilar"),)
    save_pairs(path, [("mass", "moon")])
    with pytest.raises(MedLIPError, match="no 'moon'"):
        read_pairs(path, VOCABULARY)
    for content in ("[]", "{", '{"pairs": [["mass", "left_hilar"]]}'):
        path.write_text(content)
        with pytest.raises(MedLIPError, match="no file of held-out pairs"):
            read_pairs(path, VOCABULARY)
    with pytest.raises(MedLIPError, match="medlip data hold-out"):
        read_pairs(tmp_path / "none.json", VOCABULARY)


@pytest.fixture(scope="module")
def measured(halved_store, tiny_run):
    store, method = Store.open(halved_store), load_run(tiny_run)
    pairs = compositional_split(store, 0.1, minimum=2)[1]
    return method, store, pairs, disentanglement(method, store, pairs=pairs, resamples=20)


def test_patients_both_learned_from_and_tested_on_are_refused_and_named(tiny_run, tmp_path):
    studies = {
        study.id: replace(study, patient=f"p{number % 5}", split="train" if number < 5 else "test")
        for number, study in enumerate(open_source("phantom:6"))
    }
    prepare([Source("made", studies)], tmp_path / "store", workers=0, size=64)
    with pytest.raises(MedLIPError, match=r"1 patients are both in the train and in the test data \(p0\), so probes would"):
        disentanglement(load_run(tiny_run), Store.open(tmp_path / "store"), resamples=20)


def test_streams_are_what_the_decoders_read_and_maps_are_where_they_look(measured):
    method, store, *_ = measured
    images = method.preprocessing(torch.from_numpy(np.stack([store[0].image, store[1].image])))
    streams, maps = method.streams(images), method.stream_maps(images)
    with torch.inference_mode():
        read = method.encoder(images)
        features, grid = read.tokens, read.grid
        shares = method.disentangler(features)
        mine, other = (method.project[stream](share) for stream, share in zip(("pathology", "anatomy"), shares, strict=True))
        output = method(images)
    width = method.config.width
    torch.testing.assert_close(streams["encoder"], features.mean(1))
    torch.testing.assert_close(streams["pathology"], mine.mean(1))
    torch.testing.assert_close(streams["anatomy"], other.mean(1))
    assert streams["anatomy"].shape == (2, width)
    assert not streams["anatomy"].requires_grad
    torch.testing.assert_close(maps["pathology"].flatten(2), output.attention_pathology.mean(0))
    torch.testing.assert_close(maps["anatomy"].flatten(2), output.attention_anatomy.mean(0))
    assert maps["anatomy"].shape == (2, len(VOCABULARY.anatomies), *grid)


def test_a_tiny_medslip_is_measured_from_end_to_end(measured):
    _, store, _, result = measured
    json.dumps(result.model_dump(mode="json"), allow_nan=False)
    assert result.n_train == store.splits["train"]
    assert result.n_images == store.splits["test"]
    facts = read_facts(store.select("test"), VOCABULARY)
    for factor in ("pathology", "anatomy"):
        for name, counts in result.probes[factor].per_class.items():
            cells = facts[:, :, VOCABULARY.pathology_index[name]] if factor == "pathology" else None
            if cells is not None:
                assert counts.test == (cells == 1).any(1).sum()
            assert counts.test >= 5
    assert set(result.given) == {"place", "side", "finding"}
    assert 0 <= result.maps.own.value <= 1
    assert result.composition.trained_without is False
    assert any(note.startswith("WARNING") and "--without" in note for note in result.notes)
    assert "Not a medical device" in result.disclaimer


def test_the_page_holds_tables_and_maps_and_no_name_of_a_patient(measured):
    method, store, _, result = measured
    page = render_page(result, picture_cases(method, store.select("test"), 2))
    assert page.count("data:image/jpeg;base64,") == 6
    assert "Not a medical device" in page
    assert all(table.title in page.replace("&#39;", "'") for table in tables(result))
    assert "http" not in page
    assert not any(patient in page for patient in store.column("patient"))


def test_a_method_without_streams_is_told_which_have_them_and_is_still_asked_for_pairs(measured):
    method, store, pairs, _ = measured

    class OneStream(torch.nn.Module, TellsPlaces):
        name, seen, made_by = "one", None, None
        vocabulary, preprocessing = method.vocabulary, method.preprocessing
        answer, score_anatomies = method.answer, method.score_anatomies

    with pytest.raises(MedLIPError, match=r"'one' has no streams.* medslip"):
        disentanglement(OneStream(), store)
    result = disentanglement(OneStream(), store, pairs=pairs, resamples=5)
    assert result.probes is result.held_out is result.given is result.maps is None
    assert result.composition.trained_without is None
    assert len(list(tables(result))) == 1

    class Nowhere(torch.nn.Module):
        name, vocabulary = "nowhere", method.vocabulary

    with pytest.raises(MedLIPError, match=r"'nowhere' doesn't say where.* medklip, medlip, medslip"):
        disentanglement(Nowhere(), store, pairs=pairs)
    with pytest.raises(MedLIPError, match="another one"):
        disentanglement(method, store, split="train")


def test_a_run_without_pairs_is_made_and_recognised(halved_store, tmp_path, tiny_settings, monkeypatch, capsys):
    import sys

    from medlip.app import cli

    def medlip(*arguments):
        monkeypatch.setattr(sys, "argv", ["medlip", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return end.value.code, out, err

    pairs, run, out = tmp_path / "pairs.json", tmp_path / "run", tmp_path / "out"
    code, printed, _ = medlip("data", "hold-out", halved_store, "--out", pairs, "--share", "0.1", "--minimum", "2", "--json")
    images = json.loads(printed)["images"]
    assert code == 0
    assert images["kept"] < images["train"] == Store.open(halved_store).splits["train"]
    changes = [word for change in tiny_settings for word in ("--set", change)]
    train = ("pretrain", "medklip-phantom", "--data", halved_store, "--out", run, "--without", pairs, *changes)
    code, _, err = medlip(*train, "--set", "augment.mirror=0.5")
    assert code == 1
    assert "augment.mirror=0" in err
    code, _, err = medlip(*train, "--set", "first={recipe: medslip-phantom, data: phantom:8}")
    assert code == 1
    assert "first=null" in err
    assert medlip(*train)[0] == 0
    assert json.loads((run / "run.json").read_text())["data"]["images"] == images["kept"]
    code, printed, _ = medlip("disentangle", run, "--data", halved_store, "--pairs", pairs, "--out", out, "--json")
    assert code == 0
    assert json.loads(printed)["composition"]["trained_without"] is True
    assert json.loads(printed) == json.loads((out / "result.json").read_text())
    assert "Not a medical device" in (out / "disentanglement.html").read_text()
    code, _, err = medlip("disentangle", run, "--data", halved_store)
    assert code == 1
    assert "'medklip' has no streams" in err.splitlines()[-1]
