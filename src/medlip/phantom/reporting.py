"""The phantom's report: what a radiologist might write of a case, with what is absent, hedged or beside the point."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from string import Formatter
from typing import Any

import numpy as np
import yaml

from medlip.phantom.cases import PhantomCase, anatomies_of
from medlip.phantom.findings import PhantomFinding, side_of

# Small things that readers pass over now and then.
MINOR = (
    "scar",
    "calcification",
    "thicken",
    "atelectasis",
    "hernia",
    "elevation",
    "fracture",
    "nodule",
    "emphysema",
    "hyperinflate",
)
OMITTED = 0.05
HEDGED_WHEN_SUBTLE = 0.3
FALSE_HEDGES = 0.12
# What a reader mentions first when it is absent.
USUAL_NEGATIVES = ("pneumothorax", "effusion", "consolidation", "edema", "fracture", "nodule", "opacity")


def write_report(case: PhantomCase, rng: np.random.Generator, independent: bool = False) -> str:
    """Write a report with INDICATION, TECHNIQUE, COMPARISON, FINDINGS and IMPRESSION.

    Now and then a minor finding is left out, a subtle one is hedged, and something that is not there is hedged too; with
    `independent`, in the places where such cases have it (see `draw_case`).
    """
    writer = _Writer(case, rng, independent)
    return "\n".join(
        f"{heading}: {text}"
        for heading, text in (
            ("INDICATION", writer.indication()),
            ("TECHNIQUE", writer.pick(_words()["techniques"][case.position])),
            ("COMPARISON", writer.comparison()),
            ("FINDINGS", writer.findings()),
            ("IMPRESSION", writer.impression()),
        )
    )


@lru_cache(maxsize=1)
def _words() -> dict[str, Any]:
    words: dict[str, Any] = yaml.safe_load((files(__package__) / "words.yaml").read_text())
    return words


class _Writer:
    def __init__(self, case: PhantomCase, rng: np.random.Generator, independent: bool) -> None:
        self.case, self.rng, self.independent = case, rng, independent
        stated = [f for f in case.findings if not (f.pathology in MINOR and rng.random() < OMITTED)]
        self.hedged = [
            f for f in stated if f.severity < 0.35 and rng.random() < HEDGED_WHEN_SUBTLE and self._templates(f, "hedged")
        ]
        self.stated = [f for f in stated if f not in self.hedged]
        present = {finding.pathology for finding in case.findings}
        self.absent = [name for name, entry in _words()["findings"].items() if name not in present and entry["absent"]]
        if rng.random() < FALSE_HEDGES:
            false = self._imagined(present)
            self.hedged.append(false)
            self.absent = [name for name in self.absent if name != false.pathology]

    def pick(self, options: list[str]) -> str:
        return options[int(self.rng.integers(len(options)))]

    def _imagined(self, present: set[str]) -> PhantomFinding:
        """Return a finding that is not there."""
        words = _words()["findings"]
        pathology = self.pick([name for name, entry in words.items() if name not in present and entry.get("hedged")])
        anatomy = self.pick(list(anatomies_of(pathology, self.independent)))
        side = side_of(anatomy) or (1 if self.rng.random() < 0.5 else -1)
        return PhantomFinding(pathology, anatomy, 0.1, side)

    def _templates(self, finding: PhantomFinding, kind: str) -> list[str]:
        templates: list[str] | dict[str, list[str]] = _words()["findings"][finding.pathology].get(kind, [])
        if isinstance(templates, dict):
            return next(options for place, options in templates.items() if place in finding.anatomy.split("_"))
        return templates

    def sentence(self, finding: PhantomFinding, kind: str = "present") -> str:
        words = _words()
        template = self.pick(self._templates(finding, kind))
        band = min(int(finding.severity * 3), 2)
        anatomy = words["anatomies"].get(finding.anatomy, {"at": [""], "where": [""]})
        values = {
            "size": self.pick(words["findings"][finding.pathology].get("sizes", words["sizes"])[band]),
            "side": words["sides"].get(finding.side, ""),
            "at": self.pick(anatomy["at"]),
            "where": self.pick(anatomy["where"]),
            "mm": str(round(19 + 11 * finding.severity)),
            "cm": f"{4.5 + 2.6 * finding.severity:.1f}"
            if finding.pathology == "mass"
            else f"{2 + 4 * self.rng.random():.0f}",
        }
        return _fill(template, values)

    def indication(self) -> str:
        words = _words()["indications"]
        person = {"M": "man", "F": "woman"}[self.case.sex]
        who = _fill(self.pick(words["people"]), {"age": str(self.case.age), "person": person, "sex": self.case.sex})
        return f"{who} {self.pick(words['reasons'])}."

    def comparison(self) -> str:
        words = _words()
        if self.rng.random() < 0.5:
            return self.pick(words["comparisons"]["none"])
        values = {"month": self.pick(words["months"]), "year": str(int(self.rng.integers(2005, 2020)))}
        return _fill(self.pick(words["comparisons"]["prior"]), values)

    def findings(self) -> str:
        words, rng = _words(), self.rng
        sentences = [self.sentence(finding) for finding in self.stated]
        sentences += [self.sentence(finding, "hedged") for finding in self.hedged]
        sentences += self._negations()
        mentioned = {finding.pathology for finding in (*self.stated, *self.hedged)}
        normal = [entry for entry in words["normal"] if not mentioned & set(entry["unless"])]
        sentences += [self.pick(entry["say"]) for entry in normal if rng.random() < 0.55]
        if rng.random() < 0.3:
            sentences.append(self.pick(words["remarks"]))
        order = np.arange(len(sentences)) + rng.normal(0, 1.5, len(sentences))
        return " ".join(sentences[k] for k in np.argsort(order))

    def _negations(self) -> list[str]:
        words, rng = _words(), self.rng
        pool = [name for name in USUAL_NEGATIVES if name in self.absent]
        pool += [name for name in self.absent if name not in USUAL_NEGATIVES and rng.random() < 0.06]
        names = [pool[k] for k in rng.permutation(len(pool))[: int(rng.integers(1, 5))]] if pool else []
        sentences = []
        while names:
            group, names = names[:3], names[3:]
            nouns = [self.pick(words["findings"][name]["absent"]) for name in group]
            if len(group) == 1 and rng.random() < 0.12:
                sentences.append(_fill(self.pick(words["resolved"]), {"a": nouns[0]}))
            else:
                sentences.append(_fill(self.pick(words["negations"][len(group) - 1]), dict(zip("abc", nouns, strict=False))))
        return sentences

    def impression(self) -> str:
        words = _words()
        points = [self.sentence(finding) for finding in self.stated[:4]]
        points += [self.sentence(finding, "hedged") for finding in self.hedged if self.rng.random() < 0.5]
        if not points:
            return self.pick(words["unremarkable"])
        if self.rng.random() < 0.2:
            points.append(self.pick(words["recommendations"]))
        if self.rng.random() < 0.5 and len(points) > 1:
            return " ".join(f"{k}. {point}" for k, point in enumerate(points, 1))
        return " ".join(points)


def _fill(template: str, values: dict[str, str]) -> str:
    """Fill a template in; a name with a capital gives its value one, and so does the beginning of the sentence."""
    parts = []
    for text, name, _, _ in Formatter().parse(template):
        parts.append(text)
        if name:
            value = values[name.lower()]
            parts.append(value if name.islower() else value[:1].upper() + value[1:])
    return "".join(parts)
