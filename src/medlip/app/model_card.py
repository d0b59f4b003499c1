"""A model's card: what it is, what made it, how good it was found to be and for whom, and what it is not for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from medlip.about import DISCLAIMER
from medlip.app.reading import ModelIdentity
from medlip.evaluation.compare import Evaluated
from medlip.evaluation.results import Result
from medlip.evaluation.subgroups import AttributeResult
from medlip.evaluation.tables import result_tables
from medlip.methods import Method
from medlip.methods.base import TellsPlaces
from medlip.tables import Table, as_markdown, count, ends, number

USE = (
    "Research on chest X-rays: zero-shot recognition and localization of findings, as a baseline, and as a start for "
    "training. Frontal chest X-rays alone."
)
LIMITS = (
    "It was not tested for any clinical use, and no output may guide the care of a patient.",
    "Probabilities are not calibrated, and thresholds of one hospital don't hold in another.",
    "Maps say what the score was made of, not where disease is; places are named as well as the tables below say.",
    "What reports rarely mention was hardly learned. Images that are no frontal chest X-rays are answered all the same.",
    "It may do worse for groups that were rare in training: see the results by group, where there are any.",
)
PHANTOM = "phantom"  # data that anyone may use, since it was drawn by this package


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What is said of a model.

    Attributes:
        identity: which model it is.
        summary: how it learned.
        vocabulary: how many pathologies and anatomies it knows, and whether any text can be asked.
        input_size: side of its input in pixels.
        places: whether it says in which anatomy a finding lies.
        made_by: recipe, data and versions of its training, None where they are not known.
        license: of its weights, as the hub names it.
        results: of evaluations.
    """

    identity: ModelIdentity
    summary: str
    vocabulary: Mapping[str, Any]
    input_size: int
    places: bool
    made_by: Mapping[str, Any] | None
    license: str
    results: Sequence[Result]

    @classmethod
    def of(cls, method: Method, results: Sequence[Path] = (), license: str | None = None) -> ModelCard:
        """Make the card of a model.

        Args:
            method: the model.
            results: folders or files of `medlip evaluate --out`.
            license: of the weights; None: apache-2.0 if they were trained on phantoms alone, else "other".

        Raises:
            MedLIPError: a folder holds no result.
        """
        known = {
            "pathologies": len(method.vocabulary.pathologies),
            "anatomies": len(method.vocabulary.anatomies),
            "open_prompts": method.open_prompts,
        }
        sources = list(((method.made_by or {}).get("data") or {}).get("sources") or ())
        free = bool(sources) and all(source.partition(":")[0] == PHANTOM for source in sources)
        return cls(
            ModelIdentity.of(method),
            method.summary,
            known,
            method.preprocessing.size,
            isinstance(method, TellsPlaces),
            method.made_by,
            license or ("apache-2.0" if free else "other"),
            [Evaluated.load(path).result for path in results],
        )

    def to_dict(self) -> dict[str, object]:
        """Return it as plain data."""
        return {
            "model": asdict(self.identity),
            "summary": self.summary,
            "vocabulary": dict(self.vocabulary),
            "input_size": self.input_size,
            "places": self.places,
            "made_by": self.made_by,
            "license": self.license,
            "intended_use": USE,
            "limits": list(LIMITS),
            "results": [result.model_dump(mode="json") for result in self.results],
            "disclaimer": DISCLAIMER,
        }

    def render(self, name: str | None = None) -> str:
        """Return it as Markdown, with the fields that the hub reads at its beginning.

        Args:
            name: of the model on the hub, None where it isn't there.
        """
        fields = {
            "license": self.license,
            "library_name": "medlip",
            "pipeline_tag": "zero-shot-image-classification",
            "tags": ["chest-x-ray", "medical", "vision-language", self.identity.method],
        }
        head = yaml.safe_dump(fields, sort_keys=False).strip()
        return "\n\n".join([f"---\n{head}\n---", *self._sections(name or self.identity.name)]) + "\n"

    def _sections(self, name: str) -> Iterator[str]:
        yield f"# {name}"
        yield f"**{DISCLAIMER}**"
        yield f"{self.summary} Method `{self.identity.method}` of MedLIP."
        asked = "any text can be asked for" if self.vocabulary["open_prompts"] else "only these can be asked for"
        places = "it says in which anatomy a finding lies" if self.places else "it names no places"
        yield (
            f"It knows {self.vocabulary['pathologies']} pathologies and {self.vocabulary['anatomies']} anatomies by name; "
            f"{asked}; {places}. Images are squashed to {self.input_size} x {self.input_size} pixels."
        )
        yield f'```python\nimport medlip\n\nreading = medlip.load("{name}").read("x.png", ask="pneumonia")\n```'
        yield "## Intended use"
        yield USE
        yield "## Limits"
        yield "\n".join(f"- {limit}" for limit in LIMITS)
        yield "## Training"
        yield from self._training()
        yield "## Evaluation"
        if not self.results:
            yield "No result was given for this card: nothing is known here of how good the model is."
        for result in self.results:
            yield from _evaluation(result)
        yield "## Licence of the weights"
        yield _license(self.license)
        yield "## Identity"
        yield as_markdown(
            Table("", ["", "value"], [[key, value or "not known"] for key, value in asdict(self.identity).items()])
        )

    def _training(self) -> Iterator[str]:
        if self.made_by is None:
            yield "What the model was trained on and how is not recorded in it: see its authors' own description."
            return
        data = self.made_by.get("data") or {}
        sources = ", ".join(f"{source} ({count(images)})" for source, images in (data.get("sources") or {}).items())
        rows = [
            ["images", count(data.get("images"))],
            ["sources", sources or "not recorded"],
            ["hash of the data", str(data.get("hash", "not recorded"))],
            ["versions", ", ".join(f"{key} {value}" for key, value in self.made_by["versions"].items())],
        ]
        yield as_markdown(Table("", ["", "value"], rows))
        recipe = yaml.safe_dump(dict(self.made_by["recipe"]), sort_keys=False).strip()
        yield f"<details><summary>Recipe</summary>\n\n```yaml\n{recipe}\n```\n\n</details>"


def _evaluation(result: Result) -> Iterator[str]:
    protocol = result.protocol
    yield f"### {protocol.name} (protocol {protocol.hash})"
    yield f"{result.n_images:,} images of the split {result.split}, {result.n_patients:,} patients."
    for table in result_tables(result):
        yield as_markdown(table)
    for part in result.tasks.values():
        groups: Mapping[str, AttributeResult] = getattr(part, "subgroups", None) or {}
        for attribute, found in groups.items():
            rows = [
                [name, number(group.macro_auroc.value), ends(group.macro_auroc.interval), count(group.n)]
                for name, group in found.groups.items()
            ]
            if rows:
                yield as_markdown(
                    Table(f"AUROC by {attribute}", [attribute, "macro AUROC", "95 % interval", "images"], rows)
                )
    if result.notes:
        yield "\n".join(f"- {note}" for note in result.notes)


def _license(name: str) -> str:
    if name == "other":
        return "Not stated: it depends on the data that the model was trained on. Ask its authors before use."
    return f"{name}. The data that it was trained on has terms of its own."
