"""The known hazards of the released MeDSLIP code, one test each: none of them is here."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medlip.concepts import Vocabulary, default_vocabulary
from medlip.data.batch import Batch, TrainingBatches
from medlip.data.store import Store
from medlip.errors import MedLIPError
from medlip.evaluation import evaluate
from medlip.images.augment import Augment
from medlip.images.preprocessing import Preprocessing
from medlip.methods import load_method, save_method
from medlip.methods.base import load_strict, pair_matrix
from medlip.methods.medslip import MeDSLIP, MeDSLIPConfig

VOCABULARY = default_vocabulary()
SMALL = {"backbone": "resnet10t", "layers": 1, "feedforward": 32}


@pytest.fixture(scope="module")
def phantoms(phantom_store):
    return Store.open(phantom_store)


def model(**settings):
    torch.manual_seed(0)
    return MeDSLIP(MeDSLIPConfig(**SMALL | settings), VOCABULARY, Preprocessing(size=64))


def facts(*statements, batch=2):
    """(B, A, P) with the statements (pathology, anatomy, value) in the first image."""
    matrix = torch.full((batch, len(VOCABULARY.anatomies), len(VOCABULARY.pathologies)), -1, dtype=torch.int8)
    for pathology, anatomy, value in statements:
        matrix[0, VOCABULARY.anatomy_index[anatomy], VOCABULARY.pathology_index[pathology]] = value
    return matrix


STATED = facts(("opacity", "left_lower_lung", 1), ("effusion", "pleural_unspec", 0), ("opacity", "right_upper_lung", 1))


def images(batch=2, seed=1):
    return torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def batch_of(matrix, seed=5):
    n = len(matrix)
    return Batch(images(n), matrix, ("a",) * n, ("a",) * n, ("",) * n, ((),) * n, ({},) * n, ((),) * n, ((),) * n,
                 torch.zeros(n, dtype=torch.bool), seed + torch.arange(n))  # fmt: skip


def test_hazard_1_a_mirrored_image_has_mirrored_facts(phantoms):
    def batches(mirror):
        augment = Augment(64, scale=(1, 1), rotate=0, translate=0, contrast=0, brightness=0, tone=0, mirror=mirror)
        return next(TrainingBatches(phantoms, Preprocessing(64), augment, 8, 0, VOCABULARY).epoch(0))

    plain, mirrored = batches(0.0), batches(1.0)
    assert plain.ids == mirrored.ids
    torch.testing.assert_close(mirrored.images, plain.images.flip(-1), atol=0.05, rtol=0)
    rows = [
        i
        for i, anatomy in enumerate(VOCABULARY.anatomies)
        if anatomy.side and VOCABULARY.mirror_index[VOCABULARY.mirror_index[i]] == i
    ]
    twins = [VOCABULARY.mirror_index[i] for i in rows]
    assert (plain.facts[:, rows] == 1).any()
    assert torch.equal(mirrored.facts[:, twins], plain.facts[:, rows])


def test_hazard_2_losses_leave_the_label_matrix_as_it_was():
    matrix = STATED.clone()
    model().losses(batch_of(matrix))
    assert torch.equal(matrix, STATED)


def test_hazard_3_streams_read_shares_of_the_features_and_weights_load_strictly(tmp_path):
    method = model()
    features = torch.randn(2, 16, method.encoder.width)
    first, second = method.disentangler(features)
    torch.testing.assert_close(first + second, features)
    assert not torch.allclose(first, method.disentangler.mask(features))
    state = method.state_dict()
    renamed = {name.replace("embed.", "embedding."): tensor for name, tensor in state.items()}
    with pytest.raises(MedLIPError, match=r"missing: embed\.bias"):
        load_strict(method, renamed, "here")


def test_hazard_4_an_image_gets_the_same_alone_and_among_others():
    method, several = model().eval(), images(4)
    asked = ["pneumonia", "a ground-glass shadow at both bases"]
    for verb in (method.score, method.localise):
        torch.testing.assert_close(verb(several, asked)[1:2], verb(several[1:2], asked), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(verb(several, asked)[:, :1], verb(several, asked[:1]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("matrix", [facts(), facts(("effusion", "pleural_unspec", 0))], ids=["nothing", "no positive"])
def test_hazard_5_nothing_to_learn_from_gives_zero_and_no_nan(matrix):
    method = model()
    terms = method.losses(batch_of(matrix))
    sum(terms.values()).backward()
    assert all(torch.isfinite(term) for term in terms.values())
    assert terms["protocl_pathology"].item() == terms["protocl_anatomy"].item() == 0
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    "setting",
    [
        {"prototype": "off"}, {"prototype": "random"}, {"icl": "off"}, {"icl": "all"}, {"prototype": "off", "icl": "off"},
        {"gate": "off"}, {"gate": "sigmoid"}, {"anatomy_text": "long"}, {"standardize": False}, {"unmentioned": 0.5},
        {"stride": 8}, {"alpha": 0}, {"beta": 0, "icl": "tied"},
    ],
    ids=str,
)  # fmt: skip
def test_hazard_6_every_switch_trains_answers_and_comes_back_from_disk(setting, tmp_path):
    method = model(**setting)
    terms = method.losses(batch_of(STATED))
    sum(method.loss_weights[name] * term for name, term in terms.items()).backward()
    assert method.loss_weights.keys() == terms.keys()
    assert ("protocl_pathology" in terms) == (setting.get("prototype") != "off" and setting.get("alpha") != 0)
    assert ("icl" in terms) == (setting.get("icl") != "off" and setting.get("beta") != 0)
    method.eval()
    save_method(method, tmp_path / "model.safetensors")
    again = load_method(tmp_path / "model.safetensors")
    assert torch.equal(method.score(images(), ["effusion"]), again.score(images(), ["effusion"]))
    grid = 64 // setting.get("stride", 16)
    assert again.localise(images(), ["effusion"]).shape == (2, 1, grid, grid)


def test_hazard_6_a_smaller_vocabulary_trains_too():
    few = Vocabulary(pathologies=VOCABULARY.pathologies[8:14], anatomies=VOCABULARY.anatomies)
    method = MeDSLIP(MeDSLIPConfig(**SMALL), few, Preprocessing(size=64))
    terms = method.loss_terms(images(), STATED[:, :, 8:14])
    assert all(torch.isfinite(term) for term in terms.values())
    with pytest.raises(MedLIPError, match="name the right encoder"):
        replaced = MeDSLIP(MeDSLIPConfig(**SMALL), few, Preprocessing(size=64), pathology_embeddings=torch.randn(6, 32),
                           anatomy_embeddings=torch.randn(51, 32))  # fmt: skip
        replaced.eval().score(images(), ["an open question"])


def test_hazard_7_negatives_follow_from_the_batch_and_order_from_the_epoch(phantoms):
    method = model(dropout=0.0)
    first, again, other = (method.losses(batch_of(STATED, seed)) for seed in (5, 5, 6))
    assert first["protocl_pathology"] == again["protocl_pathology"] != other["protocl_pathology"]
    batches = TrainingBatches(phantoms, Preprocessing(64), Augment(64), 8, 0, VOCABULARY)
    orders = [[id_ for batch in batches.epoch(epoch) for id_ in batch.ids] for epoch in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]
    seeds = [seed for epoch in (0, 1) for batch in batches.epoch(epoch) for seed in batch.seeds.tolist()]
    assert len(set(seeds)) == len(seeds)


def test_hazard_8_near_synonyms_and_catch_alls_are_no_negatives(monkeypatch):
    drawn = []
    from medlip.methods import queries

    original = queries.draw_negatives
    monkeypatch.setattr(queries, "draw_negatives", lambda *args: drawn.append(original(*args)) or drawn[-1])
    method = model()
    for seed in range(30):
        method.losses(batch_of(STATED, seed))
    anatomies = {VOCABULARY.anatomies[i].name for i in torch.cat(drawn[::2]).flatten().tolist()}
    pathologies = {VOCABULARY.pathologies[i].name for i in torch.cat(drawn[1::2]).flatten().tolist()}
    assert anatomies & {"left_lung_unspec", "lower_left_lobe", "lung_volumes", "other", "unspecified"} == set()
    assert pathologies & {"consolidation", "infiltrate", "tail_abnorm_obs", "excluded_obs"} == set()
    assert len(anatomies) > 20
    assert len(pathologies) > 20


def test_hazard_9_one_token_limit_in_training_and_in_use(tmp_path, monkeypatch):
    method = model(max_tokens=77)
    save_method(method, tmp_path / "model.safetensors")
    asked = []
    from medlip.methods import queries

    original = queries.text_encoder
    monkeypatch.setattr(queries, "text_encoder", lambda name, tokens: asked.append(tokens) or original(name, tokens))
    load_method(tmp_path / "model.safetensors").score(images(), ["something new"])
    assert asked == [77]


def test_hazard_10_thresholds_come_from_other_patients(phantoms):
    result = evaluate(model().eval(), phantoms, split="all", resamples=20)
    assert result.protocol.tuning == "half of the patients"
    with pytest.raises(MedLIPError, match="patient"):
        evaluate(model().eval(), phantoms, validation=phantoms, split="all", resamples=20)


def test_hazard_11_an_empty_prediction_scores_nothing():
    from medlip.data.study import Box
    from medlip.evaluation.tasks.grounding import grounding_case

    case = grounding_case(np.zeros((4, 4), np.float32), (64, 64), (Box("mass", 8, 8, 16, 16),), (), "mass", "a")
    assert case is not None
    assert not case.hit


def test_hazard_12_a_backbone_is_filled_whole_or_refused(tmp_path):
    from safetensors.torch import save_file

    from medlip.nn.vision_encoder import vision_encoder

    kept = vision_encoder("resnet10t").stages.state_dict()
    state = {name: tensor.contiguous() for name, tensor in kept.items()}  # as the format asks for
    save_file(state, tmp_path / "whole.safetensors")
    loaded = vision_encoder("resnet10t", weights=str(tmp_path / "whole.safetensors")).stages.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())
    save_file({name: t for name, t in state.items() if "layer3" not in name}, tmp_path / "part.safetensors")
    with pytest.raises(MedLIPError, match="missing"):
        vision_encoder("resnet10t", weights=str(tmp_path / "part.safetensors"))
    with pytest.raises(MedLIPError, match="no such file"):
        vision_encoder("resnet10t", weights=str(tmp_path / "nowhere.safetensors"))


def test_a_prompt_does_not_change_what_others_get_and_open_ones_are_answered_offline():
    method = model().eval()
    alone = method.score(images(), ["effusion"])
    among = method.score(images(), ["effusion", "ground-glass opacity at both bases", "Pleural fluid", "effusion"])
    torch.testing.assert_close(alone, among[:, :1], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(among[:, 0], among[:, 3])
    assert ((among >= 0) & (among <= 1)).all()


def test_related_descriptions_have_related_embeddings():
    from medlip.nn.text import LexicalEncoder

    texts = ["Fluid in the pleural space blunts the costophrenic angle.", "Pleural fluid blunting both costophrenic angles.",
             "A fractured rib with a displaced cortical margin."]  # fmt: skip
    first, related, unrelated = LexicalEncoder().encode(texts)
    assert first @ related > 0.4
    assert abs(first @ unrelated) < 0.15
    assert torch.equal(first, LexicalEncoder().encode(texts[:1])[0])


def test_an_encoder_that_is_not_there_is_named_with_advice(tmp_path):
    with pytest.raises(MedLIPError, match="text_encoder=lexical"):
        model(text_encoder=str(tmp_path / "nothing"))


def test_any_transformers_encoder_can_stand_in_a_folder(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = {word for pathology in VOCABULARY.pathologies for word in pathology.description.lower().split()}
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted(words)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(tmp_path)
    BertModel(BertConfig(vocab_size=len(words), hidden_size=48, num_hidden_layers=1, num_attention_heads=2)).save_pretrained(
        tmp_path
    )
    method = model(text_encoder=str(tmp_path)).eval()
    assert method.banks["pathology"].embeddings.shape == (75, 48)
    assert method.score(images(), ["anything at all"]).shape == (2, 1)


def test_text_banks_are_centred_and_scaled_unless_asked_not_to():
    bank = model().banks["anatomy"].embeddings
    torch.testing.assert_close(bank.mean(0), torch.zeros(bank.shape[1]), atol=1e-4, rtol=0)
    torch.testing.assert_close(bank.var(0, correction=0), torch.ones(bank.shape[1]), atol=1e-3, rtol=0)


def test_shares_of_anatomies_add_up_to_the_probability_of_presence():
    method = model().eval()
    asked = ["effusion", "fluid behind the heart"]
    torch.testing.assert_close(method.score_anatomies(images(), asked).sum(-1), method.score(images(), asked))
    assert pair_matrix(method, images()).shape == (2, 51, 75)


def test_a_normalized_gate_is_neither_shut_nor_open_whatever_the_scale_of_the_features() -> None:
    from medlip.nn.disentangler import Disentangler

    torch.manual_seed(0)
    features = torch.randn(2, 9, 64)
    gates = {gate: Disentangler(64, gate) for gate in ("sigmoid", "normalized")}
    for gate in gates.values():
        torch.nn.init.xavier_uniform_(gate.mask.weight)
    for scale in (1.0, 50.0):
        shares = {name: gate(scale * features) for name, gate in gates.items()}
        for first, second in shares.values():
            torch.testing.assert_close(first + second, scale * features)
        open_share = {name: (first / (scale * features)).clamp(1e-6, 1 - 1e-6) for name, (first, _) in shares.items()}
        saturated = {name: ((share < 0.01) | (share > 0.99)).float().mean() for name, share in open_share.items()}
        assert saturated["normalized"] < 0.05
    assert saturated["sigmoid"] > 0.5  # at a scale of 50
