"""Reports to vectors, trained along with the image or frozen: any `transformers` encoder, or a small one of the reports.

A report is encoded once; a sentence's vector is pooled from its own tokens, between boundaries that the splitter found. Or
each sentence is encoded by itself, so that its vector is the same in every report, and the one it has as a question.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, cast

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from medlip.errors import MedLIPError
from medlip.nn.parts import Recomputing, blocks_of, in_parts, recompute_blocks

WORDPIECE = "wordpiece"
"""Name of the small encoder whose vocabulary is made from the training reports."""
POOLED_LAYERS = 4
COUNTED_AT_ONCE = 1024  # reports
KEPT_SENTENCES = 20_000  # of a frozen encoder: some hundred megabytes


@dataclass(frozen=True, slots=True)
class Cut:
    """What an encoder leaves unread of reports that are longer than it takes.

    Attributes:
        limit: tokens that it reads of a report.
        reports: number of reports.
        longer: of these, the ones that are longer.
        tokens: of all reports together.
        lost: of these, the ones beyond the limit.
        what: these are.
    """

    limit: int
    reports: int
    longer: int
    tokens: int
    lost: int
    what: str = "reports"

    def describe(self, what: str = "") -> str:
        """Return a sentence for people, "" where nothing is lost; `what` they are called, if not as they were counted."""
        if not self.lost:
            return ""
        kind = what or self.what
        return (
            f"{self.longer:,} of {self.reports:,} {kind} are longer than the {self.limit:,} tokens that the text encoder "
            f"reads of each: {self.lost:,} of {self.tokens:,} tokens are lost"
        )


@dataclass(frozen=True, slots=True)
class EncodedReports:
    """B reports with at most M sentences and T tokens.

    Attributes:
        reports: (B, W) state of the first token in the last layer; the mean of those where sentences stand by themselves.
        means: (B, W) mean of all words' tokens; 0 for a report without any.
        sentences: (B, M, W) mean of a sentence's tokens, each the sum of the last four layers; 0 where there is none.
        real: bool (B, M) which sentences are there; one that was cut off whole is not.
        tokens: (B, T, W) sum of the last four layers.
        words: (B, T) index of each token's word in its report, -1 for special tokens and padding.
        most_words: number of words of the report that has most.
    """

    reports: Tensor
    means: Tensor
    sentences: Tensor
    real: Tensor
    tokens: Tensor
    words: Tensor
    most_words: int


class ReportEncoder(nn.Module, Recomputing):
    """A transformer over whole reports, with its tokenizer in its state dict: a saved model needs no file beside it.

    Args:
        model: the `transformers` encoder.
        tokenizer: its tokenizer.
        special: ids of the first, the last and the padding token.
        max_tokens: where a report is cut, or a sentence that stands by itself; first and last token included.

    Attributes:
        parts: in which reports are encoded where gradients are wanted, to save memory.
        apart: encode each sentence by itself.
        frozen: whether the weights stay as they are, see `freeze`.
    """

    about: Tensor
    center: Tensor
    parts: int = 1
    apart: bool = False
    frozen: bool = False

    def __init__(self, model: Any, tokenizer: Tokenizer, special: Sequence[int], max_tokens: int = 100) -> None:
        super().__init__()
        self._kept: dict[str, _Sentence] = {}
        self.model = model
        if getattr(model, "pooler", None) is not None:
            model.pooler = None  # never used, so never trained
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.tokenizer, self.special = tokenizer, tuple(special)
        self.max_tokens = min(max_tokens, getattr(model.config, "max_position_embeddings", max_tokens))
        self.width: int = model.config.hidden_size
        about = {"config": model.config.to_dict(), "tokenizer": tokenizer.to_str(), "special": self.special}
        self.register_buffer("about", torch.frombuffer(bytearray(json.dumps(about).encode()), dtype=torch.uint8))

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        max_tokens: int = 100,
        instead: str = f"text_encoder={WORDPIECE}, which is made from the training reports",
    ) -> ReportEncoder:
        """Load a `transformers` encoder by hub name or folder.

        Args:
            name: hub name, or a folder.
            max_tokens: where a report is cut.
            instead: what to use where it can't be had, for the error.

        Raises:
            MedLIPError: it can't be had, or it has no fast tokenizer.
        """
        from transformers import AutoModel, AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(name)
            model = AutoModel.from_pretrained(name)
        except (OSError, ValueError, ImportError) as error:
            reason = str(error).strip().split("\n")[0]
            raise MedLIPError(
                f"text encoder {name!r} can't be loaded ({reason}). Give a folder that holds it, connect to the hub, or use "
                f"{instead}."
            ) from error
        backend = getattr(tokenizer, "backend_tokenizer", None)
        special = (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id)
        if backend is None or None in special:
            raise MedLIPError(f"text encoder {name!r}: needs a fast tokenizer with first, last and padding tokens.")
        return cls(model, Tokenizer.from_str(backend.to_str()), cast("tuple[int, int, int]", special), max_tokens)

    @classmethod
    def from_reports(
        cls, reports: Iterable[str], max_tokens: int = 100, *, width: int = 256, layers: int = 4, vocabulary: int = 4000
    ) -> ReportEncoder:
        """Make a small BERT from scratch, its WordPiece vocabulary from `reports`.

        Args:
            reports: training texts.
            max_tokens: where a report is cut.
            width: of the states, a multiple of 32.
            layers: transformer layers.
            vocabulary: word pieces at most.

        Raises:
            MedLIPError: no report has a text.
        """
        from transformers import BertConfig, BertModel

        tokenizer = _train_wordpiece(reports, vocabulary)
        config = BertConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=width // 32,
            intermediate_size=4 * width,
            max_position_embeddings=max(max_tokens, 128),
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        return cls(BertModel(config), tokenizer, _special_ids(tokenizer), max_tokens)

    @classmethod
    def blank(cls, about: Tensor, max_tokens: int = 100) -> ReportEncoder:
        """Return an encoder like the one whose `about` was saved, its weights still to be filled in."""
        from transformers import AutoConfig, AutoModel

        saved = json.loads(about.cpu().numpy().tobytes())
        model = AutoModel.from_config(AutoConfig.for_model(**saved["config"]))
        encoder = cls(model, Tokenizer.from_str(saved["tokenizer"]), saved["special"], max_tokens)
        encoder.about = about.detach().clone()  # byte for byte: a newer library may write the same settings differently
        return encoder

    def freeze(self, texts: Sequence[str] = ()) -> None:
        """Keep the weights as they are from now on; sentences that stand by themselves are then encoded once.

        States are centered from now on: a trained encoder's are nearly parallel, and a contrast learns slowly of such.

        Args:
            texts: whose mean is the center; none where it is loaded with the weights.
        """
        self.frozen = True
        self.requires_grad_(False)
        self.train(self.training)
        self.register_buffer("center", torch.zeros(2, self.width))
        if texts:
            encoded = self([[text] for text in texts])
            self.center = torch.stack([encoded.means.mean(0), encoded.reports.mean(0)])
            self._kept.clear()

    def train(self, mode: bool = True) -> ReportEncoder:
        """Switch between training and use; a frozen model is always in use."""
        self._kept.clear()
        super().train(mode)
        if self.frozen:
            self.model.eval()
        return self

    def cut(self, reports: Iterable[Sequence[str]], most: int = 0, what: str = "reports") -> Cut:
        """Count what is lost of reports where they are cut, sentence by sentence if they are `apart`; nothing is encoded.

        Args:
            reports: given as sentences.
            most: sentences that are read of a report at a time, its longest ones counted; 0 for all.
            what: they are, if not reports.
        """
        limit = self.max_tokens - 2
        count = longer = tokens = lost = 0
        rest = iter(reports)
        while some := list(islice(rest, COUNTED_AT_ONCE)):
            encodings = iter(self._tokens(some))
            for report in some:
                lengths = sorted((len(next(encodings).ids) for _ in report), reverse=True)
                read = lengths[: most or None]
                beyond = sum(max(0, length - limit) for length in (read if self.apart else [sum(read)]))
                count, tokens = count + 1, tokens + sum(read)
                longer, lost = longer + (beyond > 0), lost + beyond
        return Cut(limit, count, longer, tokens, lost, what)

    def recompute(self) -> None:
        """Compute the activations of each layer again in the backward pass."""
        recompute_blocks(blocks_of(self.model))

    def _tokens(self, reports: Sequence[Sequence[str]]) -> list[Any]:
        """Return the tokens of every sentence of every report, in order."""
        return list(
            self.tokenizer.encode_batch([sentence for report in reports for sentence in report], add_special_tokens=False)
        )

    def forward(self, reports: Sequence[Sequence[str]]) -> EncodedReports:
        """Encode reports, each given as its sentences in order; a report may have none."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self._apart(reports) if self.apart else self._together(reports)

    def _apart(self, reports: Sequence[Sequence[str]]) -> EncodedReports:
        """Encode each sentence by itself, one that comes again only once, and put reports together of them."""
        texts = list(dict.fromkeys(sentence for report in reports for sentence in report))
        if not texts:
            return self._together(reports)  # which has a gradient, that other processes wait for, if only of 0
        known = {text: self._kept[text] for text in texts if text in self._kept}
        if missing := [text for text in texts if text not in known]:
            rows = self._rows([[text] for text in missing])
            encoded = self._encode(rows, 1)
            known |= {
                text: _Sentence(encoded.reports[row], encoded.tokens[row, 1 : 1 + len(words)], words)
                for row, (text, (_, _, words)) in enumerate(zip(missing, rows, strict=True))
            }
        if self.frozen:
            if len(self._kept) + len(missing) > KEPT_SENTENCES:
                self._kept.clear()
            self._kept |= known
        return _joined([[known[text] for text in report] for report in reports], self.width, self.about.device)

    def _together(self, reports: Sequence[Sequence[str]]) -> EncodedReports:
        return self._encode(self._rows(reports), max(1, max((len(report) for report in reports), default=0)))

    def _rows(self, reports: Sequence[Sequence[str]]) -> list[_Row]:
        encodings = iter(self._tokens(reports))
        return [_layout([next(encodings) for _ in report], self.max_tokens - 2) for report in reports]

    def _encode(self, rows: Sequence[_Row], count: int) -> EncodedReports:
        """Encode reports, each given as its tokens, of at most `count` sentences."""
        first, last, padding = self.special
        length = 2 + max((len(ids) for ids, _, _ in rows), default=0)
        ids = torch.full((len(rows), length), padding)
        owners, words = torch.full_like(ids, -1), torch.full_like(ids, -1)
        for row, (tokens, owner, word) in enumerate(rows):
            ids[row, : len(tokens) + 2] = torch.tensor([first, *tokens, last])
            owners[row, 1 : len(tokens) + 1] = torch.tensor(owner)
            words[row, 1 : len(tokens) + 1] = torch.tensor(word)
        device = self.about.device
        most = max((word[-1] + 1 for _, _, word in rows if word), default=0)
        own_lengths = torch.tensor([len(tokens) + 2 for tokens, _, _ in rows])
        is_padded = bool((own_lengths < length).any())
        ids, owners, words, lengths = (values.to(device, non_blocking=True) for values in (ids, owners, words, own_lengths))
        attended = torch.arange(length, device=device) < lengths[:, None] if is_padded else None
        states, first_tokens = in_parts(self._states, self.parts, ids, attended)
        sentences, real = pool(states, owners, count)
        means, _ = pool(states, owners.clamp(max=0), 1)
        return EncodedReports(first_tokens, means[:, 0], sentences, real, states, words, most)

    def _states(self, ids: Tensor, attended: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the sum of the last four layers (B, T, W), and the last state of the first token (B, W)."""
        if attended is not None and self.model.config._attn_implementation == "sdpa":
            # As the attention takes it: of one with two dimensions, transformers asks the device whether all of it is True.
            attended = attended[:, None, None].expand(-1, -1, ids.shape[1], -1)
        output = self.model(input_ids=ids, attention_mask=attended, output_hidden_states=True)
        states, first = torch.stack(output.hidden_states[1:][-POOLED_LAYERS:]).sum(0), output.last_hidden_state[:, 0]
        return (states - self.center[0], first - self.center[1]) if self.frozen else (states, first)


class _Sentence(NamedTuple):
    """A sentence by itself.

    Attributes:
        state: (W,) of the first token.
        tokens: (T, W), without special ones.
        words: each token's word.
    """

    state: Tensor
    tokens: Tensor
    words: Sequence[int]


def _joined(reports: Sequence[Sequence[_Sentence]], width: int, device: torch.device) -> EncodedReports:
    """Return reports of sentences that were encoded by themselves."""
    nothing = torch.zeros(1, width, device=device)
    tokens, owners, words, states = [], [], [], []
    most = 0
    for report in reports:  # with a place behind the last token that is nobody's, for a report may have none
        owner, word, start = [], [], 0
        for place, sentence in enumerate(report):
            owner += [place] * len(sentence.words)
            word += [start + number for number in sentence.words]
            start = word[-1] + 1 if word else 0
        most = max(most, start)
        tokens.append(torch.cat([*(sentence.tokens for sentence in report), nothing]))
        owners.append(torch.tensor([*owner, -1]))
        words.append(torch.tensor([*word, -1]))
        states.append(torch.stack([sentence.state for sentence in report]).mean(0) if report else nothing[0])
    together = pad_sequence(tokens, batch_first=True)
    owned, spoken = (pad_sequence(rows, True, -1).to(device, non_blocking=True) for rows in (owners, words))
    sentences, real = pool(together, owned, max(1, max((len(report) for report in reports), default=0)))
    means, _ = pool(together, owned.clamp(max=0), 1)
    return EncodedReports(torch.stack(states), means[:, 0], sentences, real, together, spoken, most)


def build_report_encoder(
    name: str,
    reports: Callable[[], Iterable[str]],
    max_tokens: int,
    *,
    width: int = 256,
    layers: int = 4,
    vocabulary: int = 4000,
) -> ReportEncoder:
    """Return the encoder of that name: "wordpiece" makes one from `reports`, of `width`, `layers` and `vocabulary`."""
    if name == WORDPIECE:
        return ReportEncoder.from_reports(reports(), max_tokens, width=width, layers=layers, vocabulary=vocabulary)
    return ReportEncoder.from_pretrained(name, max_tokens)


def pool(tokens: Tensor, owners: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Average tokens by owner.

    Args:
        tokens: (B, T, W).
        owners: (B, T) from 0 to count - 1, or -1 for nobody's.
        count: M.

    Returns:
        (B, M, W), 0 where an owner has no token, and bool (B, M): who has one.
    """
    belongs = owners[:, None, :] == torch.arange(count, device=owners.device)[:, None]
    sizes = belongs.sum(2, keepdim=True)
    return (belongs.to(tokens.dtype) @ tokens) / sizes.clamp(min=1).to(tokens.dtype), sizes[..., 0] > 0


_Row = tuple[list[int], list[int], list[int]]
"""A report's token ids, whose sentence each is, and whose word."""


def _layout(sentences: Sequence[Any], room: int) -> _Row:
    """Return a report's token ids, whose sentence each is, and whose word, cut at `room` tokens."""
    ids: list[int] = []
    owners: list[int] = []
    words: list[int] = []
    for index, sentence in enumerate(sentences):
        start = words[-1] + 1 if words else 0
        ids.extend(sentence.ids)
        owners.extend([index] * len(sentence.ids))
        words.extend(start + (word or 0) for word in sentence.word_ids)
    return ids[:room], owners[:room], words[:room]


_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def _train_wordpiece(reports: Iterable[str], size: int) -> Tokenizer:
    from tokenizers import models, trainers

    texts = list(reports)
    tokenizer = _wordpiece(models.WordPiece(unk_token="[UNK]"))
    normalized = (tokenizer.normalizer.normalize_str(text) for text in texts)
    letters = sorted({letter for text in normalized for letter in text if not letter.isspace()})
    # The trainer numbers inner letters in an order of its own and breaks ties by these numbers: given as the first words,
    # they make the vocabulary the same every time.
    fixed = [*_SPECIAL, *letters, *(f"##{letter}" for letter in letters)]
    trainer = trainers.WordPieceTrainer(vocab_size=size, min_frequency=2, special_tokens=fixed, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    if not letters:
        raise MedLIPError(
            "text encoder: no report to make a vocabulary from. Train on studies with reports, or name a trained encoder."
        )
    return _wordpiece(models.WordPiece(tokenizer.get_vocab(), unk_token="[UNK]"))


def _wordpiece(model: Any) -> Tokenizer:
    from tokenizers import normalizers, pre_tokenizers

    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def _special_ids(tokenizer: Tokenizer) -> tuple[int, int, int]:
    vocabulary: Mapping[str, int] = tokenizer.get_vocab()
    return vocabulary["[CLS]"], vocabulary["[SEP]"], vocabulary["[PAD]"]
