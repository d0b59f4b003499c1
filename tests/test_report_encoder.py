"""Reports as vectors: real sentence boundaries, padding that changes nothing, and a model that needs no file beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medlip.errors import MedLIPError, MedLIPWarning
from medlip.nn.report_encoder import ReportEncoder, build_report_encoder, pool
from medlip.nn.text import TransformersEncoder

REPORTS = (
    ("The heart is normal in size.", "No pneumothorax.", "There is a 3.5 cm mass in the left lung."),
    ("There is a large right pleural effusion.",),
    (),
    ("No pleural effusion.", "The lungs are clear."),
)
CORPUS = [" ".join(report) for report in REPORTS] * 3


@pytest.fixture(scope="module")
def encoder() -> ReportEncoder:
    torch.manual_seed(0)
    return ReportEncoder.from_reports(CORPUS, 64, width=32, layers=2).eval()


def test_shapes_and_what_is_there(encoder: ReportEncoder) -> None:
    encoded = encoder(REPORTS)
    assert encoded.reports.shape == (4, 32)
    assert encoded.sentences.shape == (4, 3, 32)
    assert encoded.real.tolist() == [[True, True, True], [True, False, False], [False] * 3, [True, True, False]]
    assert not encoded.sentences[~encoded.real].any()
    assert torch.isfinite(encoded.reports).all()


def test_a_report_is_encoded_as_if_alone(encoder: ReportEncoder) -> None:
    together = encoder(REPORTS)
    for index, report in enumerate(REPORTS):
        alone = encoder([report])
        torch.testing.assert_close(together.reports[index], alone.reports[0], atol=1e-5, rtol=1e-4)
        count = len(report)
        torch.testing.assert_close(together.sentences[index, :count], alone.sentences[0, :count], atol=1e-5, rtol=1e-4)


def test_a_sentence_is_the_mean_of_its_own_tokens(encoder: ReportEncoder) -> None:
    encoded = encoder(REPORTS[:1])
    lengths = [len(encoder.tokenizer.encode(sentence, add_special_tokens=False).ids) for sentence in REPORTS[0]]
    end = 1 + lengths[0] + lengths[1]
    torch.testing.assert_close(encoded.sentences[0, 1], encoded.tokens[0, 1 + lengths[0] : end].mean(0))


def test_words_are_counted_through_the_report(encoder: ReportEncoder) -> None:
    words = encoder([("No pneumothorax.", "No mass.")]).words[0]
    assert words[0] == words[-1] == -1
    inner = words[1:-1].tolist()
    assert inner == sorted(inner)
    assert sorted(set(inner)) == list(range(6))  # no / pneumothorax / . / no / mass / .


def test_a_long_report_is_cut_and_lost_sentences_are_not_real() -> None:
    encoder = ReportEncoder.from_reports(CORPUS, 8, width=32, layers=1)
    encoded = encoder([REPORTS[0]])
    assert encoded.tokens.shape[1] == 8
    assert encoded.real.tolist() == [[True, False, False]]


@given(st.lists(st.lists(st.sampled_from(sum(REPORTS, ())), max_size=5), max_size=8), st.integers(3, 40))
@settings(max_examples=30, deadline=None)
def test_what_is_cut_off_is_counted(encoder: ReportEncoder, reports: list[list[str]], limit: int) -> None:
    short, whole = ReportEncoder.blank(encoder.about, limit), ReportEncoder.blank(encoder.about, 128)
    cut = short.cut(reports)
    lengths = [int((whole([report]).words >= 0).sum()) for report in reports]
    assert whole.cut(reports).lost == 0
    read = [int((short([report]).words >= 0).sum()) for report in reports]
    assert (cut.reports, cut.tokens, cut.lost) == (len(reports), sum(lengths), sum(lengths) - sum(read))
    assert cut.longer == sum(length > shown for length, shown in zip(lengths, read, strict=True))
    assert bool(cut.describe()) == (cut.lost > 0)


def test_of_reports_read_by_the_sentence_the_longest_sentences_count(encoder: ReportEncoder) -> None:
    short = ReportEncoder.blank(encoder.about, 8)
    report = ("No mass.", "Small right pleural effusion with mild atelectasis at the base.")
    assert short.cut([report], most=1) == short.cut([report[1:]])
    assert short.cut([report], most=2) == short.cut([report])


def test_frozen_texts_that_are_too_long_are_warned_of(encoder: ReportEncoder, tmp_path: Path) -> None:
    from transformers import BertTokenizerFast

    encoder.model.save_pretrained(tmp_path)
    BertTokenizerFast(tokenizer_object=encoder.tokenizer).save_pretrained(tmp_path)
    with pytest.warns(MedLIPWarning, match=r"1 of 2 texts are longer than the 6 tokens"):
        TransformersEncoder(str(tmp_path), 8).encode(["Mass.", "No " * 20])


def test_pooling_is_the_plain_mean_by_owner() -> None:
    tokens = torch.randn(2, 5, 3)
    owners = torch.tensor([[-1, 0, 0, 1, -1], [0, -1, -1, -1, -1]])
    pooled, real = pool(tokens, owners, 2)
    torch.testing.assert_close(pooled[0, 0], tokens[0, 1:3].mean(0))
    torch.testing.assert_close(pooled[0, 1], tokens[0, 3])
    assert real.tolist() == [[True, True], [True, False]]


def test_the_vocabulary_depends_on_the_reports_alone(encoder: ReportEncoder) -> None:
    again = ReportEncoder.from_reports(CORPUS, 64, width=32, layers=2)
    assert torch.equal(again.about, encoder.about)


def test_a_state_dict_is_all_that_is_needed(encoder: ReportEncoder) -> None:
    copy = ReportEncoder.blank(encoder.about, 64).eval()
    copy.load_state_dict(encoder.state_dict())
    assert torch.equal(copy(REPORTS).sentences, encoder(REPORTS).sentences)


def test_a_trained_encoder_loads_from_a_folder(encoder: ReportEncoder, tmp_path: Path) -> None:
    from transformers import BertTokenizerFast

    encoder.model.save_pretrained(tmp_path)
    BertTokenizerFast(tokenizer_object=encoder.tokenizer).save_pretrained(tmp_path)
    loaded = build_report_encoder(str(tmp_path), tuple, 64).eval()
    torch.testing.assert_close(loaded(REPORTS).sentences, encoder(REPORTS).sentences)


def test_what_cannot_be_had_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MedLIPError, match="wordpiece"):
        build_report_encoder(str(tmp_path / "nothing"), tuple, 64)
    with pytest.raises(MedLIPError, match="no report"):
        build_report_encoder("wordpiece", lambda: ["", ""], 64)


def apart(encoder: ReportEncoder) -> ReportEncoder:
    copy = ReportEncoder.blank(encoder.about, 64).eval()
    copy.load_state_dict(encoder.state_dict())
    copy.apart = True
    return copy


def test_a_sentence_by_itself_is_the_same_in_every_report(encoder: ReportEncoder) -> None:
    encoded = apart(encoder)(REPORTS)
    for row, report in enumerate(REPORTS):
        for place, sentence in enumerate(report):
            alone = encoder([(sentence,)])
            torch.testing.assert_close(encoded.sentences[row, place], alone.sentences[0, 0], atol=1e-5, rtol=1e-4)
    together = encoder(REPORTS)
    assert torch.equal(encoded.real, together.real)
    assert encoded.most_words == together.most_words
    spoken, expected = (values.words[0][values.words[0] >= 0] for values in (encoded, together))
    assert torch.equal(spoken, expected)
    assert not encoded.reports[2].any()


def test_sentences_by_themselves_pass_gradients_on(encoder: ReportEncoder) -> None:
    copy = apart(encoder).train()
    copy(REPORTS).sentences.sum().backward()
    assert copy.model.embeddings.word_embeddings.weight.grad.any()


def test_a_frozen_encoder_gives_the_same_and_learns_nothing(encoder: ReportEncoder) -> None:
    copy = apart(encoder)
    before = copy(REPORTS)
    copy.freeze()
    copy.train()
    for _ in range(2):  # the second time from what is kept
        encoded = copy(REPORTS)
        torch.testing.assert_close(encoded.tokens, before.tokens, atol=1e-5, rtol=1e-4)
        assert not encoded.tokens.requires_grad
    assert not any(parameter.requires_grad for parameter in copy.parameters())


def test_of_sentences_by_themselves_each_is_cut(encoder: ReportEncoder) -> None:
    short = ReportEncoder.blank(encoder.about, 8)
    short.apart = True
    assert short.cut([("No mass.",) * 9]).lost == 0
    assert short.cut([("No mass.", "Small right pleural effusion with mild atelectasis at the base.")]).longer == 1
