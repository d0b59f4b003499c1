"""Reports and graphs that are made up, distinct, and alike in kind to real ones: what speed and memory are measured with."""

from __future__ import annotations

import random
from collections.abc import Iterator

_SIDES = ("left", "right")
_ZONES = ("upper", "mid", "lower")
_SIZES = ("small", "moderate", "large", "tiny", "mild", "severe", "patchy", "subtle", "dense", "linear")
_LUNG = ("opacity", "consolidation", "atelectasis", "nodule", "scarring", "infiltrate", "mass", "edema")
_OTHER = (
    "pleural effusion",
    "pneumothorax",
    "cardiomegaly",
    "pulmonary edema",
    "rib fracture",
    "vascular congestion",
    "hiatal hernia",
)
_NORMAL = ("heart size", "cardiomediastinal silhouette", "pulmonary vasculature", "trachea", "thoracic spine", "mediastinum")


def generated_reports(count: int, seed: int = 0, length: int = 40) -> Iterator[str]:
    """Yield `count` distinct reports of about `length` words, all different in their sentences, too."""
    draw = random.Random(seed)
    for number in range(count):
        sentences: list[str] = []
        words = 0
        while words < length:
            sentence = _sentence(draw, number)
            words += len(sentence.split())
            sentences.append(sentence)
        cut = max(1, len(sentences) - 1)
        yield f"FINDINGS: {' '.join(sentences[:cut])} IMPRESSION: {' '.join(sentences[cut:])}"


def _sentence(draw: random.Random, number: int) -> str:
    side, zone, size, other_size = draw.choice(_SIDES), draw.choice(_ZONES), draw.choice(_SIZES), draw.choice(_SIZES)
    lung, cause, differential = (draw.choice(_LUNG) for _ in range(3))
    other, another = draw.choice(_OTHER), draw.choice(_OTHER)
    structure, neighbour = draw.choice(_NORMAL).capitalize(), draw.choice(_NORMAL)
    forms = (
        f"There is a {size} {lung} in the {side} {zone} lung measuring {number % 97}.{draw.randrange(100)} mm.",
        f"No {size} {side} {lung}, {other}, or {another} is seen on image {number}.",
        f"{side.capitalize()} {zone} lung {lung} of {number} units may represent {cause} or {differential}.",
        f"{structure} is within normal limits, and the {neighbour} is unchanged since film {number}.",
        f"{size.capitalize()} {other} has decreased, but a {other_size} {lung} persists at the {side} base, {number} today.",
    )
    return draw.choice(forms)


def generated_graphs(count: int, seed: int = 0) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield `count` distinct (key, RadGraph graph), each of three to seven sentences."""
    draw = random.Random(seed)
    for number in range(count):
        yield f"p10/p{10_000_000 + number}/s{50_000_000 + number}.txt", _graph(draw, number)


def _graph(draw: random.Random, number: int) -> dict[str, object]:
    tokens: list[str] = []
    entities: dict[str, dict[str, object]] = {}

    def entity(word: str, label: str, relations: list[list[str]]) -> str:
        key, at = str(len(entities) + 1), len(tokens)
        entities[key] = {"tokens": word, "label": label, "start_ix": at, "end_ix": at, "relations": relations}
        tokens.append(word)
        return key

    for _ in range(draw.randint(3, 7)):
        side = entity(draw.choice(_SIDES), "ANAT-DP", [])
        organ = entity(draw.choice(("lung", "base", "hilum", "pleural", "costophrenic", "lobe")), "ANAT-DP", [])
        entities[side]["relations"] = [["modify", organ]]
        tokens += ["shows", str(number)]
        label = draw.choice(("OBS-DP", "OBS-DA", "OBS-U"))
        finding = draw.choice(("opacity", "effusion", "edema", "nodules", "thickening"))
        found = entity(finding, label, [["located_at", organ]])
        tokens.append("and")
        entity(draw.choice(("unchanged", "mild", "calcified")), "OBS-DP", [["modify", found]])
        entity(draw.choice(("clips", "atelectasis", "scarring")), label, [])
        tokens.append(".")
    return {"text": " ".join(tokens), "entities": entities}
