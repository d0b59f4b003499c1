"""Several views of a study are read together: each view where it belongs, each report once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dicoms import chest, dataset
from fakes import REPORTS, shrunk
from medlip.app.input import evaluation_store
from medlip.app.reader import Reader
from medlip.app.reading import NotRead, Reading
from medlip.concepts import default_vocabulary
from medlip.data.batch import Batch, TrainingBatches, evaluation_batches
from medlip.data.prepare import prepare
from medlip.data.sources import Source
from medlip.data.store import Store
from medlip.data.studies import contradictions, joined, studies_of, united
from medlip.data.study import Study, View
from medlip.data.views import ViewKind, Views
from medlip.errors import MedLIPError
from medlip.evaluation import evaluate
from medlip.evaluation.nulls import SampledRegion, other_hits
from medlip.experiments.transfer import transfer
from medlip.experiments.transfer_protocols import load_transfer_protocol
from medlip.images.augment import Augment
from medlip.images.preprocessing import Preprocessing
from medlip.methods import build_method
from medlip.methods.base import load_method, save_method
from medlip.methods.medlip import MedLIP
from medlip.reports import Fact, Presence, extract_facts, fact_matrix
from medlip.training import fit, load_recipe
from medlip.training.fit import begin
from medlip.training.loop import Callback, processes

VOCABULARY = default_vocabulary()
PREPROCESSING = Preprocessing(64)
ASKED = ("effusion", "There is a large right pleural effusion.")
POSITIONS: dict[str, tuple[str, ...]] = {
    "both": ("lateral", "PA"),
    "front": ("AP",),
    "side": ("lateral",),
    "many": ("lateral", "PA", "PA", "lateral", "PA"),
}
RIGHT, LEFT = (VOCABULARY.anatomy_index[name] for name in ("right_lung_unspec", "left_lung_unspec"))
EFFUSION = VOCABULARY.pathology_index["effusion"]
SMALL = ("method.backbone=resnet10t", "method.weights=null", "image.size=64")
STILL: dict[str, Any] = {"scale": (1, 1), "rotate": 0, "translate": 0, "contrast": 0, "brightness": 0, "tone": 0}


def study(number: int, shape: str) -> Study:
    random = np.random.default_rng(number)
    views = tuple(View(random.integers(0, 256, (64, 64)).astype(np.uint8), position) for position in POSITIONS[shape])
    facts = (Fact("effusion", "right_lung_unspec", "present"),)
    return Study(f"{shape}-{number}", f"p{number}", views, "FINDINGS: Right effusion.", facts, {}, "train")


def make_store(out: Path, studies: Sequence[Study]) -> Store:
    given = {str(number): each for number, each in enumerate(studies)}
    prepare([Source("made", given)], out, size=64, workers=0, views="all")
    return Store.open(out)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    shapes = [*POSITIONS] * 6
    return make_store(tmp_path_factory.mktemp("views") / "s", [study(i, shape) for i, shape in enumerate(shapes)])


@pytest.fixture(scope="module")
def disagreeing(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A study of two reports, which contradict each other about one lung and agree about the other."""
    first = study(0, "front")
    facts = (Fact("effusion", "right_lung_unspec", "absent"), Fact("effusion", "left_lung_unspec", "absent"))
    second = replace(study(1, "side"), id=first.id, patient=first.patient, report="FINDINGS: No effusion.", facts=facts)
    return make_store(tmp_path_factory.mktemp("disagreeing") / "s", [first, second, study(2, "both")])


def batches(store: Store, most: int = 4, **options: Any) -> TrainingBatches:
    augment = options.pop("augment", Augment(32))
    size = options.pop("batch_size", 5)
    studies = studies_of(store, most=most)
    return TrainingBatches(store, Preprocessing(32), augment, size, 3, VOCABULARY, studies=studies, **options)


def make(**settings: Any) -> MedLIP:
    torch.manual_seed(0)
    method = build_method(
        {**shrunk({"name": "medlip"}), "dropout": 0.0, "views": ("frontal", "lateral"), **settings},
        VOCABULARY,
        PREPROCESSING,
        lambda: (" ".join(report) for report in REPORTS * 3),
    )
    assert isinstance(method, MedLIP)
    with torch.no_grad():
        if method.view_embedding is not None:
            method.view_embedding.normal_()
        assert method.field is not None
        method.field.fields.weight.normal_()
    return method.eval()


@pytest.fixture(scope="module")
def method() -> MedLIP:
    return make()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(6, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def views(*studies: Sequence[ViewKind]) -> Views:
    return Views(tuple(map(tuple, studies)))


def said(method: MedLIP, images: torch.Tensor, which: Views | None) -> dict[str, torch.Tensor]:
    found = method.answer(images, ASKED, maps=True, anatomies=True, embeddings=True, views=which)
    parts = {"scores": found.scores, "maps": found.maps, "anatomies": found.anatomies, "embeddings": found.embeddings}
    return {name: part for name, part in parts.items() if part is not None}


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def of_studies(found: dict[str, torch.Tensor], studies: list[int], images: list[int]) -> dict[str, torch.Tensor]:
    return {name: part[images if name == "maps" else studies] for name, part in found.items()}


def test_views_that_are_not_there_change_nothing(method: MedLIP, images: torch.Tensor) -> None:
    alone = said(method, images[:1], views(["frontal"]))
    beside = said(method, images[:4], views(["frontal"], ["lateral", "frontal", "frontal"]))
    assert beside["scores"].shape == (2, 2) and len(beside["maps"]) == 4
    close(of_studies(beside, [0], [0]), alone)


def test_the_order_of_views_changes_nothing(method: MedLIP, images: torch.Tensor) -> None:
    one = said(method, images[:3], views(["frontal", "lateral", "frontal"]))
    other = said(method, images[[1, 2, 0]], views(["lateral", "frontal", "frontal"]))
    close(other, of_studies(one, [0], [1, 2, 0]))


def test_a_study_of_one_view_is_read_as_that_image_is(method: MedLIP, images: torch.Tensor) -> None:
    close(said(method, images, views(*[["frontal"]] * 6)), said(method, images, None))
    lateral = method.answer(images, ASKED, views=views(*[["lateral"]] * 6))
    assert not torch.allclose(lateral.scores, method.score(images, ASKED))
    untold, plain = make(), make(views=())
    assert untold.view_embedding is not None
    torch.nn.init.zeros_(untold.view_embedding)
    plain.load_state_dict(untold.state_dict(), strict=False)
    either = said(untold, images, views(*[["lateral"], ["frontal"]] * 3))
    torch.testing.assert_close(either["scores"], plain.score(images, ASKED))


def test_another_view_is_read_too(method: MedLIP, images: torch.Tensor) -> None:
    one, other = (
        method.answer(images[rows], ASKED, maps=True, views=views(["frontal", "lateral"])) for rows in ([0, 1], [0, 2])
    )
    assert not torch.allclose(one.scores, other.scores)
    assert one.maps is not None
    torch.testing.assert_close(one.maps.amax((0, 2, 3))[None], one.scores)  # one scale for all images of a study


def test_places_are_tied_to_the_evidence_in_frontal_views_alone(images: torch.Tensor) -> None:
    tied, loose = make(), make()
    loose.load_state_dict(tied.state_dict())
    assert loose.field is not None
    torch.nn.init.zeros_(loose.field.fields.weight)
    for kinds, alike in ((["lateral"] * 2, True), (["frontal", "lateral"], False)):
        one, other = (said(model, images[:2], views(kinds))["anatomies"] for model in (tied, loose))
        assert torch.allclose(one, other) == alike


def test_losses_are_those_of_studies_whatever_is_padded(images: torch.Tensor) -> None:
    method = make()
    facts = torch.stack(
        [torch.from_numpy(fact_matrix(extract_facts(" ".join(report), VOCABULARY), VOCABULARY)) for report in REPORTS[:2]]
    )
    plain = method.loss_terms(images[:2], facts, REPORTS[:2])
    alone = method.loss_terms(images[:2], facts, REPORTS[:2], views=views(["frontal"], ["frontal"]))
    twice = method.loss_terms(images[[0, 1, 1]], facts, REPORTS[:2], views=views(["frontal"], ["frontal", "frontal"]))
    assert plain.keys() == alone.keys() == twice.keys()
    torch.testing.assert_close(alone, plain)
    close(twice, plain)  # the same image again says what it said
    method.train()
    both = method.loss_terms(images[:3], facts, REPORTS[:2], views=views(["frontal", "lateral"], ["frontal"]))
    torch.stack(list(both.values())).sum().backward()  # type: ignore[no-untyped-call]
    assert method.view_embedding is not None and method.view_embedding.grad is not None
    assert (method.view_embedding.grad.abs().sum(1) > 0).all()


@pytest.mark.parametrize("name", ["medklip", "medslip"])
def test_other_methods_of_queries_read_views_too(name: str, images: torch.Tensor) -> None:
    method = build_method({**shrunk({"name": name}), "views": ("frontal", "lateral")}, VOCABULARY, PREPROCESSING, lambda: ())
    facts = torch.full((2, len(VOCABULARY.anatomies), len(VOCABULARY.pathologies)), -1)
    facts[:, LEFT, EFFUSION] = 1
    terms = method.train().loss_terms(images[:3], facts, views=views(["frontal", "lateral"], ["lateral"]))  # type: ignore[operator]
    assert all(term.isfinite() for term in terms.values())


def test_a_saved_model_knows_its_views(method: MedLIP, images: torch.Tensor, tmp_path: Path) -> None:
    save_method(method, tmp_path / "model.safetensors")
    again = load_method(tmp_path / "model.safetensors")
    assert isinstance(again, MedLIP) and again.views == ("frontal", "lateral")
    both = views(["frontal", "lateral"], ["frontal"])
    ours, theirs = (model.answer(images[:3], ASKED, views=both).scores for model in (method, again))
    assert torch.equal(ours, theirs)


def test_an_epoch_has_each_study_once_with_its_frontal_views_first(store: Store) -> None:
    epoch = list(batches(store, batch_size=6).epoch(0))
    firsts = [store[rows[0]].id for rows in studies_of(store).rows]
    assert sorted(id_ for batch in epoch for id_ in batch.ids) == sorted(firsts)
    for batch in epoch:
        assert batch.views is not None
        assert len(batch.images) == sum(batch.views.counts) and len(batch.facts) == len(batch) == 6
        for id_, kinds in zip(batch.ids, batch.views.studies, strict=True):
            shape = [*POSITIONS][int(id_.split(":")[1]) % 4]
            assert (
                kinds
                == {
                    "both": ("frontal", "lateral"),
                    "front": ("frontal",),
                    "side": ("lateral",),
                    "many": ("frontal", "frontal", "frontal", "lateral"),  # of five views, four
                }[shape]
            )
        assert set(batch.sentences) == {("Right effusion.",)}
        assert (batch.facts == 1).sum().item() == 6


def same(one: Batch, other: Batch) -> bool:
    return one.ids == other.ids and one.views == other.views and torch.equal(one.images, other.images)


@pytest.mark.parametrize("options", [{}, {"cache_bytes": 1}, {"drop_view": 0.5}])
def test_an_epoch_of_studies_goes_on_as_if_it_had_never_stopped(store: Store, options: dict[str, Any]) -> None:
    whole = list(batches(store, **options).epoch(2))
    resumed = list(batches(store, **options).epoch(2, start=3))
    assert len(whole) == 4 and len(resumed) == 1 and same(resumed[0], whole[3])


@pytest.mark.parametrize("drop_view", [0, 0.5])
def test_processes_and_parts_share_studies_out_whole(store: Store, drop_view: float) -> None:
    alone = batches(store, batch_size=8, drop_view=drop_view)
    shares = [batches(store, batch_size=4, rank=rank, ranks=2, drop_view=drop_view) for rank in range(2)]
    for batch, *own in zip(alone.epoch(1), *(share.epoch(1) for share in shares), strict=True):
        for some in (own, batch.parts(3)):
            assert batch.ids == tuple(id_ for part in some for id_ in part.ids)
            assert torch.equal(batch.images, torch.cat([part.images for part in some]))
            assert all(part.views and sum(part.views.counts) == len(part.images) for part in some)
    on_device = next(batches(store, batch_size=8, on_device=True, drop_view=drop_view).epoch(1)).to(torch.device("cpu"))
    assert same(on_device, next(alone.epoch(1)))


def test_views_are_left_out_at_random_but_never_all_of_a_study(store: Store) -> None:
    still = Augment(32, mirror=0, **STILL)
    every, some = (batches(store, augment=still, batch_size=24, drop_view=drop) for drop in (0, 0.5))
    shown: dict[str, set[tuple[ViewKind, ...]]] = {shape: set() for shape in POSITIONS}
    for epoch in range(3):
        whole, part = next(every.epoch(epoch)), next(some.epoch(epoch))
        assert whole.views is not None and part.views is not None
        assert part.ids == whole.ids and part.sentences == whole.sentences
        assert torch.equal(part.facts, whole.facts) and torch.equal(part.seeds, whole.seeds)
        counts = zip(whole.images.split(whole.views.counts), part.images.split(part.views.counts), strict=True)
        for id_, kinds, (before, after) in zip(part.ids, part.views.studies, counts, strict=True):
            shape = [*POSITIONS][int(id_.split(":")[1]) % 4]
            shown[shape].add(kinds)
            assert all(any(torch.equal(image, one) for one in before) for image in after)
            assert shape != "both" or torch.equal(after, before[[["frontal", "lateral"].index(kind) for kind in kinds]])
    assert shown["both"] == {("frontal", "lateral"), ("frontal",), ("lateral",)}  # at times either, at times both
    assert shown["front"] == {("frontal",)} and shown["side"] == {("lateral",)}
    assert all(shown["many"]) and len(shown["many"]) > 3


def test_views_can_be_left_out_only_where_they_are_read_together() -> None:
    with pytest.raises(MedLIPError, match=r"drop_view=0\.3 .* views=each .* Set data\.views=set"):
        load_recipe("medlip-phantom", ["data.drop_view=0.3"])
    with pytest.raises(MedLIPError, match=r"data\.drop_view: .* less than 1"):
        load_recipe("medlip-phantom", ["data.views=set", "data.drop_view=1"])


def test_a_study_is_mirrored_as_a_whole_but_for_its_lateral_views(store: Store) -> None:
    plain, mirrored = (
        next(batches(store, augment=Augment(32, mirror=mirror, **STILL), batch_size=24).epoch(0)) for mirror in (0, 1)
    )
    assert plain.views is not None and plain.views == mirrored.views
    kinds = [kind for kinds in plain.views.studies for kind in kinds]
    for kind, before, after in zip(kinds, plain.images, mirrored.images, strict=True):
        torch.testing.assert_close(after, before if kind == "lateral" else before.flip(2), atol=1e-4, rtol=0)
    fronted = torch.tensor(["frontal" in kinds for kinds in plain.views.studies])
    assert torch.equal(mirrored.mirrored, fronted) and not plain.mirrored.any()
    assert torch.equal(mirrored.facts[:, LEFT, EFFUSION] == 1, fronted)
    assert torch.equal(mirrored.facts[:, RIGHT, EFFUSION] == 1, ~fronted)
    told = [sentences[0] for sentences in mirrored.sentences]
    assert told == [f"{'Left' if front else 'Right'} effusion." for front in fronted.tolist()]
    drawn = next(batches(store, augment=Augment(32, mirror=0.5, **STILL), batch_size=24).epoch(0))
    assert 0 < drawn.mirrored.sum() < fronted.sum()
    assert torch.equal(drawn.facts[:, LEFT, EFFUSION] == 1, drawn.mirrored)


def test_reports_of_a_study_are_joined_and_contradictions_left_open(disagreeing: Store) -> None:
    studies = studies_of(disagreeing)
    assert [len(rows) for rows in studies.rows] == [2, 2]
    record = joined([disagreeing[row] for row in studies.rows[0]], VOCABULARY)
    assert record.report.count("effusion") == len(record.sentences) == 2
    assert {(fact.anatomy, fact.presence) for fact in record.facts} == {
        ("right_lung_unspec", "uncertain"), ("left_lung_unspec", "absent"),
    }  # fmt: skip
    once = joined([disagreeing[row] for row in studies.rows[1]], VOCABULARY)  # two views of one report
    assert len(once.facts) == len(once.sentences) == 1
    (note,) = contradictions(disagreeing, studies)
    assert note.startswith("in 1 study, reports contradict") and note.endswith("made:0:0 (effusion, right_lung_unspec)")
    for policy, value in (("ignore", -2), ("present", 1), ("absent", 0)):
        batch = next(evaluation_batches(disagreeing, PREPROCESSING, 2, uncertain=policy, studies=studies))
        assert batch.facts[0, RIGHT, EFFUSION] == value and batch.facts[1, RIGHT, EFFUSION] == 1


@pytest.mark.parametrize(
    ("one", "other", "doubted"),
    [
        ("There is a left pleural effusion.", "No pleural effusion.", {"left_pleural", "pleural_unspec"}),
        ("Right apical pneumothorax.", "No pneumothorax.", {"right_apical_lung", "unspecified"}),
        ("Left lower lobe opacity.", "No opacity in the left lung.", {"lower_left_lobe", "left_lung_unspec"}),
        ("Left lower lobe opacity.", "No opacity in the lungs.", {"lower_left_lobe", "lung_volumes"}),
        ("Left lower lobe opacity.", "No opacity in the right lung.", set()),  # another side
        ("Small bilateral effusions.", "No left effusion.", set()),  # of a wider place, the part may be free
        ("There is a left pleural effusion.", "Left pleural effusion. No other pleural effusion.", set()),
        ("There is a left pleural effusion.", "There is no pneumothorax.", set()),
    ],
)
def test_a_denial_contradicts_what_it_covers(one: str, other: str, doubted: set[str]) -> None:
    """Reports seldom deny a finding where another places it: "no effusion" is said of no side."""
    read = [extract_facts(text) for text in (one, other, one)]  # the first of two views
    for order in (read, read[::-1]):
        facts = united(order, VOCABULARY)
        assert {fact.anatomy for fact in facts if fact.presence == "uncertain"} == doubted
    assert united([read[0], read[0]], VOCABULARY) == read[0]


def test_what_is_left_out_is_named(store: Store) -> None:
    few = studies_of(store, most=2)
    assert {len(rows) for rows in few.rows} == {1, 2}
    assert len(few.notes) == 1 and few.notes[0].startswith("6 studies have more than 2 views") and "made:3:1" in few.notes[0]
    frontal = studies_of(store, kinds=("frontal",))
    assert len(frontal) == 18
    assert "left out: 24 views (lateral)" in frontal.notes[0] and "made:0:0" in frontal.notes[0]
    assert "left out: 6 studies without any other view: made:2:0" in frontal.notes[1]
    with pytest.raises(MedLIPError, match=r"no study has a view that can be read: .* other views alone"):
        studies_of(store, kinds=("other",))


def test_methods_that_read_one_image_at_a_time_say_so_before_the_first_step(store: Store) -> None:
    recipe = load_recipe("linear-phantom", ["data.views=set"])
    with (
        processes(torch.device("cpu"), "fp32") as ranks,
        pytest.raises(MedLIPError, match=r"data\.views=set: method 'linear' .* together: medklip, medlip, medslip\."),
    ):
        begin(recipe, store, ranks)


def test_notes_of_a_training_name_what_was_decided(disagreeing: Store) -> None:
    small = (*SMALL, "training.batch_size=2")
    recipe = load_recipe("medlip-phantom", [*small, "data.views=set", "data.most_views=1", "data.drop_view=0.5"])
    with processes(torch.device("cpu"), "fp32") as ranks:
        method, _, notes = begin(recipe, disagreeing, ranks)
        assert isinstance(method, MedLIP) and method.views == ("frontal",)
        assert any("2 studies have more than 1 views" in note for note in notes)
        assert any("no study has more than one view, so none is left out" in note for note in notes)
        _, _, notes = begin(load_recipe("medlip-phantom", [*small, "data.views=set"]), disagreeing, ranks)
    assert any("in 1 study, reports contradict each other" in note and "facts.uncertain=ignore" in note for note in notes)


def test_reports_that_are_left_out_or_cut_are_noted(disagreeing: Store) -> None:
    """Of the study of two reports, which came with a view each."""
    few = studies_of(disagreeing, most=1)
    assert few.notes[-1] == "left out: reports that came with no view that is read (1): made:0:0"
    assert not any("left out: reports" in note for note in studies_of(disagreeing).notes)
    small = (*SMALL, "training.batch_size=2", "method.report_tokens=8")
    with processes(torch.device("cpu"), "fp32") as ranks:
        _, _, apart = begin(load_recipe("medlip-phantom", small), disagreeing, ranks)
        _, _, together = begin(load_recipe("medlip-phantom", [*small, "data.views=set"]), disagreeing, ranks)
        with pytest.raises(MedLIPError, match=r"method\.views follows from the data"):
            begin(load_recipe("medlip-phantom", [*small, "method.views=[frontal]"]), disagreeing, ranks)
    assert apart[0].startswith("of 2 studies") and together[0].startswith("of 2 studies")
    assert not any("tokens are lost" in note for note in apart)
    assert any("1 of 2 reports are longer than the 6 tokens" in note for note in together)


def test_what_comes_of_nothing_or_of_views_not_trained_on_is_said(store: Store, method: MedLIP, tmp_path: Path) -> None:
    alone = evaluate(method, store, split="train", tasks=["anatomies"], batch_size=4)
    assert "no result: nothing that anatomies counts is known of these 54 images" in alone.notes
    labels: list[dict[str, Presence]] = [{"effusion": "present"}, {"effusion": "absent"}]
    studies = [
        replace(study(number, "both"), labels=labels[number % 2], split=("train", "val", "test")[number // 2 % 3])
        for number in range(12)
    ]
    labelled = make_store(tmp_path / "labelled", studies)
    learned = transfer(make(views=("frontal",)), labelled, load_transfer_protocol("linear-probe"), resamples=10)
    assert any("12 of 24 images show views that the run was not trained on" in note for note in learned.notes)


def test_without_a_view_to_validate_on_training_goes_on(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes = store.column("view")
    frontal, lateral = ([row for row, view in enumerate(shapes) if (view == "lateral") is side] for side in (False, True))
    recipe = load_recipe("medlip-phantom", [*SMALL, "training.batch_size=8", "training.epochs=1", "data.views=set"])
    fit(recipe, store.take(frontal), tmp_path / "run", validation=store.take(lateral))
    assert (
        "validation: no study has a view that is trained on (frontal), so no losses are measured" in capsys.readouterr().err
    )


def test_views_that_a_source_has_beside_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with evaluation_store("phantom:4@1?lateral") as prepared:
        assert len(prepared) == 4
    assert "4 of 8 images of phantom show no frontal view and are left out" in capsys.readouterr().err


def test_a_view_that_the_model_was_not_trained_on_is_refused(method: MedLIP, images: torch.Tensor) -> None:
    with pytest.raises(MedLIPError, match="the kind 'other', and this model was trained on frontal, lateral views"):
        method.answer(images[:1], ASKED, views=views(["other"]))
    with pytest.raises(MedLIPError, match=r"not trained on several views of a study\. Train with data\.views=set"):
        make(views=()).answer(images[:1], ASKED, views=views(["frontal"]))


def test_maps_of_other_patients_are_those_of_the_same_view() -> None:
    left = np.zeros((8, 8), bool)
    left[:, :4] = True
    regions, peaks = [SampledRegion.of(left)] * 4, [(0.5, 0.1), (0.5, 0.1), (0.5, 0.9), (0.5, 0.9)]
    kinds = ["frontal", "frontal", "lateral", "lateral"]
    assert other_hits(["mass"] * 4, list("abcd"), peaks, regions, kinds).tolist() == [1, 1, 0, 0]
    assert other_hits(["mass"] * 4, list("abcd"), peaks, regions).tolist() == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3])


@pytest.fixture(scope="module")
def reader(method: MedLIP) -> Reader:
    return Reader(method)


def readings(found: Sequence[Reading | NotRead]) -> list[Reading]:
    every = [reading for reading in found if isinstance(reading, Reading)]
    assert len(every) == len(found)
    return every


def test_a_study_is_read_at_once(reader: Reader, tmp_path: Path) -> None:
    front, side = (np.random.default_rng(seed).integers(0, 256, (80, 64)).astype(np.uint8) for seed in (0, 1))
    both = readings(reader.read_study([front, side], views=["PA", "lateral"], ask=ASKED[1]))
    assert both[0].findings == both[1].findings and both[0].asked == both[1].asked
    first, second = (reading.maps(["effusion", ASKED[1], "a new question"]) for reading in both)
    assert not np.allclose(first, second)
    assert [reading.read_as for reading in both] == ["frontal", "lateral"]
    assert all("2 images read together: probabilities and places are the study's" in reading.notes[-1] for reading in both)
    other = readings(reader.read_study([front, side], views=["PA", "PA"]))
    assert other[0].findings != both[0].findings
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"nothing")
    alone, *left_out = reader.read_study([front, broken, side], views=["PA", "PA", "oblique"])
    assert isinstance(alone, Reading) and alone.findings == reader.read(front).findings
    for out, why in zip(left_out, ("broken.png", "image 3: shows another view (other)"), strict=True):
        assert isinstance(out, NotRead) and why in out.error and f"left out of the study: {out.error}" in alone.notes
    (guessed,) = readings(reader.read_study([front]))
    assert guessed.notes == ("image 1: nothing says which view it shows, so it is read as frontal",)


def test_a_lateral_view_is_no_doubt_where_it_is_read_as_one(reader: Reader) -> None:
    said_pa, said_lateral = (dataset(chest(seed=seed), ViewPosition=view) for seed, view in ((0, "PA"), (1, "LL")))
    front, side = readings(reader.read_study([said_pa, said_lateral]))
    assert (front.read_as, side.read_as) == ("frontal", "lateral")
    assert side.doubts == () and reader.read(said_lateral).doubts == ("the view is lateral",)
    (alone,) = readings(reader.read_study([said_lateral]))
    assert any("no frontal view" in note for note in alone.notes) and not any("no frontal" in note for note in side.notes)
    swapped = readings(reader.read_study([said_pa, said_lateral], views=["lateral", "PA"]))
    assert swapped[1].doubts == ("the view is lateral",)
    for note in ("image 1: read as lateral, as was said, but its file says PA", "image 2: read as PA, as was said"):
        assert any(told.startswith(note) for told in swapped[0].notes)
    assert Reader(make(views=("lateral",))).read(said_pa).read_as == "lateral"
    (lordotic,) = readings(reader.read_study([dataset(chest(), ViewPosition="LORDOTIC")]))
    assert lordotic.read_as == "frontal" and lordotic.doubts == ("the view is lordotic",)


def test_what_is_no_study_is_refused(reader: Reader, tmp_path: Path) -> None:
    with pytest.raises(MedLIPError, match="the study has no view that can be read"):
        reader.read_study([])
    with pytest.raises(MedLIPError, match=r"no view that can be read: give one\. left out .*nowhere\.png"):
        reader.read_study([tmp_path / "nowhere.png"], views=["PA"])
    with pytest.raises(MedLIPError, match="1 views for 2 images"):
        reader.read_study([np.zeros((64, 64), np.uint8)] * 2, views=["PA"])
    with pytest.raises(MedLIPError, match="not a known word"):
        reader.read_study([np.zeros((64, 64), np.uint8)], views=["sideways"])
    with pytest.raises(MedLIPError, match="reads image by image"):
        Reader(make(views=())).read_study([np.zeros((64, 64), np.uint8)], views=["PA"])


class Stop(Callback):
    def after_step(self, training: Any) -> None:
        if training.step == 3:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Store:
    out = tmp_path_factory.mktemp("sides") / "s"
    prepare(["phantom:40@2?lateral"], out, size=64, workers=0, views="frontal,lateral")
    return Store.open(out)


@pytest.mark.long
def test_a_run_of_studies_resumes_bit_by_bit_and_is_evaluated_by_study(
    sides: Store, tmp_path: Path, medlip: Callable[..., Any]
) -> None:
    small = (*SMALL, "training.batch_size=8", "training.epochs=2", "training.precision=fp32", "training.validation_images=4")
    more = ("data.views=set", "data.drop_view=0.3", "training.checkpoint_minutes=0.0001")
    recipe, train = load_recipe("medlip-phantom", [*small, *more]), sides.select("train")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    steps = fit(recipe, train, whole, validation=sides.select("val"))["steps"]
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, train, parts, callbacks=[Stop()])
    assert fit(recipe, train, parts, resume=True)["steps"] == steps > 3
    ours, theirs = (load_method(run / "model.safetensors") for run in (whole, parts))
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())
    found = evaluate(ours, sides, split="train", resamples=5, tasks=["zero_shot", "grounding", "places", "retrieval"])
    studies = len(train) // 2
    assert all(result.n == studies for result in found["zero_shot"].per_class.values())
    assert found["retrieval"]["image_to_text_recall_at_1"].n == studies
    assert set(found["grounding"].per_view) == {"frontal", "lateral"}
    assert f"{studies} studies of {len(train)} images" in " ".join(found.notes)
    images = []
    for row, name in ((0, "front.png"), (1, "side.png")):
        from PIL import Image

        Image.fromarray(train[row].image).save(tmp_path / name)
        images.append(tmp_path / name)
    outcome = medlip("predict", whole, *images, "--study", "PA,lateral", "--json")
    assert [entry["image"] for entry in outcome.document] == [str(image) for image in images]
    assert outcome.document[0]["findings"] == outcome.document[1]["findings"]
    outcome = medlip("predict", whole, *images, "--study", "PA,oblique", "--json")
    assert outcome.code == 3 and "1 images were skipped" in outcome.err
    assert (
        "shows another view (other), and the model was trained on frontal and lateral views" in outcome.document[1]["error"]
    )
