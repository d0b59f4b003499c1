"""Measures from outside: one function with one declaration, and the number stands in every result."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from fakes import FakeMethod, FakeRecord, FakeStore
from medlip.data.study import Box
from medlip.errors import MedLIPError
from medlip.evaluation import Result, evaluate
from medlip.evaluation.outcomes import OUTCOMES, load_outcomes
from medlip.evaluation.tasks import measure, measures, remove_measure, task_measures
from medlip.metrics import Measure

COVERAGE = Measure("coverage", "share of the region in the upper half of the map", chance="half")
SPREAD = Measure("macro_spread", "mean score of positives less that of negatives")


@pytest.fixture
def added():
    """Declare two measures for one test."""

    @measure("grounding", COVERAGE)
    def coverage(heat, region):
        assert heat.shape == region.shape == (16, 16)
        return float((heat >= (heat.min() + heat.max()) / 2)[region].mean())

    @measure("zero_shot", SPREAD)
    def spread(scores, labels):
        assert set(labels.tolist()) == {0, 1}
        return float(scores[labels == 1].mean() - scores[labels == 0].mean())

    yield
    remove_measure("grounding", COVERAGE.name)
    remove_measure("zero_shot", SPREAD.name)


class Bright(FakeMethod):
    """Scores by the corner pixel, and points to the left half."""

    def score(self, images, prompts):
        return images[:, 0, :1, 0].expand(-1, len(prompts))

    def localise(self, images, prompts):
        maps = images.new_zeros(len(images), len(prompts), 2, 2)
        maps[..., 0] = 1
        return maps


def make_store():
    store = FakeStore()
    for i in range(24):
        present = i % 2 == 0
        image = np.full((16, 16), 200 if present else 100, np.uint8)
        boxes = (Box("effusion", 0 if i % 4 else 8, 0, 8, 8),) if present else ()
        labels = {"effusion": "present" if present else "absent", "nodule": "absent"}
        store.append(FakeRecord(f"i{i}", f"p{i}", "test", image, labels, boxes))
    return store


def test_a_measure_of_a_case_is_a_mean_with_its_interval_and_kept_for_comparisons(added, tmp_path):
    result = evaluate(Bright(16), make_store(), resamples=50, out=tmp_path)
    found = result["grounding"]["coverage"]
    assert (found.value, found.n) == (0.5, 12)  # half of the boxes lie on the left
    assert found.interval[0] < 0.5 < found.interval[1]
    assert result["grounding"].per_class["effusion"]["coverage"] == found
    assert Result.load(tmp_path / "result.json")["grounding"]["coverage"] == found
    assert load_outcomes(tmp_path / OUTCOMES)["grounding/coverage"].values.mean() == 0.5


def test_a_measure_of_scores_is_given_by_class_and_as_the_mean_over_classes(added):
    zero_shot = evaluate(Bright(16), make_store(), resamples=5)["zero_shot"]
    assert zero_shot["macro_spread"].value == pytest.approx(100 / 255, abs=1e-6)
    assert zero_shot.per_class["effusion"]["spread"].value == pytest.approx(100 / 255, abs=1e-6)
    assert zero_shot.per_class["nodule"]["spread"].value is None  # it has no positive
    assert "no positive" in zero_shot.per_class["nodule"]["spread"].reason


def test_added_measures_are_declared_beside_the_tasks_own(added):
    assert ("grounding", COVERAGE) in measures()
    assert task_measures("zero_shot")[-1] == SPREAD


@pytest.mark.parametrize(
    ("task", "name", "words"),
    [
        ("grounding", "iou", "'iou' .* has that name already"),
        ("places", "second_place", "takes no further measures. Tasks that do: zero_shot, grounding"),
        ("grouding", "x", "no task 'grouding'"),
    ],
)
def test_a_measure_with_a_name_that_is_taken_or_of_a_task_that_takes_none_is_refused(task, name, words):
    measure(task, Measure(name, "another"))(lambda *_: 1.0)
    try:
        with pytest.raises(MedLIPError, match=words):
            measures()
    finally:
        remove_measure(task, name)


@pytest.mark.processes
def test_an_installed_package_adds_a_measure_by_its_entry_point(tmp_path):
    """In a process of its own, since plugins are looked up once."""
    import os
    import subprocess

    (tmp_path / "foreign.py").write_text(
        "from medlip.evaluation import measure\nfrom medlip.metrics import Measure\n"
        "@measure('grounding', Measure('foreign', 'of another package'))\ndef foreign(heat, region):\n    return 1.0\n"
    )
    info = tmp_path / "foreign-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: foreign\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[medlip.measures]\nforeign = foreign\n")
    code = "from medlip.evaluation import measures; print([m.name for t, m in measures() if t == 'grounding'][-1])"
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.stdout.strip() == "foreign", done.stderr
