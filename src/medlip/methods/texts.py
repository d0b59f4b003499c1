"""What image-text methods do with words: which sentences they learn from, and what speaks for and against a finding."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from medlip.concepts import Vocabulary

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


def prompt_name(prompt: str, vocabulary: Vocabulary) -> str:
    """Return a prompt as it stands in a sentence: a pathology's display name, or the text itself."""
    pathology = vocabulary.find_pathology(prompt)
    return pathology.display.lower() if pathology else prompt.strip().rstrip(".")


def is_sentence(prompt: str, vocabulary: Vocabulary) -> bool:
    """Whether a prompt is a whole sentence ("There is a large right effusion."), to be taken as it stands."""
    text = prompt.strip()
    return text.endswith((".", "!", "?")) and len(text.split()) > 2 and vocabulary.find_pathology(prompt) is None


def prompt_texts(prompt: str, vocabulary: Vocabulary, described: bool = True) -> tuple[list[str], list[str]]:
    """Return the texts that speak for and against a prompt: a pathology by any of its names, a whole sentence, or any words.

    Where `described`, a pathology's description speaks for it too.
    """
    if is_sentence(prompt, vocabulary):
        return [prompt.strip()], list(AGAINST_SENTENCES)
    pathology, name = vocabulary.find_pathology(prompt), prompt_name(prompt, vocabulary)
    description = [pathology.description] if pathology and described else []
    return [form.format(name) for form in POSITIVE] + description, [form.format(name) for form in NEGATIVE]


class PromptBank:
    """What a text encoder makes of prompts, kept while the encoder stays as it is.

    Args:
        described: a pathology's description speaks for it, beside its name.
    """

    def __init__(self, described: bool = True) -> None:
        self._described = described
        self._known: dict[tuple[str, str], tuple[Tensor, ...]] = {}

    def clear(self) -> None:
        """Forget all embeddings, since the encoder changes."""
        self._known.clear()

    def embed(
        self, prompts: Sequence[str], vocabulary: Vocabulary, encode: Callable[[Sequence[str]], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the mean embedding, of length 1, of what speaks for (C, d) and against (C, d) each prompt.

        Args:
            prompts: C names or texts.
            vocabulary: of the names.
            encode: texts to embeddings of length 1.
        """
        if not prompts:
            nothing = encode(["."])[:0]
            return nothing, nothing

        def make(prompt: str) -> tuple[Tensor, ...]:
            sides = prompt_texts(prompt, vocabulary, self._described)
            return tuple(normalize(encode(texts).mean(0), dim=0) for texts in sides)

        kind = getattr(encode, "__name__", "")
        positive, negative = zip(*(self.keep(kind, prompt, make) for prompt in prompts), strict=True)
        return torch.stack(positive), torch.stack(negative)

    def keep(self, kind: str, prompt: str, make: Callable[[str], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """Return what `make` gives for a prompt, made once; `kind` tells apart what is kept of the same prompt."""
        if (kind, prompt) not in self._known:
            if len(self._known) >= KNOWN_PROMPTS:
                self.clear()
            self._known[kind, prompt] = make(prompt)
        return self._known[kind, prompt]


def add_distractors(reports: Sequence[Sequence[str]], share: float, generator: torch.Generator) -> Sequence[Sequence[str]]:
    """Put sentences that no image shows into reports, at random places, until they are `share` of all."""
    if not share:
        return reports
    mixed = []
    for report in reports:
        added = round(len(report) * share / (1 - share))
        chosen = torch.randint(len(DISTRACTORS), (added,), generator=generator).tolist()
        both = [*report, *(DISTRACTORS[index] for index in chosen)]
        mixed.append([both[index] for index in torch.randperm(len(both), generator=generator).tolist()])
    return mixed


def draw_sentences(
    reports: Sequence[Sequence[str]], most: int, shuffle: bool, generator: torch.Generator
) -> list[list[str]]:
    """Return at most `most` sentences of each report (0: all), drawn at random; in their own order unless shuffled."""
    drawn = []
    for report in reports:
        order = torch.randperm(len(report), generator=generator)[: most or None].tolist()
        drawn.append([report[index] for index in (order if shuffle else sorted(order))])
    return drawn
