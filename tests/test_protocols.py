"""Named protocols: frozen, complete, in a sound and in the published form; split lists that name only what is there."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from pydantic import ValidationError

from fakes import FakeMethod
from medlip.app import cli
from medlip.concepts import default_vocabulary
from medlip.data.labels import canonical
from medlip.data.readers.chestxdet import LABELS as CHESTXDET
from medlip.data.readers.chexpert import LABELS as CHEXPERT
from medlip.data.readers.covidx import NAME as COVID
from medlip.data.readers.nih import LABELS as NIH
from medlip.data.sources import data_sets
from medlip.data.store import Store
from medlip.errors import MedLIPError
from medlip.evaluation import evaluate
from medlip.evaluation.predictions import Predictions
from medlip.evaluation.protocols import load_protocol, named_protocols, parse_protocol, read_split_list
from medlip.metrics import best_threshold, number


class Brightness(FakeMethod):
    """A method that needs no training: how bright an image is, and where."""

    asked: tuple[str, ...] = ()

    def score(self, images, prompts):
        self.asked = tuple(prompts)
        return images.mean((1, 2, 3))[:, None].expand(-1, len(prompts)).clamp(0, 1)

    def localise(self, images, prompts):
        return torch.nn.functional.avg_pool2d(images[:, :1], 8).expand(-1, len(prompts), -1, -1)


@pytest.fixture
def store(phantom_store):
    return Store.open(phantom_store)


def test_every_protocol_is_of_a_data_set_that_can_be_read_and_comes_in_both_forms():
    bases = {name.rpartition("-")[0] for name in named_protocols()}
    assert bases == {"nih", "rsna", "siim", "chexpert", "covidx", "openi", "mimic", "chestxdet", "ms_cxr"}
    assert bases <= set(data_sets())
    for base in bases:
        sound, published = (named_protocols()[f"{base}-{form}"] for form in ("sound", "medklip"))
        assert (sound.thresholds, published.thresholds) == ("validation", "test")
        assert sound.classes == published.classes


def test_classes_are_the_labels_that_the_readers_give():
    assert set(load_protocol("nih-sound").classes) == {canonical(label) for label in NIH}
    assert set(load_protocol("mimic-sound").classes) == {canonical(label) for label in CHEXPERT}
    assert set(load_protocol("chexpert-sound").classes) < set(load_protocol("mimic-sound").classes)
    assert len(load_protocol("openi-sound").classes) == 18
    assert set(load_protocol("chestxdet-sound").classes) == {canonical(label) for label in CHESTXDET}
    ms_cxr = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Lung Opacity", "Pleural Effusion", "Pneumonia")
    assert set(load_protocol("ms_cxr-sound").classes) == {canonical(label) for label in (*ms_cxr, "Pneumothorax")}


def test_only_what_the_vocabulary_lacks_is_asked_for_by_its_description():
    find = default_vocabulary().find_pathology
    described = {
        name
        for protocol in named_protocols().values()
        for name, prompt in protocol.classes.items()
        if find(prompt) is None or find(prompt).name != name
    }
    assert described == {COVID, "pleural other", "diffuse nodule"}
    assert "covid" not in load_protocol("covidx-sound").classes[COVID].lower()


def test_a_protocol_is_frozen():
    with pytest.raises(ValidationError):
        load_protocol("nih-sound").split = "train"


def test_phantoms_stand_in_for_a_data_set_in_both_forms(store, tmp_path):
    results = {}
    for form in ("sound", "medklip"):
        protocol, method = load_protocol(f"chexpert-{form}"), Brightness()
        results[form] = evaluate(method, store, protocol=protocol, resamples=10, out=tmp_path / form)
        assert set(method.asked) >= set(protocol.classes.values())
    sound, published = results["sound"], results["medklip"]
    assert (sound.protocol.name, sound.split) == ("chexpert-sound", "test")
    assert sound.protocol.hash != published.protocol.hash
    assert sound["zero_shot"]["macro_auroc"] == published["zero_shot"]["macro_auroc"]
    assert "optimistic" in published["zero_shot"].threshold_rule
    assert any("optimistic" in note for note in published.notes)
    assert not any("optimistic" in note for note in sound.notes)
    assert any("500 images, here are 6:" in note for note in sound.notes)
    kept = Predictions.load(tmp_path / "medklip" / "predictions.parquet")
    thresholds = [published["zero_shot"].per_class[name].threshold for name in kept.classes]
    assert thresholds == [number(value) for value in best_threshold(kept.scores, kept.labels)]


def test_a_protocol_takes_no_other_split_or_classes(store):
    for beside in ({"split": "val"}, {"classes": ["effusion"]}):
        with pytest.raises(MedLIPError, match="give none beside it"):
            evaluate(Brightness(), store, protocol=load_protocol("chexpert-sound"), **beside)


def test_a_class_that_the_data_has_no_label_of_is_named(store):
    with pytest.raises(MedLIPError, match="no 'covid-19'"):
        evaluate(Brightness(), store, protocol=load_protocol("covidx-sound"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("name: x\ntitle: t\nclasses: {mass: mass, scar: , hernia: ' '}", "no prompt for 'scar', 'hernia'"),
        ("name: x\ntitle: t\nclasses: {}", "no classes"),
        ("name: x\ntitle: t\nclasses: {mass: mass}\nsplits: val", "splits"),
        ("[]", "found something else"),
        ("a: [", "not readable as YAML"),
    ],
)
def test_a_broken_protocol_is_refused_and_says_why(tmp_path, content, words):
    (tmp_path / "own.yaml").write_text(content)
    with pytest.raises(MedLIPError, match=words):
        load_protocol(str(tmp_path / "own.yaml"))


def test_an_unknown_protocol_names_the_known_ones():
    with pytest.raises(MedLIPError, match=r"no protocol .nih..*nih-sound, nih-medklip"):
        load_protocol("nih")


def test_a_split_list_chooses_images_by_id_study_or_file(store, tmp_path):
    test = store.select("test")
    ids, studies = test.column("id"), test.column("study")
    (tmp_path / "list.txt").write_text(f"# own list\n{ids[0]}\n\n{studies[1]}\n{studies[3]}.png\n{studies[3]}\n")
    listed = read_split_list(tmp_path / "list.txt")
    result = evaluate(Brightness(), store, images=listed, resamples=5, out=tmp_path / "out")
    assert Predictions.load(tmp_path / "out" / "predictions.parquet").ids == [ids[0], ids[1], ids[3]]
    assert result.protocol.images != evaluate(Brightness(), store, resamples=5).protocol.images


def test_a_split_list_that_names_what_is_not_there_is_refused_by_name(store, tmp_path):
    elsewhere = store.select("train").column("study")[0]
    with pytest.raises(MedLIPError, match=rf"2 images that are not among the 6 .*: gone\.png, {elsewhere}\."):
        evaluate(Brightness(), store, images=[store.select("test").column("id")[0], "gone.png", elsewhere])
    (tmp_path / "empty.txt").write_text("\n")
    for name in ("empty.txt", "nowhere.txt"):
        with pytest.raises(MedLIPError, match=name):
            read_split_list(tmp_path / name)


def test_an_unseen_disease_is_asked_for_by_its_description(store):
    protocol = parse_protocol({"name": "x", "title": "t", "classes": {"effusion": "fluid over the diaphragm"}}, "x")
    method = Brightness()
    result = evaluate(method, store, protocol=protocol, resamples=5)
    assert method.asked[0] == "fluid over the diaphragm"
    assert result.protocol.classes == {"effusion": "fluid over the diaphragm"}


def test_the_command_lists_protocols_and_evaluates_under_one(tiny_run, phantom_store, monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["medlip", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0), *capsys.readouterr()

    code, out, _ = run("evaluate", "--list-protocols")
    assert (code, len(out.splitlines())) == (0, 18)
    assert "covidx-medklip" in out
    code, out, err = run("evaluate", tiny_run, "--data", phantom_store, "--protocol", "siim-medklip", "--json")
    assert json.loads(out)["protocol"]["classes"] == {"pneumothorax": "pneumothorax"}
    assert "optimistic" in err
    code, out, err = run("evaluate", tiny_run, "--data", phantom_store, "--protocol", "siim")
    assert (code, out) == (1, "")
    assert "siim-sound" in err.splitlines()[-1]
