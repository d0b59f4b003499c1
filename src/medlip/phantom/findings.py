"""The phantom's findings: each reshapes the chest before it is exposed, or is painted on the film, and gives its mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from medlip.phantom.anatomy import rib_drop
from medlip.phantom.film import (
    AXIS,
    Canvas,
    Chest,
    Film,
    FrontalFilm,
    Map,
    Points,
    Region,
    Window,
    blob,
    disc,
    dome_table,
    noise,
    root,
    smooth,
    step,
)

# Middle of each zone of a lung: relative height (0 apex, 1 sulcus) and depth (0 mediastinum, 1 chest wall), from and to.
ZONES = {
    "apical_lung": ((0.08, 0.13), (0.3, 0.6)),
    "upper_lung": ((0.2, 0.32), (0.3, 0.75)),
    "mid_lung": ((0.42, 0.53), (0.35, 0.78)),
    "lower_lung": ((0.64, 0.76), (0.3, 0.75)),
}
# Middle, half height and half width of each lobe's consolidation, and the fissures (relative heights) that bound it.
LOBES = {
    "upper_right_lobe": ((0.27, 0.5), (0.26, 0.62), (0.0, 0.44)),
    "middle_right_lobe": ((0.64, 0.2), (0.16, 0.5), (0.47, 0.95)),
    "lower_right_lobe": ((0.74, 0.62), (0.2, 0.5), (0.4, 1.1)),
    "upper_left_lobe": ((0.33, 0.45), (0.26, 0.6), (0.0, 0.62)),
    "lower_left_lobe": ((0.74, 0.55), (0.2, 0.55), (0.45, 1.1)),
}


@dataclass(frozen=True, slots=True)
class PhantomFinding:
    """One finding: what and where (names of the vocabulary), how severe (0 to 1), which side (-1 right, 1 left, 0 none)."""

    pathology: str
    anatomy: str
    severity: float
    side: int


def side_of(anatomy: str) -> int:
    """Return -1 for an anatomy on the patient's right, 1 on the left, 0 on neither or both."""
    words = anatomy.split("_")
    return -1 if "right" in words else 1 if "left" in words else 0


def reshape(chest: Chest, finding: PhantomFinding) -> None:
    """Change the shape of a chest by a finding that does so."""
    if finding.pathology in _RESHAPE:
        _RESHAPE[finding.pathology](chest, finding.severity, finding.side)


def paint(film: FrontalFilm, finding: PhantomFinding, rng: np.random.Generator) -> Region:
    """Paint a finding on a film and return its mask (size, size) within the open field."""
    region = _PAINT[finding.pathology](film, finding, rng)
    field = film.field()
    return film.mask(field, region[field])


# Findings of shape


def _enlarge_heart(chest: Chest, severity: float, side: int) -> None:
    chest.heart *= 1.26 + 0.34 * severity


def dome_rise(severity: float) -> float:
    """Return by how much an elevated dome is higher than it was."""
    return 0.16 + 0.2 * severity


def _raise_dome(chest: Chest, severity: float, side: int) -> None:
    right, left = chest.domes
    rise = dome_rise(severity)
    chest.domes = (right - rise, left) if side < 0 else (right, left - rise)


def _hyperinflate_lungs(chest: Chest, severity: float, side: int) -> None:
    amount = 0.5 + 0.5 * severity
    right, left = chest.domes
    chest.domes = (right + 0.16 * amount, left + 0.16 * amount)
    chest.sulcus += 0.08 * amount
    chest.dome_depth *= 1 - 0.65 * amount
    chest.depth *= 1 + 0.12 * amount
    chest.inflation *= 1 + 0.2 * amount
    chest.rib_spacing *= 1 + 0.14 * amount
    chest.heart *= 1 - 0.16 * amount
    chest.vessels *= 1 - 0.3 * amount


_RESHAPE: dict[str, Callable[[Chest, float, int], None]] = {
    "cardiomegaly": _enlarge_heart,
    "elevation": _raise_dome,
    "hyperinflate": _hyperinflate_lungs,
}


def _cardiomegaly(film: FrontalFilm, finding: PhantomFinding, rng: np.random.Generator) -> Region:
    region: Region = (film.heart_chord > 0) & (film.v > np.float32(-0.12 + film.chest.heart_level)) & (film.above_dome > 0)
    return region


def _elevation(film: FrontalFilm, finding: PhantomFinding, rng: np.random.Generator) -> Region:
    right, left = film.chest.domes
    fall = dome_rise(finding.severity)
    usual = dome_table(film.chest, (right + fall, left) if finding.side < 0 else (right, left + fall))
    region: Region = (
        (film.cavity > 0.5) & (film.above_dome < 0) & (film.v < film.columns(usual)) & (film.u * finding.side > 0.1)
    )
    return region


def _hyperinflate(film: FrontalFilm, finding: PhantomFinding, rng: np.random.Generator) -> Region:
    region: Region = (film.lung > 0.5) & (film.heart_chord == 0)
    return region


# Findings of the pleura


def _effusion(film: FrontalFilm, finding: PhantomFinding, rng: np.random.Generator) -> Region:
    side, chest, amount = finding.side, film.chest, finding.severity**1.3
    angle = film.dome(side * (chest.width - 0.02))
    level = (1 - amount) * (angle - 0.07) + amount * (film.dome(0.36 * side) - 0.5)
    window = film.side_window(side, level - 0.3, chest.sulcus + 0.1)
    outward = np.clip((film.a[window] - np.float32(0.15)) * np.float32(1 / (chest.width - 0.15)), 0, 1)
    meniscus = np.float32(0.05 + 0.13 * amount) * outward**4 + np.float32(0.05) * (1 - outward) ** 6
    depth = film.v[window] - np.float32(level) + meniscus
    fluid = film.cavity[window] * step(depth, 0.045) * (film.u[window] * side > 0)
    film.air[window] *= 1 - np.float32(0.97) * fluid
    above = step(film.above_dome[window] + np.float32(0.03), 0.06)
    film.soft[window] += np.float32(0.28) * fluid * np.clip(depth * 4, 0, 1) * above
    return film.mask(window, (fluid > 0.5) & (film.above_dome[window] > 0) & (film.heart_chord[window] < 0.55))


def _pneumothorax(film: FrontalFilm, finding: PhantomFinding, rng: np.random.Generator) -> Region:
    """Draw air between the chest wall and the outline of the smaller lung, which has sunk and come away from the wall."""
    side, chest, severity = finding.side, film.chest, finding.severity
    fall, gap, reach = 0.15 + 0.22 * severity, 0.055 + 0.13 * severity, 0.6 + 0.35 * severity
    hold = np.clip(1 - film.tau_table / reach, 0, 1) ** 0.5
    origin = AXIS - fall * hold  # where in the whole lung each height of the smaller one comes from
    top = chest.apex + 0.005
    above, origin = np.minimum(origin - top, 0), np.maximum(origin, top)
    outer = (np.interp(origin, AXIS, film.flank_table) - gap * hold + above).astype(np.float32)
    inner = (np.interp(origin, AXIS, film.medial_table) - above).astype(np.float32)
    window = film.side_window(side, chest.apex - 0.05, chest.apex + reach * chest.height)
    a, lung = film.a[window], film.lung[window] * (film.u[window] * side > 0)
    inside = np.minimum(film.rows(outer, window) - a, a - film.rows(inner, window) + np.float32(0.02))
    across, down = np.gradient(inside, film.pixel)
    inside /= np.maximum(np.sqrt(across * across + down * down), 1)
    free = step(-inside, 0.02) * lung
    film.vessels[window] *= 1 - free
    film.air[window] *= 1 + np.float32(0.38) * free - np.float32(0.06 + 0.12 * severity) * (lung - free)
    film.soft[window] += np.float32(0.3) * np.clip(1 - np.abs(inside) * np.float32(1 / 0.013), 0, 1) * lung
    return film.mask(window, (free > 0.5) & (film.heart_chord[window] < 0.3))


def _thicken(film: FrontalFilm, finding: PhantomFinding, rng: np.random.Generator) -> Region:
    side, chest = finding.side, film.chest
    low, high = rng.uniform(0.1, 0.26), rng.uniform(0.62, 0.82)
    window = film.side_window(side, chest.apex + low * chest.height, chest.apex + high * chest.height)
    along = (film.rows(film.tau_table, window) - np.float32(low)) * np.float32(1 / (high - low))
    from_wall = film.rows(film.flank_table, window) - film.a[window]
    swell = np.sqrt(np.sqrt(np.clip(4 * along * (1 - along), 0, 1))) * (1 + np.float32(0.2) * noise(rng, window, 8))
    peel = step(np.float32(0.05 + 0.05 * finding.severity) * swell - from_wall, 0.014) * (from_wall > 0)
    peel *= film.cavity[window] * (film.u[window] * side > 0)
    film.air[window] *= 1 - np.float32(0.95) * peel
    film.soft[window] += np.float32(0.18) * peel
    return film.mask(window, peel > 0.5)


# Findings of the lungs


def _consolidation(film: FrontalFilm, finding: PhantomFinding, rng: np.random.Generator) -> Region:
    side, severity = finding.side, finding.severity
    (tau, sigma), (tall, wide), (above, below) = LOBES[finding.anatomy]
    grow = 0.72 + 0.38 * severity
    u, v = film.in_lung(side, tau + rng.uniform(-0.03, 0.03), sigma + rng.uniform(-0.05, 0.05))
    centre = u, min(v, film.dome(u) - 0.12)
    wide, tall = wide * grow * (film.chest.width - 0.1), tall * grow * film.chest.height
    window, weight = blob(film, rng, centre, wide, tall, rough=0.2, blur=0.35)
    rise = np.float32(0.1) * (film.a[window] - np.float32(0.35))  # fissures rise towards the flank
    height = film.rows(film.tau_table, window) - rise
    weight *= step(height - np.float32(above), 0.02) * step(np.float32(below) - height, 0.02)
    weight *= film.lung[window] * (film.u[window] * side > 0)
    dense = np.float32(0.7 + 0.16 * severity) * weight
    film.soft[window] += np.float32(0.08) * weight - np.float32(0.7) * film.vessels[window] * dense  # air bronchograms
    film.air[window] *= 1 - dense * (1 + np.float32(0.07) * noise(rng, window, 10))
    film.vessels[window] *= 1 - weight
    return film.mask(window, weight > 0.45)


def _opacity(film: FrontalFilm, finding: PhantomFinding, rng: np.random.Generator) -> Region:
    centre = _spot(film, finding, rng, 0.12)
    wide, tall = (0.15 + 0.08 * finding.severity) * rng.uniform(0.9, 1.3, 2)
    window, weight = blob(film, rng, centre, wide, tall, rough=0.25, blur=0.8)
    weight *= film.lung[window] * (film.u[window] * finding.side > 0.03)
    patches = np.clip(1 + np.float32(0.3) * noise(rng, window, 14), 0.3, 1.6)
    film.air[window] *= 1 - np.minimum(np.float32(0.42 + 0.22 * finding.severity) * weight * patches, np.float32(0.85))
    return film.mask(window, weight > 0.4)


def _atelectasis(film: FrontalFilm, finding: PhantomFinding, rng: np.random.Generator) -> Region:
    """Draw plates: straight or gently bent bands above the diaphragm."""
    side = finding.side
    region = np.zeros((film.size, film.size), bool)
    for k in range(int(rng.integers(2, 4))):
        u = side * rng.uniform(0.34, 0.5)
        v = film.dome(u) - 0.06 - 0.09 * k - rng.uniform(0, 0.03)
        angle = side * rng.uniform(-0.35, 0.25)
        region |= plate(film, finding, rng, (u, v), angle)
    return region


def plate(
    film: Film, finding: PhantomFinding, rng: np.random.Generator, centre: tuple[float, float], angle: float
) -> Region:
    """Draw a plate of collapsed lung through a point, which rises or falls by an angle, and return its mask."""
    (u, v), severity = centre, finding.severity
    bow = rng.uniform(-0.3, 0.6)
    half, thick = (0.13 + 0.08 * severity) * rng.uniform(0.8, 1.2), (0.019 + 0.013 * severity) * rng.uniform(0.7, 1.2)
    window = film.window(u - half - 0.05, v - half, u + half + 0.05, v + half)
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    du, dv = film.u[window] - np.float32(u), film.v[window] - np.float32(v)
    along = (cosine * du + sine * dv) * np.float32(1 / half)
    across = np.abs(cosine * dv - sine * du + np.float32(bow * half * half) * along * along)
    taper = np.sqrt(root(1 - along * along)) * film.lung[window]
    band = np.clip(np.float32(1.5) - across / (np.float32(thick) * np.maximum(taper, np.float32(0.05))), 0, 1) * taper
    film.scale_air(window, 1 - np.float32(0.52 + 0.25 * severity) * np.minimum(band, 1), finding.side)
    return film.mask(window, (across < 2 * thick * taper) & (film.lung[window] > 0.5))


def _edema(film: FrontalFilm, finding: PhantomFinding, rng: np.random.Generator) -> Region:
    """Draw bat's wings around the hila, blurred vessels, and Kerley lines at the flanks of the bases."""
    severity = finding.severity
    mask = np.zeros((film.size, film.size), bool)
    canvas = Canvas(film, film.window(-film.chest.width, 0, film.chest.width, 0.5))
    for side, (u, v) in film.hila.items():
        window = film.window(u - 0.6, v - 0.6, u + 0.6, v + 0.75)
        du = (film.u[window] - np.float32(u + 0.1 * side)) * np.float32(1 / (0.27 + 0.05 * severity))
        dv = (film.v[window] - np.float32(v + 0.06)) * np.float32(1 / (0.36 + 0.08 * severity))
        wing = np.exp(-(du * du + dv * dv)) * film.lung[window] * (film.u[window] * side > 0)
        patches = np.clip(1 + np.float32(0.25) * noise(rng, window, 18), 0.3, 1.6)
        film.air[window] *= 1 - np.minimum(np.float32(0.42 + 0.26 * severity) * wing * patches, np.float32(0.9))
        film.vessels[window] *= 1 + np.float32(0.5) - np.float32(0.9) * wing
        mask[window] |= wing > 0.3
        for b in rng.uniform(0.05, 0.4, 10):
            edge = film.flank(b) - 0.01
            line = np.array([(edge, b), (edge - rng.uniform(0.06, 0.11), b + rng.uniform(-0.02, 0.02))])
            canvas.line(line * (side, 1), 0.008, 170)
    canvas.add_to(film.soft, 0.3, 0.003, within=film.lung)
    return mask


def _nodule(film: FrontalFilm, finding: PhantomFinding, rng: np.random.Generator) -> Region:
    radius = 0.056 + 0.034 * finding.severity
    return nodule(film, finding, rng, _spot(film, finding, rng, radius), radius)


def nodule(
    film: Film, finding: PhantomFinding, rng: np.random.Generator, centre: tuple[float, float], radius: float
) -> Region:
    """Draw a round, sharp lump and return its mask."""
    window, distance = disc(film, *centre, radius)
    distance += np.float32(0.1) * noise(rng, window, 4)
    film.soft[window] += np.float32(0.78 + 0.2 * finding.severity) * root(1 - distance) ** np.float32(0.6)
    return film.mask(window, distance < 1)


def _mass(film: FrontalFilm, finding: PhantomFinding, rng: np.random.Generator) -> Region:
    radius = 0.13 + 0.07 * finding.severity
    return mass(film, finding, rng, _spot(film, finding, rng, radius), radius)


def mass(
    film: Film, finding: PhantomFinding, rng: np.random.Generator, centre: tuple[float, float], radius: float
) -> Region:
    """Draw a large lump with spicules and return its mask."""
    u, v = centre
    canvas = Canvas(film, film.window(u - 1.6 * radius, v - 1.6 * radius, u + 1.6 * radius, v + 1.6 * radius))
    for angle in rng.uniform(0, 2 * np.pi, 18):
        reach = radius * rng.uniform(1.15, 1.55)
        canvas.line(np.array([(u, v), (u + reach * np.cos(angle), v + reach * np.sin(angle))]), 0.011, 150)
    canvas.add_to(film.soft, 0.35, 0.006, within=film.lung)
    window, weight = blob(film, rng, (u, v), radius, radius * rng.uniform(0.85, 1.15), rough=0.1, blur=0.2)
    weight *= film.cavity[window]
    film.scale_air(window, 1 - np.float32(0.55) * weight, finding.side)
    film.soft[window] += np.float32(0.27) * weight
    film.vessels[window] *= 1 - weight
    return film.mask(window, weight > 0.5)


def _calcification(film: FrontalFilm, finding: PhantomFinding, rng: np.random.Generator) -> Region:
    severity, side, zone = finding.severity, finding.side, finding.anatomy.split("_", 1)[-1]
    if zone == "aorta":
        heights = np.linspace(-0.45, -0.22 + 0.02 * severity, 12) + film.chest.heart_level
        return calcified_wall(
            film, finding, np.stack([np.interp(heights, AXIS, film.border_tables[1]) - 0.018, heights], -1)
        )
    u, v = film.hila[side] if zone == "hilar" else _spot(film, finding, rng, 0.05)
    return calcified_spots(film, finding, rng, (u + 0.03 * side, v))


def calcified_wall(film: Film, finding: PhantomFinding, path: Points) -> Region:
    """Draw a calcified wall along a path and return its mask."""
    canvas, outline = boards(film, path)
    canvas.line(path, 0.028 + 0.014 * finding.severity)
    outline.line(path, 0.07)
    canvas.add_to(film.bone, 1.2 + 0.4 * finding.severity, 0.006)
    return outline.region()


def calcified_spots(film: Film, finding: PhantomFinding, rng: np.random.Generator, centre: tuple[float, float]) -> Region:
    """Draw calcified spots around a point, more of them in a hilum, and return their mask."""
    u, v = centre
    window = film.window(u - 0.23, v - 0.2, u + 0.23, v + 0.2)
    canvas, outline = Canvas(film, window), Canvas(film, window, 1)
    for _ in range(int(rng.integers(3, 6)) if "hilar" in finding.anatomy else int(rng.integers(1, 4))):
        radius = rng.uniform(0.024, 0.034) + 0.01 * finding.severity
        spot = (u + rng.normal(0, 0.028), v + rng.normal(0, 0.035))
        canvas.ellipse(spot, radius, radius * rng.uniform(0.8, 1.2))
        outline.ellipse(spot, radius + 0.012, radius + 0.012)
    canvas.add_to(film.bone, 1.2 + 0.4 * finding.severity, 0.006)
    return outline.region()


def _emphysema(film: FrontalFilm, finding: PhantomFinding, rng: np.random.Generator) -> Region:
    """Draw lucent upper lungs with few vessels, and bullae with thin walls."""
    chest, severity = film.chest, finding.severity
    low = chest.apex + 0.5 * chest.height
    mask = np.zeros((film.size, film.size), bool)
    for side in (finding.side,) if finding.side else (-1, 1):
        window = film.side_window(side, chest.apex - 0.05, low)
        lung = film.lung[window] * (film.heart_chord[window] == 0) * (film.u[window] * side > 0)
        fade = np.clip((np.float32(low) - film.v[window]) * 5, 0, 1) * lung
        film.vessels[window] *= 1 - np.float32(0.85) * fade
        film.air[window] *= 1 + np.float32(0.16 + 0.14 * severity) * fade
        mask[window] |= fade > 0.5
        for _ in range(int(rng.integers(5, 9))):
            radius = rng.uniform(0.045, 0.08) + 0.04 * severity
            centre = film.in_lung(side, rng.uniform(0.06, 0.4), rng.uniform(0.35, 0.9))
            bulla, weight = blob(film, rng, centre, radius, radius * rng.uniform(0.8, 1.2), rough=0.08, blur=0.3)
            weight *= film.lung[bulla] * (film.u[bulla] * side > 0.1)
            film.soft[bulla] += np.float32(0.75) * weight * (1 - weight)  # the wall
            film.air[bulla] *= 1 + np.float32(0.08) * weight
    return mask


def _scar(film: FrontalFilm, finding: PhantomFinding, rng: np.random.Generator) -> Region:
    """Draw strands that run from an apical cap towards the hilum."""
    side, chest = finding.side, film.chest
    window = film.side_window(side, chest.apex - 0.05, chest.apex + 0.5 * chest.height)
    canvas, outline = Canvas(film, window), Canvas(film, window, 1)
    for sigma in np.linspace(0.15, 0.9, 5 + round(3 * finding.severity)) + rng.normal(0, 0.04):
        start = film.in_lung(side, rng.uniform(0.03, 0.15), sigma)
        end = film.in_lung(side, rng.uniform(0.2, 0.36), 0.1 + 0.5 * sigma + rng.normal(0, 0.08))
        middle = (0.5 * (start[0] + end[0]) + rng.normal(0, 0.025), 0.5 * (start[1] + end[1]) + rng.normal(0, 0.02))
        strand = smooth([start, middle, end])
        canvas.line(strand, (0.014 + 0.009 * finding.severity) * rng.uniform(0.7, 1.3), 200)
        outline.line(strand, 0.06)
    edge = np.float32(0.085 + 0.045 * finding.severity) * (1 + np.float32(0.3) * noise(rng, window, 9))
    cap = step(edge - film.rows(film.tau_table, window), 0.03) * film.cavity[window] * (film.u[window] * side > 0)
    film.air[window] *= 1 - np.float32(0.75) * cap
    canvas.add_to(film.soft, 0.7 + 0.3 * finding.severity, 0.006, within=film.lung)
    region = outline.region() & (film.lung > 0.5)
    region[window] |= cap > 0.5
    return region


def _hernia(film: FrontalFilm, finding: PhantomFinding, rng: np.random.Generator) -> Region:
    """Draw the stomach behind the heart: a round density with gas above a fluid level."""
    radius = 0.15 + 0.07 * finding.severity
    u, squeeze, level = rng.uniform(-0.02, 0.12), rng.uniform(0.8, 1.0), rng.uniform(-0.15, 0.2)
    v = film.dome(0.1) - radius * rng.uniform(0.6, 0.8)
    return stomach(film, rng, (u, v), (radius, radius * squeeze), level)


def stomach(
    film: Film, rng: np.random.Generator, centre: tuple[float, float], radii: tuple[float, float], level: float
) -> Region:
    """Draw a stomach in the chest with fluid up to a level (-1 its top, 1 its bottom) and gas above; return its mask."""
    (u, v), (wide, tall) = centre, radii
    window, weight = blob(film, rng, (u, v), wide, tall, rough=0.06, blur=0.4)
    below = (film.v[window] - np.float32(v)) * np.float32(1 / wide) - np.float32(level)
    gas = np.clip(weight * 5 - 4, 0, 1) * step(-below, 0.08)
    weight = np.clip(weight * 4 - np.float32(1.5), 0, 1)
    film.soft[window] += np.float32(0.5) * weight - np.float32(1.15) * gas
    film.scale_air(window, 1 - np.float32(0.6) * weight, 0)
    return film.mask(window, weight > 0.5)


# Bones


def _fracture(film: FrontalFilm, finding: PhantomFinding, rng: np.random.Generator) -> Region:
    outline = Canvas(film, film.everywhere, 1)
    if finding.anatomy == "clavicle":
        _break_clavicle(film, finding, rng, outline)
    else:
        _break_ribs(film, finding, rng, outline)
    return outline.region()


def _break_clavicle(film: FrontalFilm, finding: PhantomFinding, rng: np.random.Generator, outline: Canvas) -> None:
    side = finding.side
    u, v = film.clavicle(side, rng.uniform(0.4, 0.6))
    drop = 0.07 + 0.04 * finding.severity
    _shift(film, film.clavicles, film.window(u, v - 0.35, side * 1.2, v + 0.35), drop, abs(u), 3.0)
    fragment, distance = disc(film, u + 0.02 * side, v + drop / 2, 0.035)
    film.bone[fragment] += np.float32(0.6) * root(1 - distance)
    outline.ellipse((u + 0.02 * side, v + drop / 2), 0.085, 0.06 + drop / 2, 1)


def _break_ribs(film: FrontalFilm, finding: PhantomFinding, rng: np.random.Generator, outline: Canvas) -> None:
    """Break neighbouring ribs at the flank: the outer part steps down, callus grows around the break."""
    side, chest, severity = finding.side, film.chest, finding.severity
    drop_table, angle = rib_drop(film), rng.uniform(0.55, 0.78)
    first = int(rng.integers(3, 6))
    for k in range(first, first + int(rng.integers(3, 5))):
        v = start = chest.apex - 0.02 + k * chest.rib_spacing
        for _ in range(2):  # the drop depends on the height, which depends on the drop
            v = start + float(np.interp(v, AXIS, drop_table)) * (1 - np.sqrt(1 - angle**2))
        u = side * angle * (film.flank(v) + 0.025)
        window = film.window(u, v - 0.05, u + 0.12 * side, v + 0.08)
        _shift(film, film.ribs, window, 0.03 + 0.02 * severity, abs(u), 0.12)
        callus, distance = disc(film, u, v + 0.01, 0.044 + 0.014 * severity)
        film.bone[callus] += np.float32(0.65 + 0.3 * severity) * root(1 - distance)
        outline.ellipse((u, v + 0.01), 0.065, 0.065, 1)


def _shift(film: FrontalFilm, bones: Map, window: Window, drop: float, start: float, reach: float) -> None:
    """Move the bones of a window down from |u| = `start` on, less and less over `reach`."""
    rows = max(1, round(drop * film.chest.zoom / film.pixel))
    out = (film.a[window] - np.float32(start)) * np.float32(1 / reach)
    amount = (out > 0) * np.clip(2 - 2 * out, 0, 1)
    amount[:rows] = 0
    film.bone[window] += amount * (np.roll(bones[window], rows, 0) - bones[window])


# Devices


def _pacemaker(film: FrontalFilm, finding: PhantomFinding, rng: np.random.Generator) -> Region:
    side = finding.side
    u, v = side * rng.uniform(0.46, 0.56), rng.uniform(-0.46, -0.34)
    half = 0.09 + 0.025 * finding.severity
    corners = np.array([(-1, 0.2), (-1, -1), (1, -1), (1, 0.5), (0.4, 1), (-0.6, 1), (-1, 0.2)])
    generator = smooth([(u + half * x, v + half * y) for x, y in corners])
    entry, cava, pocket = (side * 0.3, -0.62), (-0.1 + 0.03 * side, -0.42), (u - side * half * 0.3, v - half)
    vein = [pocket, (u - side * 0.12, v - 0.17), entry, (side * 0.12, -0.57), cava]
    leads = [[*vein, (-0.12, -0.1), (-0.14, 0.12), (-0.05, 0.22), (0.25, film.dome(0.25) - 0.09)]]
    if rng.random() < 0.6:  # one in the right atrium as well
        leads.append([*vein, (-0.13, -0.05), (-0.17, 0.1), (-0.2, 0.04), (-0.14, 0.02)])
    return pacemaker_along(film, generator, leads)


def pacemaker_along(film: Film, generator: Points, leads: Sequence[Sequence[tuple[float, float]]]) -> Region:
    """Draw a pacemaker's generator by its outline and its leads by points on their ways, and return their mask."""
    canvas, outline = boards(film, np.concatenate([*map(np.array, leads), generator]))
    for path in map(smooth, leads):
        canvas.line(path, 0.013)
        canvas.line(path[-4:], 0.026)
        outline.line(path, 0.045, 1)
    canvas.polygon(generator)
    outline.polygon(generator, 1)
    canvas.add_to(film.bone, 1.3, 0.003)
    return outline.region()


def _tube(film: FrontalFilm, finding: PhantomFinding, rng: np.random.Generator) -> Region:
    """Draw an endotracheal tube, or a chest tube that enters at the flank and ends near the apex."""
    side = finding.side
    if finding.anatomy == "trachea":
        u, carina = film.carina
        tip = carina - 0.1 - rng.uniform(0, 0.12)
        path = smooth([(u + rng.normal(0, 0.02), -1.3), (u + rng.normal(0, 0.006), -0.75), (u, tip)])
    else:
        wall = rng.uniform(0.1, 0.25)
        edge = film.flank(wall)
        top = film.in_lung(side, rng.uniform(0.1, 0.2), rng.uniform(0.35, 0.6))
        path = smooth([(side * (edge + 0.35), wall + 0.15), (side * edge, wall), (side * (edge - 0.15), wall - 0.25), top])
    return tube_along(film, path)


def tube_along(film: Film, path: Points) -> Region:
    """Draw a tube along a path and return its mask."""
    canvas, outline = boards(film, path)
    for width, value in ((0.048, 230), (0.026, 70), (0.011, 255)):  # walls, lumen, opaque stripe
        canvas.line(path, width, value)
    outline.line(path, 0.08, 1)
    canvas.add_to(film.bone, 1.5, 0.003)
    return outline.region()


def _catheter(film: FrontalFilm, finding: PhantomFinding, rng: np.random.Generator) -> Region:
    """Draw a central venous catheter, from the neck or the arm."""
    side, low = finding.side, finding.anatomy == "cavoatrial_junction"
    tip = (-0.115 + rng.normal(0, 0.01), -0.2 + rng.uniform(-0.08, 0.04) + 0.2 * low)
    neck = [(side * 0.24, -1.3), (side * 0.17, -0.9), (side * 0.13, -0.65)]
    arm = [(side * 1.15, -0.3), (side * 0.8, -0.5), (side * 0.5, -0.63), (side * 0.22, -0.6)]
    return catheter_along(film, finding, smooth([*(neck if rng.random() < 0.5 else arm), (-0.1, -0.42), tip]))


def catheter_along(film: Film, finding: PhantomFinding, path: Points) -> Region:
    """Draw a catheter along a path and return its mask."""
    canvas, outline = boards(film, path)
    canvas.line(path, 0.022)
    outline.line(path, 0.055, 1)
    canvas.add_to(film.bone, 1.3 + 0.3 * finding.severity, 0.003)
    return outline.region()


# In the order in which they are painted: the lungs' texture first, what lies on the film last.
_PAINT: dict[str, Callable[[FrontalFilm, PhantomFinding, np.random.Generator], Region]] = {
    "cardiomegaly": _cardiomegaly,
    "elevation": _elevation,
    "hyperinflate": _hyperinflate,
    "emphysema": _emphysema,
    "scar": _scar,
    "edema": _edema,
    "opacity": _opacity,
    "consolidation": _consolidation,
    "mass": _mass,
    "nodule": _nodule,
    "atelectasis": _atelectasis,
    "hernia": _hernia,
    "thicken": _thicken,
    "effusion": _effusion,
    "pneumothorax": _pneumothorax,
    "calcification": _calcification,
    "fracture": _fracture,
    "pacemaker": _pacemaker,
    "tube": _tube,
    "catheter": _catheter,
}
PATHOLOGIES: tuple[str, ...] = tuple(_PAINT)


def boards(film: Film, points: Points) -> tuple[Canvas, Canvas]:
    """Return two boards over the window of these points: one to draw a device on, one for its mask."""
    (u0, v0), (u1, v1) = (points.min(0) - 0.06).tolist(), (points.max(0) + 0.06).tolist()
    window = film.window(u0, v0, u1, v1)
    return Canvas(film, window), Canvas(film, window, 1)


def _spot(film: FrontalFilm, finding: PhantomFinding, rng: np.random.Generator, radius: float) -> tuple[float, float]:
    """Return a place (u, v) for a lesion in its zone, clear of the diaphragm; for a hilar one, beside the hilum."""
    side, zone = finding.side, finding.anatomy.split("_", 1)[1]
    if zone == "hilar":
        u, v = film.hila[side]
        return u + side * (0.35 * radius + 0.05), v + float(rng.uniform(-0.05, 0.05))
    heights, depths = ZONES[zone]
    u, v = film.in_lung(side, float(rng.uniform(*heights)), float(rng.uniform(*depths)))
    return u, min(v, film.dome(u) - 0.7 * radius - 0.02)
