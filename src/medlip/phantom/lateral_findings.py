"""The phantom's findings on its lateral film: at the heights where the frontal film shows them, at depths of the anatomy.

Not every finding shows: the apices lie behind the shoulders, ribs and pleura of the flanks are seen face on. Those are not
painted and have no mask.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from medlip.phantom.film import FrontalFilm, Region, blob, noise, smooth, step
from medlip.phantom.findings import (
    PATHOLOGIES,
    PhantomFinding,
    calcified_spots,
    calcified_wall,
    catheter_along,
    dome_rise,
    mass,
    nodule,
    pacemaker_along,
    plate,
    stomach,
    tube_along,
)
from medlip.phantom.lateral import MINOR_FISSURE, LateralFilm, dome_table

# Where in a lung's depth the lesions of a zone lie: from 0 at the front to 1 at the back, from and to.
DEPTHS = {
    "apical_lung": (0.45, 0.6),
    "upper_lung": (0.3, 0.7),
    "mid_lung": (0.25, 0.75),
    "lower_lung": (0.68, 0.84),
}
# Depth of each lobe's consolidation, and its half depth as a share of the lung's.
LOBES = {
    "upper_right_lobe": (0.45, 0.75),
    "middle_right_lobe": (0.22, 0.6),
    "lower_right_lobe": (0.78, 0.62),
    "upper_left_lobe": (0.38, 0.75),
    "lower_left_lobe": (0.78, 0.62),
}


@dataclass(frozen=True, slots=True)
class Shown:
    """What the frontal film shows of a finding: its mask there."""

    film: FrontalFilm
    region: Region

    def heights(self, beyond: float = 0.0) -> tuple[float, float]:
        """Return the heights v of its top and its bottom, of the part farther than this from the middle of the chest."""
        v = self.film.v[self.region & (self.film.a >= beyond)]
        return float(v.min()), float(v.max())

    def middle(self) -> tuple[float, float]:
        """Return the height v of its middle, and half of how tall it is."""
        top, bottom = self.heights()
        return 0.5 * (top + bottom), 0.5 * (bottom - top)


def paint_lateral(film: LateralFilm, finding: PhantomFinding, shown: Shown, rng: np.random.Generator) -> Region | None:
    """Paint a finding on a lateral film and return its mask (size, size) within the open field; None if it doesn't show."""
    if finding.pathology not in _PAINT:
        return None
    region = _PAINT[finding.pathology](film, finding, shown, rng)
    field = film.field()
    region = film.mask(field, region[field])
    return region if region.any() else None


# Findings of shape


def _cardiomegaly(film: LateralFilm, finding: PhantomFinding, shown: Shown, rng: np.random.Generator) -> Region:
    region: Region = (film.heart_chord > 0) & (film.v > np.float32(shown.heights()[0])) & (film.above_dome[1] > 0)
    return region


def _elevation(film: LateralFilm, finding: PhantomFinding, shown: Shown, rng: np.random.Generator) -> Region:
    height = film.chest.domes[(finding.side + 1) // 2] + dome_rise(finding.severity)
    usual = dome_table(film.chest, height)
    region: Region = (film.cavity > 0.5) & (film.above_dome[finding.side] < 0) & (film.v < film.columns(usual))
    return region


def _hyperinflate(film: LateralFilm, finding: PhantomFinding, shown: Shown, rng: np.random.Generator) -> Region:
    region: Region = (film.lung > 0.5) & (film.heart_chord == 0)
    return region


# Findings of pleura and lungs


def _effusion(film: LateralFilm, finding: PhantomFinding, shown: Shown, rng: np.random.Generator) -> Region:
    """Draw fluid in the sulcus behind, which the frontal film shows at the flank; it rises along the back."""
    side, level = finding.side, shown.heights()[0]
    window = film.band(level - 0.1, film.chest.sulcus + 0.35)
    forward = np.clip(np.float32(0.5) - film.u[window] * np.float32(0.5 / film.depth), 0, 1)
    depth = film.v[window] - np.float32(level) - np.float32(0.2) * np.sqrt(forward)
    fluid = film.cavity[window] * step(depth, 0.045)
    film.scale_air(window, 1 - np.float32(0.97) * fluid, side)
    above_dome = film.above_dome[side][window]
    film.soft[window] += np.float32(0.2) * fluid * np.clip(depth * 4, 0, 1) * step(above_dome + np.float32(0.03), 0.06)
    return film.mask(window, (fluid > 0.5) & (above_dome > 0))


def _consolidation(film: LateralFilm, finding: PhantomFinding, shown: Shown, rng: np.random.Generator) -> Region:
    """Fill what a lobe's fissures leave of a lump."""
    side, severity = finding.side, finding.severity
    (backward, wide), (v, tall) = LOBES[finding.anatomy], shown.middle()
    centre = film.in_lung(v, backward + rng.uniform(-0.05, 0.05)), v
    window, weight = blob(film, rng, centre, wide * (0.72 + 0.38 * severity) * film.depth, tall, rough=0.2, blur=0.35)
    below_fissure = film.v[window] - film.columns(film.fissure_table, window)
    weight *= step(below_fissure if "lower" in finding.anatomy else -below_fissure, 0.02)
    if side < 0 and "lower" not in finding.anatomy:
        below_minor = film.rows(film.tau_table, window) - np.float32(MINOR_FISSURE)
        weight *= step(below_minor if "middle" in finding.anatomy else -below_minor, 0.02)
    weight *= film.lung_of(side, window)
    dense = np.float32(0.8 + 0.18 * severity) * weight
    film.soft[window] += np.float32(0.12) * weight - np.float32(0.5) * film.vessels[window] * dense
    film.scale_air(window, 1 - dense * np.clip(1 + np.float32(0.07) * noise(rng, window, 10), 0, 1), side)
    film.vessels[window] *= 1 - np.float32(0.6) * weight
    return film.mask(window, weight > 0.45)


def _opacity(film: LateralFilm, finding: PhantomFinding, shown: Shown, rng: np.random.Generator) -> Region:
    _, tall = shown.middle()
    wide = (0.15 + 0.08 * finding.severity) * rng.uniform(0.9, 1.3)
    window, weight = blob(film, rng, _spot(film, finding, shown, rng), wide, tall * 0.93, rough=0.25, blur=0.8)
    weight *= film.lung_of(finding.side, window)
    patches = np.clip(1 + np.float32(0.3) * noise(rng, window, 14), 0.3, 1.6)
    dense = np.minimum(np.float32(0.62 + 0.24 * finding.severity) * weight * patches, np.float32(0.95))
    film.scale_air(window, 1 - dense, finding.side)
    return film.mask(window, weight > 0.4)


def _atelectasis(film: LateralFilm, finding: PhantomFinding, shown: Shown, rng: np.random.Generator) -> Region:
    """Draw plates in the lower lobe, above the diaphragm."""
    top, bottom = shown.heights()
    region = np.zeros((film.size, film.size), bool)
    for v in np.linspace(top + 0.05, bottom - 0.05, max(2, round((bottom - top) / 0.09))).tolist():
        u = film.in_lung(v, rng.uniform(0.62, 0.74))
        region |= plate(film, finding, rng, (u, v), rng.uniform(-0.1, 0.35))
    return region


def _edema(film: LateralFilm, finding: PhantomFinding, shown: Shown, rng: np.random.Generator) -> Region:
    """Draw the bat's wings, which lie on top of each other, and blurred vessels."""
    severity, (v, tall) = finding.severity, shown.middle()
    u = 0.15 * film.depth
    window = film.window(u - 0.7, v - 2 * tall, u + 0.7, v + 2 * tall)
    du = (film.u[window] - np.float32(u)) * np.float32(1 / (0.24 + 0.05 * severity))
    dv = (film.v[window] - np.float32(v)) * np.float32(1.1 / tall)
    wing = np.exp(-(du * du + dv * dv)) * film.lung[window]
    patches = np.clip(1 + np.float32(0.25) * noise(rng, window, 18), 0.3, 1.6)
    film.scale_air(window, 1 - np.minimum(np.float32(0.42 + 0.26 * severity) * wing * patches, np.float32(0.9)), 0)
    film.vessels[window] *= np.float32(1.5) - np.float32(0.9) * wing
    return film.mask(window, wing > 0.3)


def _nodule(film: LateralFilm, finding: PhantomFinding, shown: Shown, rng: np.random.Generator) -> Region:
    return nodule(film, finding, rng, _spot(film, finding, shown, rng), shown.middle()[1])


def _mass(film: LateralFilm, finding: PhantomFinding, shown: Shown, rng: np.random.Generator) -> Region:
    return mass(film, finding, rng, _spot(film, finding, shown, rng), shown.middle()[1])


def _emphysema(film: LateralFilm, finding: PhantomFinding, shown: Shown, rng: np.random.Generator) -> Region:
    """Draw lucent upper lungs with few vessels, and bullae with thin walls."""
    severity, (top, bottom) = finding.severity, shown.heights()
    low = bottom + 0.1
    window = film.band(top - 0.05, low)
    fade = np.clip((np.float32(low) - film.v[window]) * 5, 0, 1) * film.lung[window]
    fade *= np.clip(1 - 2 * film.heart_chord[window], 0, 1)
    film.vessels[window] *= 1 - np.float32(0.85 if finding.side == 0 else 0.5) * fade
    film.scale_air(window, 1 + np.float32(0.16 + 0.14 * severity) * fade, finding.side)
    for _ in range(int(rng.integers(6, 11))):
        radius = rng.uniform(0.045, 0.08) + 0.04 * severity
        v = rng.uniform(top + radius, bottom - radius)
        bulla, weight = blob(film, rng, (film.in_lung(v, rng.uniform(0.1, 0.9)), v), radius, radius, rough=0.08, blur=0.3)
        weight *= film.lung[bulla]
        film.soft[bulla] += np.float32(0.5) * weight * (1 - weight)  # the wall
    return film.mask(window, fade > 0.5)


def _hernia(film: LateralFilm, finding: PhantomFinding, shown: Shown, rng: np.random.Generator) -> Region:
    """Draw the stomach between heart and spine."""
    v, tall = shown.middle()
    return stomach(film, rng, (0.42 * film.depth, v), (0.15 + 0.07 * finding.severity, tall), rng.uniform(-0.15, 0.2))


def _calcification(film: LateralFilm, finding: PhantomFinding, shown: Shown, rng: np.random.Generator) -> Region:
    if finding.anatomy == "aorta":
        top, bottom = shown.heights()
        arch = film.arch()
        u, v = arch.T
        return calcified_wall(film, finding, arch[(u > -0.1 * film.depth) & (v > top) & (v < bottom)])
    return calcified_spots(film, finding, rng, _spot(film, finding, shown, rng))


def _spot(film: LateralFilm, finding: PhantomFinding, shown: Shown, rng: np.random.Generator) -> tuple[float, float]:
    """Return a place (u, v) for a lesion, at its height."""
    v, zone = shown.middle()[0], finding.anatomy.split("_", 1)[1]
    if zone == "hilar":
        return film.hila[finding.side][0] + float(rng.uniform(-0.04, 0.04)), v
    return film.in_lung(v, float(rng.uniform(*DEPTHS[zone]))), v


# Devices


def _pacemaker(film: LateralFilm, finding: PhantomFinding, shown: Shown, rng: np.random.Generator) -> Region:
    """Draw a generator before the chest wall, seen edge on, and its lead to the right ventricle."""
    d, (_, bottom), (first, last) = film.depth, shown.heights(), shown.heights(beyond=0.5)
    u, v, half = film.in_lung(0.5 * (first + last), 0.0) - 0.1, 0.5 * (first + last), 0.09 + 0.025 * finding.severity
    slope = 0.4 * half
    corners = [(u + slope, v - half), (u + slope + 0.05, v - half), (u - slope + 0.05, v + half), (u - slope, v + half)]
    generator = smooth([*corners, corners[0]])
    vein, cava = [(u + 0.05, v - half), (-0.3 * d, -0.6), (-0.1 * d, -0.6)], (-0.05 * d, -0.42)
    lead = [*vein, cava, (-0.02 * d, -0.1), (-0.05 * d, 0.12), (-0.3 * d, 0.22), (-0.72 * d, bottom - 0.02)]
    return pacemaker_along(film, generator, [lead])


def _tube(film: LateralFilm, finding: PhantomFinding, shown: Shown, rng: np.random.Generator) -> Region:
    """Draw an endotracheal tube in the trachea, or a chest tube that enters at the flank and ends near the apex."""
    top, bottom = shown.heights()
    if finding.anatomy == "trachea":
        path = [(film.trachea(v), v) for v in (-1.3, -0.75, bottom - 0.03)]
    else:
        end, start = top + 0.04, bottom - 0.04
        places = ((start, 0.55), (start - 0.25, 0.45 + rng.uniform(-0.1, 0.1)), (end, rng.uniform(0.3, 0.6)))
        path = [(film.in_lung(v, backward), v) for v, backward in places]
    return tube_along(film, smooth(path))


def _catheter(film: LateralFilm, finding: PhantomFinding, shown: Shown, rng: np.random.Generator) -> Region:
    """Draw a central venous catheter, which runs down before the trachea."""
    d, (top, bottom) = film.depth, shown.heights()
    start = (-0.25 * d, -1.3) if top < -0.8 else (-0.5 * d, top + 0.03)
    return catheter_along(
        film, finding, smooth([start, (-0.25 * d, -0.68), (-0.08 * d, -0.5), (-0.04 * d, -0.35), (-0.02 * d, bottom - 0.03)])
    )


_PAINT: dict[str, Callable[[LateralFilm, PhantomFinding, Shown, np.random.Generator], Region]] = {
    "cardiomegaly": _cardiomegaly,
    "elevation": _elevation,
    "hyperinflate": _hyperinflate,
    "emphysema": _emphysema,
    "edema": _edema,
    "opacity": _opacity,
    "consolidation": _consolidation,
    "mass": _mass,
    "nodule": _nodule,
    "atelectasis": _atelectasis,
    "hernia": _hernia,
    "effusion": _effusion,
    "calcification": _calcification,
    "pacemaker": _pacemaker,
    "tube": _tube,
    "catheter": _catheter,
}
HIDDEN = tuple(pathology for pathology in PATHOLOGIES if pathology not in _PAINT)
"""Pathologies that a lateral film doesn't show."""
