"""The phantom's cases: a person, and findings that occur together as they do in practice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np
import yaml

from medlip.phantom.findings import PATHOLOGIES, PhantomFinding, side_of


@dataclass(frozen=True, slots=True)
class PhantomCase:
    """A person before the detector: sex ("M", "F"), age (years), projection ("PA", "AP") and true findings."""

    sex: str
    age: int
    position: str
    findings: tuple[PhantomFinding, ...]


def draw_case(rng: np.random.Generator, independent: bool = False) -> PhantomCase:
    """Draw a person and 0 to 4 pathologies (one may be on both sides), in the order in which they are painted.

    Args:
        rng: to draw with.
        independent: place is drawn independently of the pathology, and findings of one another (each in one place).
    """
    tables = _tables(independent)
    findings: list[PhantomFinding] = []
    for pathology in _choose(rng, tables):
        findings += _place(rng, pathology, findings, tables)
    findings = [_shallow(finding, findings, always=independent) for finding in findings]
    findings.sort(key=lambda finding: (PATHOLOGIES.index(finding.pathology), finding.anatomy))
    years = tables["age"]
    shift = sum(years.get(finding.pathology, 0) for finding in findings)
    age = int(np.clip(rng.normal(years["mean"] + shift, years["spread"]), 18, 95))
    in_bed = any(finding.pathology in tables["bedside"] for finding in findings)
    position = "AP" if rng.random() < (0.85 if in_bed else 0.15) else "PA"
    return PhantomCase("M" if rng.random() < 0.52 else "F", age, position, tuple(findings))


def anatomies_of(pathology: str, independent: bool = False) -> dict[str, float]:
    """Return the anatomies in which a pathology occurs, with their shares (or weights, all alike)."""
    return dict(_tables(independent)["findings"][pathology]["anatomies"])


@lru_cache(maxsize=2)
def _tables(independent: bool) -> Mapping[str, Any]:
    tables: dict[str, Any] = yaml.safe_load((files(__package__) / "cases.yaml").read_text())
    if independent:
        tables |= tables["independent"]
        tables["findings"] = {
            name: {"weight": 1.0, "anatomies": entry["anatomies"]} for name, entry in tables["findings"].items()
        } | {
            name: {"weight": group["weight"], "anatomies": dict.fromkeys(group["anatomies"], 1)}
            for group in tables["groups"]
            for name in group["pathologies"]
        }
    names = list(tables["findings"])
    affinity = np.ones((len(names), len(names)))
    for first, second, factor in tables["together"]:
        i, j = names.index(first), names.index(second)
        affinity[i, j] = affinity[j, i] = factor
    return tables | {
        "names": names,
        "weights": np.array([tables["findings"][name]["weight"] for name in names]),
        "affinity": affinity,
        "same_side": {frozenset((a, b)): share for a, b, share in tables["same_side"]},
    }


def _choose(rng: np.random.Generator, tables: Mapping[str, Any]) -> list[str]:
    weights = tables["weights"].copy()
    chosen: list[str] = []
    for _ in range(_pick(rng, tables["count"])):
        k = _pick(rng, weights)
        chosen.append(tables["names"][k])
        weights *= tables["affinity"][k]
        weights[k] = 0
    return chosen


def _place(
    rng: np.random.Generator, pathology: str, others: list[PhantomFinding], tables: Mapping[str, Any]
) -> list[PhantomFinding]:
    entry = tables["findings"][pathology]
    shares = dict(entry["anatomies"])
    allowed = {-1, 1}
    for other in others:
        share = tables["same_side"].get(frozenset((pathology, other.pathology)))
        if share is not None and other.side:
            allowed &= {other.side} if rng.random() < share else {-other.side}
    sided = {name: share for name, share in shares.items() if side_of(name) in allowed | {0}}
    shares = sided or shares
    anatomies = [list(shares)[_pick(rng, np.array(list(shares.values())))]]
    if rng.random() < entry.get("both", 0) and len(allowed) == 2:
        anatomies = list(entry["anatomies"])
    found = []
    for anatomy in anatomies:
        side = side_of(anatomy)
        if pathology in tables["left_share"]:
            left = rng.random() < tables["left_share"][pathology]
            side = allowed.copy().pop() if len(allowed) == 1 else 1 if left else -1
        found.append(PhantomFinding(pathology, anatomy, round(float(rng.uniform(0.0, 1.0)), 3), side))
    return found


def _shallow(finding: PhantomFinding, others: list[PhantomFinding], always: bool) -> PhantomFinding:
    """Return an effusion shallow enough not to drown another finding at the base of the same lung, or `always` so."""
    if finding.pathology == "effusion":
        beside = [other.anatomy.split("_") for other in others if other.side == finding.side]
        if always or any({"lower", "middle", "mid"} & set(words) for words in beside):
            return replace(finding, severity=round(0.5 * finding.severity, 3))
    return finding


def _pick(rng: np.random.Generator, weights: Any) -> int:
    """Return an index, drawn by weight."""
    total = np.cumsum(weights)
    return int(np.searchsorted(total, rng.random() * total[-1], side="right"))
