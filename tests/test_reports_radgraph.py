"""RadGraph graphs give the published matrix, cell for cell."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medlip.concepts import default_vocabulary
from medlip.errors import MedLIPError
from medlip.reports import fact_matrix, facts_from_radgraph, resolve
from medlip.reports.places import row_of
from medlip.reports.radgraph import lemma, read_graph

CASES = Path(__file__).parent / "parity" / "radgraph"


def _graphs() -> dict[str, Any]:
    graphs: dict[str, Any] = json.loads((CASES / "sample-graphs.json").read_text())
    return graphs


def _entity(tokens: str, label: str, at: int, *relations: tuple[str, str]) -> dict[str, Any]:
    return {"tokens": tokens, "label": label, "start_ix": at, "end_ix": at, "relations": [list(pair) for pair in relations]}


def _cells(graph: dict[str, Any]) -> set[tuple[str, str, str]]:
    return {(fact.pathology, fact.anatomy, fact.presence) for fact in facts_from_radgraph(graph)}


def test_every_cell_of_the_published_matrix_is_met() -> None:
    vocabulary = default_vocabulary()
    wanted = {
        key: np.full((len(vocabulary.anatomies), len(vocabulary.pathologies)), -1, np.int8)
        for key in (Path(name).stem.removeprefix("s") for name in _graphs())
    }
    with (CASES / "sample-adjacency.csv").open() as rows:
        for row in csv.DictReader(rows):
            wanted[row["study_id"]][int(row["anatomy"]), int(row["pathology"])] = int(row["value"])
    assert sum(int((matrix != -1).sum()) for matrix in wanted.values()) == 1028
    for name, graph in _graphs().items():
        matrix = fact_matrix(facts_from_radgraph(graph), vocabulary)
        np.testing.assert_array_equal(matrix, wanted[Path(name).stem.removeprefix("s")], err_msg=name)


def test_every_lemma_of_the_cases_is_met() -> None:
    for token, wanted in json.loads((CASES / "sample-lemmas.json").read_text()).items():
        assert " ".join(lemma(word)[0] for word in token.split()) == wanted


def test_the_names_of_the_package_mean_the_same() -> None:
    names = {
        "ANAT-DP": "Anatomy::definitely present", "OBS-DP": "Observation::definitely present",
        "OBS-DA": "Observation::definitely absent", "OBS-U": "Observation::uncertain",
    }  # fmt: skip
    for graph in list(_graphs().values())[:20]:
        renamed = {key: entity | {"label": names[entity["label"]]} for key, entity in graph["entities"].items()}
        assert facts_from_radgraph({"text": graph["text"], "entities": renamed}) == facts_from_radgraph(graph)


def test_an_anatomy_with_its_modifiers_names_a_row() -> None:
    entities = {
        "1": _entity("Left", "ANAT-DP", 0, ("modify", "2")),
        "2": _entity("base", "ANAT-DP", 1),
        "3": _entity("opacities", "OBS-DP", 2, ("located_at", "2")),
    }
    (fact,) = facts_from_radgraph({"text": "Left base opacities .", "entities": entities})
    assert (fact.pathology, fact.anatomy, fact.presence) == ("opacity", "left_lower_lung", "present")
    assert (fact.sentence, fact.start, fact.end) == ("Left base opacities .", 10, 19)


def test_a_relation_across_sentences_does_not_count() -> None:
    entities = {"1": _entity("lung", "ANAT-DP", 0), "2": _entity("opacity", "OBS-DP", 2, ("located_at", "1"))}
    assert _cells({"text": "lung . opacity", "entities": entities}) == set()


def test_uncertain_hides_no_absent() -> None:
    entities = {
        "1": _entity("heart", "ANAT-DP", 0),
        "2": _entity("edema", "OBS-DA", 1, ("located_at", "1")),
        "3": _entity("edema", "OBS-U", 2, ("located_at", "1")),
    }
    facts = facts_from_radgraph({"text": "heart edema edema", "entities": entities})
    kept = resolve(facts, uncertain_hides_absent=False)
    assert {fact.presence for fact in kept} == {"absent", "uncertain"}
    assert fact_matrix(kept, default_vocabulary()).max() == 0
    present = (*facts, facts[0].__class__("edema", "heart_size", "present"))
    assert [fact.presence for fact in resolve(present, uncertain_hides_absent=False)] == ["present"]


def test_a_dangling_relation_is_told_and_the_rest_goes_on() -> None:
    entities = {
        "1": _entity("lungs", "ANAT-DP", 0),
        "2": _entity("clear", "OBS-DP", 1, ("located_at", "1"), ("located_at", "99")),
    }
    reading = read_graph({"text": "lungs clear", "entities": entities})
    assert reading.dangling == ("2 -> 99",)
    assert [fact.anatomy for fact in reading.facts] == ["lung_volumes"]


def test_words_without_a_known_lemma_are_told() -> None:
    entities = {"1": _entity("blorbs", "OBS-DP", 0), "2": _entity("effusions", "OBS-DP", 1)}
    reading = read_graph({"text": "blorbs effusions", "entities": entities})
    assert reading.unknown_words == ("blorbs",)
    assert [fact.pathology for fact in reading.facts] == ["tail_abnorm_obs", "effusion"]


@pytest.mark.parametrize("graph", [{}, {"text": "x"}, {"text": "x", "entities": {"1": {}}}, {"text": 3, "entities": {}}, []])
def test_what_is_no_graph_is_an_error_that_says_so(graph: Any) -> None:
    with pytest.raises(MedLIPError, match="not a RadGraph graph"):
        facts_from_radgraph(graph)


def test_offsets_that_leave_the_text_give_no_span() -> None:
    (fact,) = facts_from_radgraph({"text": "a", "entities": {"1": _entity("edema", "OBS-DP", 7)}})
    assert (fact.start, fact.end, fact.sentence) == (-1, -1, "")


@pytest.mark.parametrize(
    ("parts", "row"),
    [
        ("lung|left|bases", "left_lower_lung"),
        ("lobe|bilateral|lower", "lung_bases"),
        ("cavoatrial junction", "cavoatrial_junction"),
        ("pleural|left|right", "pleural_unspec"),
        ("unspecified", "unspecified"),
        ("fissure", "other"),
        ("heart|right|border", "heart_border"),
    ],
)
def test_the_first_rule_that_matches_gives_the_row(parts: str, row: str) -> None:
    assert row_of(parts.split("|")) == row


LABELS = st.sampled_from(["ANAT-DP", "OBS-DP", "OBS-DA", "OBS-U", "Anatomy::uncertain", "?"])


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from("12345"),
        st.builds(
            lambda tokens, label, at, to: _entity(tokens, label, at, *[("located_at", key) for key in to]),
            st.sampled_from(["lung", "left", "edema", "", "hot spots", "İ"]),
            LABELS,
            st.integers(-2, 9),
            st.lists(st.sampled_from("123456"), max_size=3),
        ),
    )
)
def test_any_graph_gives_facts_of_the_vocabulary(entities: dict[str, Any]) -> None:
    fact_matrix(facts_from_radgraph({"text": "left lung . edema . x", "entities": entities}), default_vocabulary())
