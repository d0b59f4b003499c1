"""Anatomies are told by where in the image the evidence for a finding lies."""

from __future__ import annotations

import pytest
import torch

from medlip.concepts import default_vocabulary
from medlip.images.preprocessing import Preprocessing
from medlip.methods import build_method
from medlip.nn.place_field import PlaceField

VOCABULARY = default_vocabulary()
SETTINGS = {"name": "medslip", "backbone": "resnet10t", "layers": 1, "feedforward": 32, "prototype": "off", "icl": "tied"}


def spot(row: float, column: float, grid: tuple[int, int]) -> torch.Tensor:
    """Evidence (1, 1, N) in one cell of a grid, at a place given as shares of its sides."""
    evidence = torch.zeros(1, 1, *grid)
    evidence[0, 0, int(row * grid[0]), int(column * grid[1])] = 3.0
    return evidence.flatten(2)


def test_an_anatomy_learns_where_it_lies_and_knows_it_on_another_grid() -> None:
    torch.manual_seed(0)
    field, texts = PlaceField(8), torch.randn(2, 8)
    optimizer = torch.optim.Adam(field.parameters(), lr=0.1)
    left, right = spot(0.5, 0.8, (8, 8)), spot(0.5, 0.2, (8, 8))  # of the patient
    for _ in range(30):
        loss = torch.nn.functional.cross_entropy(
            torch.cat([field(left, texts, (8, 8)), field(right, texts, (8, 8))])[..., 0], torch.tensor([0, 1])
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for grid in ((8, 8), (16, 12)):
        assert field(spot(0.5, 0.8, grid), texts, grid)[0, :, 0].argmax() == 0
        assert field(spot(0.5, 0.2, grid), texts, grid)[0, :, 0].argmax() == 1


def test_what_speaks_against_a_finding_and_how_strong_its_evidence_is_do_not_place_it() -> None:
    field, texts, grid = PlaceField(8), torch.randn(3, 8), (4, 4)
    torch.nn.init.normal_(field.fields.weight)
    evidence = torch.randn(2, 5, 16)
    torch.testing.assert_close(field(evidence, texts, grid), field(7 * evidence.relu(), texts, grid))
    assert not field(-evidence.abs(), texts, grid).any()


def test_tied_places_follow_the_fields_and_their_probabilities_stay_shares_of_the_finding() -> None:
    method = build_method(SETTINGS, VOCABULARY, Preprocessing(size=64)).eval()
    images, names = torch.randn(2, 3, 64, 64), [pathology.name for pathology in VOCABULARY.pathologies]
    before = method.answer(images, names, anatomies=True)
    with torch.no_grad():
        method.field.fields.weight.normal_()
    after = method.answer(images, names, anatomies=True)
    assert not torch.equal(before.anatomies, after.anatomies)
    torch.testing.assert_close(after.anatomies.sum(-1), after.scores)
    torch.testing.assert_close(before.scores, after.scores)


def test_pairs_teach_the_evidence_where_to_lie() -> None:
    method = build_method(SETTINGS, VOCABULARY, Preprocessing(size=64)).train()
    facts = torch.full((2, len(VOCABULARY.anatomies), len(VOCABULARY.pathologies)), -1, dtype=torch.int8)
    facts[0, 3, 4] = 1
    with torch.no_grad():
        method.field.fields.weight.normal_()
        method.decode["anatomy"].requires_grad_(False)
    method.loss_terms(torch.randn(2, 3, 64, 64), facts)["icl"].backward()
    assert method.exist["pathology"].weight.grad.abs().sum() > 0  # what makes the finding's margin


def test_only_findings_that_a_batch_states_teach_where_anatomies_lie() -> None:
    images, pairs = torch.randn(2, 3, 64, 64), (len(VOCABULARY.anatomies), len(VOCABULARY.pathologies))

    def taught(*stated: int) -> float:
        torch.manual_seed(0)
        method = build_method(SETTINGS, VOCABULARY, Preprocessing(size=64)).eval()
        facts = torch.full((2, *pairs), -1, dtype=torch.int8)
        for finding in stated:
            facts[0, 3, finding] = 1
        tie, tied = method._tie, []
        method._tie = lambda output, columns: tied.append(columns.tolist()) or tie(output, columns)  # type: ignore
        method.loss_terms(images, facts)["icl"].backward()
        assert tied == [sorted(stated)]
        return float(method.field.fields.weight.grad.abs().sum())

    assert taught(4) > 0
    assert taught(7, 4) > 0
    assert taught() == 0  # and yet has a gradient, which processes that train together wait for


def test_a_findings_place_on_the_other_side_weighs_as_is_set_unless_something_is_said_of_it() -> None:
    left, right, middle = (VOCABULARY.anatomy_index[name] for name in ("left_lower_lung", "right_lower_lung", "mediastinal"))
    images = torch.randn(1, 3, 64, 64)

    def cost(weight: float, *stated: tuple[int, int]) -> float:
        torch.manual_seed(0)
        method = build_method({**SETTINGS, "icl_other_side": weight}, VOCABULARY, Preprocessing(size=64)).eval()
        facts = torch.full((1, len(VOCABULARY.anatomies), len(VOCABULARY.pathologies)), -1, dtype=torch.int8)
        for anatomy, value in stated:
            facts[0, anatomy, 4] = value
        return method.loss_terms(images, facts)["icl"].item()

    once, ten_times, twenty_times = (cost(weight, (left, 1)) for weight in (1, 11, 21))
    assert ten_times > once
    assert twenty_times - ten_times == pytest.approx(ten_times - once, rel=1e-3)
    for stated in ([(left, 1), (right, 1)], [(left, 1), (right, 0)], [(middle, 1)], [(left, 0)]):
        assert cost(1, *stated) == cost(11, *stated), stated
