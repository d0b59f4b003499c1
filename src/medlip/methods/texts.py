"""What image-text methods do with words: which sentences they learn from, and what speaks for and against a finding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from medlip.concepts import Vocabulary
from medlip.methods.claims import ABSENT, PRESENT

POSITIVE = ("There is {}.",)
NEGATIVE = ("There is no {}.", "No evidence of {}.", "The lung is clear.")
AGAINST_SENTENCES = ("The lung is clear.", "There is no abnormality.")
DISTRACTORS = (
    "There is no change since the prior study.",
    "The study is compared to the prior study.",
    "The findings were communicated to the referring physician.",
    "Clinical correlation is advised.",
    "The patient is slightly rotated.",
    "Comparison with outside films is suggested.",
)
"""Sentences that no image shows."""
KNOWN_PROMPTS = 1000

Sides = tuple[tuple[str, ...], tuple[str, ...]]
"""The texts that speak for a prompt, and those against it."""


def prompt_name(prompt: str, vocabulary: Vocabulary) -> str:
    """Return a prompt as it stands in a sentence: a pathology's display name, or the text itself."""
    pathology = vocabulary.find_pathology(prompt)
    return pathology.display.lower() if pathology else prompt.strip().rstrip(".")


def is_sentence(prompt: str, vocabulary: Vocabulary) -> bool:
    """Whether a prompt is a whole sentence ("There is a large right effusion."), to be taken as it stands."""
    text = prompt.strip()
    return text.endswith((".", "!", "?")) and len(text.split()) > 2 and vocabulary.find_pathology(prompt) is None


Form = Literal["several", "facts", "present"]
"""How a finding is asked for: in `several` published sentences, as facts are written, or by what speaks for it alone."""


def prompt_texts(prompt: str, vocabulary: Vocabulary, described: bool = True, form: Form = "several") -> Sides:
    """Return the texts that speak for and against a prompt: a pathology by any of its names, a whole sentence, or any words.

    Args:
        prompt: what is asked for.
        vocabulary: of the names.
        described: whether a pathology's description speaks for it, too.
        form: how it is asked for; as `facts` are written there is one sentence a side, and no description, and as `present`
            nothing that speaks against it.
    """
    if is_sentence(prompt, vocabulary):
        return (prompt.strip(),), () if form == "present" else AGAINST_SENTENCES
    pathology, name = vocabulary.find_pathology(prompt), prompt_name(prompt, vocabulary)
    if form != "several":
        return (PRESENT.format(name),), (ABSENT.format(name),) if form == "facts" else ()
    positive, negative = (tuple(form.format(name) for form in forms) for forms in (POSITIVE, NEGATIVE))
    return (*positive, pathology.description) if pathology and described else positive, negative


class PromptBank:
    """What a text encoder makes of the texts of prompts, kept while the encoder stays as it is.

    It is kept by what was made (`kind`) of which texts, so that neither another vocabulary nor another encoding is answered
    with it.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, Sides], tuple[Tensor, ...]] = {}

    def clear(self) -> None:
        """Forget all embeddings, since the encoder changes."""
        self._known.clear()

    def keep(self, kind: str, sides: Sides, make: Callable[[Sides], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """Return what `make` gives for the texts for and against a prompt, made once.

        Args:
            kind: what it makes of them, such as "words".
            sides: the texts for and against.
            make: texts to tensors.
        """
        if (kind, sides) not in self._known:
            if len(self._known) >= KNOWN_PROMPTS:
                self.clear()
            self._known[kind, sides] = make(sides)
        return self._known[kind, sides]

    def embed(self, kind: str, prompts: Sequence[Sides], encode: Callable[[Sequence[str]], Tensor]) -> tuple[Tensor, Tensor]:
        """Return the mean embedding, of length 1, of what speaks for (C, d) and against (C, d) each prompt; 0 for nothing.

        Args:
            kind: what `encode` makes of texts, such as "sentences".
            prompts: texts for and against each of C prompts, at least one.
            encode: texts to embeddings of length 1.
        """

        def make(sides: Sides) -> tuple[Tensor, ...]:
            speaks_for, against = sides
            vector = normalize(encode(speaks_for).mean(0), dim=0)
            return vector, normalize(encode(against).mean(0), dim=0) if against else torch.zeros_like(vector)

        positive, negative = zip(*(self.keep(kind, sides, make) for sides in prompts), strict=True)
        return torch.stack(positive), torch.stack(negative)


def add_distractors(reports: Sequence[Sequence[str]], share: float, seeds: Sequence[int]) -> Sequence[Sequence[str]]:
    """Put sentences that no image shows into reports, at random places, until they are `share` of all; each by its seed."""
    if not share:
        return reports
    mixed = []
    for report, seed in zip(reports, seeds, strict=True):
        random = Random(seed)
        both = [*report, *random.choices(DISTRACTORS, k=round(len(report) * share / (1 - share)))]
        random.shuffle(both)
        mixed.append(both)
    return mixed


def draw_sentences(reports: Sequence[Sequence[str]], most: int, shuffle: bool, seeds: Sequence[int]) -> list[list[str]]:
    """Return at most `most` sentences of each report (0: all), drawn by its seed; in their own order unless shuffled."""
    drawn = []
    for report, seed in zip(reports, seeds, strict=True):
        order = Random(seed).sample(range(len(report)), min(most or len(report), len(report)))
        drawn.append([report[index] for index in (order if shuffle else sorted(order))])
    return drawn
