"""The phantom's findings: each reshapes the chest before it is drawn, or paints on the film after, and gives its mask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medlip.data.phantom.anatomy import AXIS, Canvas, Chest, Film, Map, Window, root, step

Region = NDArray[np.bool_]

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
class Finding:
    """One finding: what, where (names of the vocabulary), how severe (0 subtle to 1), and its side (-1 right, 1 left, 0 none)."""

    pathology: str
    anatomy: str
    severity: float
    side: int


def side_of(anatomy: str) -> int:
    """Return -1 for an anatomy on the patient's right, 1 on the left, 0 on neither or both."""
    words = anatomy.split("_")
    return -1 if "right" in words else 1 if "left" in words else 0


def reshape(chest: Chest, finding: Finding) -> None:
    """Change the shape of a chest by a finding that does so."""
    if finding.pathology in _RESHAPE:
        _RESHAPE[finding.pathology](chest, finding)


def paint(film: Film, finding: Finding, rng: np.random.Generator) -> Region:
    """Paint a finding on a film and return its mask (size, size)."""
    return _PAINT[finding.pathology](film, finding, rng)


# Findings of shape


def _reshape_cardiomegaly(chest: Chest, finding: Finding) -> None:
    chest.heart *= 1.26 + 0.34 * finding.severity


def _reshape_elevation(chest: Chest, finding: Finding) -> None:
    chest.domes[0 if finding.side < 0 else 1] -= _rise(finding)


def _reshape_hyperinflate(chest: Chest, finding: Finding) -> None:
    amount = 0.5 + 0.5 * finding.severity
    chest.domes = [dome + 0.18 * amount for dome in chest.domes]
    chest.sulcus += 0.1 * amount
    chest.dome_depth *= 1 - 0.65 * amount
    chest.inflation *= 1 + 0.2 * amount
    chest.rib_spacing *= 1 + 0.14 * amount
    chest.heart *= 1 - 0.16 * amount
    chest.vessels *= 1 - 0.3 * amount


def _rise(finding: Finding) -> float:
    return 0.15 + 0.2 * finding.severity


_RESHAPE: dict[str, Callable[[Chest, Finding], None]] = {
    "cardiomegaly": _reshape_cardiomegaly,
    "elevation": _reshape_elevation,
    "hyperinflate": _reshape_hyperinflate,
}


def _cardiomegaly(film: Film, finding: Finding, rng: np.random.Generator) -> Region:
    return (film.heart_chord > 0) & (film.v > np.float32(-0.12 + film.chest.heart_level)) & (film.above_dome > 0)


def _elevation(film: Film, finding: Finding, rng: np.random.Generator) -> Region:
    risen = -film.above_dome
    return (film.cavity > 0.5) & (risen > 0) & (risen < np.float32(_rise(finding))) & (film.u * finding.side > 0.1)


def _hyperinflate(film: Film, finding: Finding, rng: np.random.Generator) -> Region:
    return (film.lung > 0.5) & (film.heart_chord == 0)


# Findings of the pleura


def _effusion(film: Film, finding: Finding, rng: np.random.Generator) -> Region:
    side, amount = finding.side, finding.severity**1.3
    chest = film.chest
    level = (1 - amount) * (chest.sulcus - 0.13) + amount * (film.dome(0.36 * side) - 0.5)
    window = _half(film, side, level - 0.3, chest.sulcus + 0.1)
    outward = np.clip((film.a[window] - np.float32(0.15)) / np.float32(chest.width - 0.15), 0, 1)
    inward = 1 - outward
    meniscus = np.float32(0.05 + 0.12 * amount) * outward**4 + np.float32(0.05) * inward**6
    depth = film.v[window] - np.float32(level) + meniscus
    fluid = film.cavity[window] * step(depth, 0.05)
    film.air[window] *= 1 - np.float32(0.97) * fluid
    film.soft[window] += np.float32(0.3) * fluid * np.clip(depth * 4, 0, 1)
    return _mask(film, window, (fluid > 0.5) & (film.above_dome[window] > 0))


def _pneumothorax(film: Film, finding: Finding, rng: np.random.Generator) -> Region:
    side, chest = finding.side, film.chest
    fall, gap = 0.13 + 0.24 * finding.severity, 0.035 + 0.13 * finding.severity
    reach = 0.55 + 0.4 * finding.severity
    tau = film.tau_table
    narrow = np.clip(1 - tau / reach, 0, 1) ** 0.5
    collapsed = np.interp(AXIS - fall * narrow, AXIS, film.lateral_table) - gap * narrow
    start = chest.apex + fall
    inner = np.where(start > AXIS, -1, collapsed).astype(np.float32)
    window = _half(film, side, chest.apex - 0.05, chest.apex + reach * (chest.sulcus - chest.apex))
    beyond = film.a[window] - film.rows(inner, window)
    lung = film.lung[window]
    air = step(beyond, 0.02) * lung
    film.vessels[window] *= 1 - air
    film.air[window] *= 1 + np.float32(0.28) * air
    film.air[window] *= 1 - np.float32(0.08 + 0.12 * finding.severity) * (1 - air) * lung
    # The visceral line: the shrunken lung's outline, flat at its top.
    top = np.where(beyond > 0.3, np.abs(film.v[window] - np.float32(start)), 1)
    line = np.clip(1 - np.minimum(np.abs(beyond), top) / np.float32(0.013), 0, 1) * lung
    film.soft[window] += np.float32(0.3) * line
    return _mask(film, window, air > 0.5)


def _thicken(film: Film, finding: Finding, rng: np.random.Generator) -> Region:
    side = finding.side
    low, high = rng.uniform(0.12, 0.3), rng.uniform(0.62, 0.82)
    chest = film.chest
    height = chest.sulcus - chest.apex
    window = _half(film, side, chest.apex + low * height, chest.apex + high * height)
    along = (film.tau[window] - np.float32(low)) / np.float32(high - low)
    inside = film.rows(film.lateral_table, window) - film.a[window]
    bumps = _noise(rng, window, 9)
    width = (
        np.float32(0.045 + 0.05 * finding.severity)
        * np.sqrt(np.sqrt(np.clip(4 * along * (1 - along), 0, 1)))
        * (1 + np.float32(0.22) * bumps)
    )
    peel = step(width - inside, 0.012) * (inside > 0) * film.cavity[window]
    film.air[window] *= 1 - np.float32(0.85) * peel
    film.soft[window] += np.float32(0.12) * peel
    return _mask(film, window, peel > 0.5)


# Findings of the lungs


def _consolidation(film: Film, finding: Finding, rng: np.random.Generator) -> Region:
    side = finding.side
    (tau, sigma), (tall, wide), (above, below) = LOBES[finding.anatomy]
    grow = 0.72 + 0.38 * finding.severity
    u, v = film.in_lung(side, tau + rng.uniform(-0.03, 0.03), sigma + rng.uniform(-0.05, 0.05))
    height, breadth = film.chest.sulcus - film.chest.apex, film.chest.width - 0.1
    window, weight = _blob(film, rng, (u, v), wide * breadth * grow, tall * height * grow, rough=0.22, blur=0.3)
    inside = film.tau[window]
    bow = np.float32(0.1) * (film.a[window] - np.float32(0.35))
    fissures = step(inside - bow - np.float32(above), 0.02) * step(np.float32(below) - inside + bow, 0.02)
    weight *= fissures * film.lung[window] * (film.u[window] * side > 0)
    dense = np.float32(0.72 + 0.16 * finding.severity) * weight
    film.soft[window] -= np.float32(0.75) * film.vessels[window] * dense  # air bronchograms
    film.air[window] *= 1 - dense * (1 + np.float32(0.06) * _noise(rng, window, 10))
    film.vessels[window] *= 1 - weight
    film.soft[window] += np.float32(0.08) * weight
    return _mask(film, window, weight > 0.45)


def _opacity(film: Film, finding: Finding, rng: np.random.Generator) -> Region:
    centre = _spot(film, finding, rng, 0.12)
    grow = 0.15 + 0.08 * finding.severity
    window, weight = _blob(
        film, rng, centre, grow * rng.uniform(0.9, 1.25), grow * rng.uniform(0.9, 1.25), rough=0.3, blur=0.75
    )
    weight *= film.lung[window] * (film.u[window] * finding.side > 0.03)
    patches = np.clip(1 + np.float32(0.4) * _noise(rng, window, 12), 0.2, 1.6)
    film.air[window] *= 1 - np.minimum(np.float32(0.34 + 0.2 * finding.severity) * weight * patches, np.float32(0.85))
    return _mask(film, window, weight > 0.4)


def _atelectasis(film: Film, finding: Finding, rng: np.random.Generator) -> Region:
    """Plates: straight bands above the diaphragm."""
    side = finding.side
    mask = np.zeros((film.size, film.size), bool)
    for k in range(1 + int(rng.integers(1, 3))):
        u = side * rng.uniform(0.33, 0.48)
        v = film.dome(u) - 0.07 - 0.1 * k - rng.uniform(0, 0.03)
        angle, half = side * rng.uniform(-0.35, 0.2), 0.13 + 0.09 * finding.severity * rng.uniform(0.7, 1)
        thick = 0.016 + 0.012 * finding.severity
        window = film.window(u - half - 0.05, v - half, u + half + 0.05, v + half)
        du, dv = film.u[window] - np.float32(u), film.v[window] - np.float32(v)
        along = np.float32(np.cos(angle)) * du + np.float32(np.sin(angle)) * dv
        across = np.float32(np.cos(angle)) * dv - np.float32(np.sin(angle)) * du + np.float32(0.25) * along * along
        end = np.clip((1 - np.abs(along) / np.float32(half)) * 4, 0, 1)
        band = np.clip(np.float32(1.6) - np.abs(across) / np.float32(thick), 0, 1) * end * film.lung[window]
        film.air[window] *= 1 - np.float32(0.4 + 0.22 * finding.severity) * band
        mask[window] |= (np.abs(across) < 2 * thick) & (end > 0.3) & (film.lung[window] > 0.5)
    return mask


def _edema(film: Film, finding: Finding, rng: np.random.Generator) -> Region:
    mask = np.zeros((film.size, film.size), bool)
    canvas = Canvas(film)
    for side, (u, v) in film.hila.items():
        window = film.window(u - 0.6, v - 0.6, u + 0.6, v + 0.75)
        du = (film.u[window] - np.float32(u + 0.1 * side)) / np.float32(0.27 + 0.05 * finding.severity)
        dv = (film.v[window] - np.float32(v + 0.06)) / np.float32(0.36 + 0.08 * finding.severity)
        haze = np.exp(-(du * du + dv * dv)) * film.lung[window] * (film.u[window] * side > 0)
        patches = np.clip(1 + np.float32(0.28) * _noise(rng, window, 16), 0.3, 1.6)
        film.air[window] *= 1 - np.minimum(np.float32(0.42 + 0.26 * finding.severity) * haze * patches, np.float32(0.9))
        film.vessels[window] *= 1 + np.float32(0.5) * (1 - haze) - np.float32(0.6) * haze
        mask[window] |= haze > 0.3
        for _ in range(9):  # Kerley lines at the bases' edge
            b, rise = rng.uniform(0.1, 0.42), rng.uniform(-0.02, 0.02)
            edge = side * (film.lateral(b) - 0.01)
            canvas.line([(edge, b), (edge - side * rng.uniform(0.06, 0.1), b + rise)], 0.008, 150)
    film.soft += np.float32(0.3) * canvas.finish(0.3) * film.lung
    return mask


def _nodule(film: Film, finding: Finding, rng: np.random.Generator) -> Region:
    radius = 0.052 + 0.028 * finding.severity
    u, v = _spot(film, finding, rng, radius)
    window, distance = _disc(film, u, v, radius)
    film.soft[window] += np.float32(0.5 + 0.15 * finding.severity) * np.sqrt(root(1 - distance))
    return _mask(film, window, distance < 1)


def _mass(film: Film, finding: Finding, rng: np.random.Generator) -> Region:
    radius = 0.13 + 0.075 * finding.severity
    centre = _spot(film, finding, rng, radius)
    canvas = Canvas(film)
    for angle in rng.uniform(0, 2 * np.pi, 14):
        reach = radius * rng.uniform(1.1, 1.5)
        canvas.line([centre, (centre[0] + reach * np.cos(angle), centre[1] + reach * np.sin(angle))], 0.01, 120)
    film.soft += np.float32(0.3) * canvas.finish(0.5) * film.lung
    window, weight = _blob(film, rng, centre, radius, radius * rng.uniform(0.85, 1.15), rough=0.16, blur=0.14)
    film.soft[window] += np.float32(0.72) * weight
    film.vessels[window] *= 1 - weight
    return _mask(film, window, weight > 0.5)


def _calcification(film: Film, finding: Finding, rng: np.random.Generator) -> Region:
    canvas, outline = Canvas(film), Stencil(film)
    if finding.anatomy == "aorta":
        v = np.linspace(-0.44, -0.23 + 0.02 * finding.severity, 12) + film.chest.heart_level
        edge = np.interp(v, AXIS, film.silhouette_table[1]) - 0.018
        points = np.stack([edge, v], -1)
        canvas.line(points, 0.024 + 0.012 * finding.severity, 255)
        outline.line(points, 0.07)
    else:
        hilar = finding.anatomy.endswith("hilar")
        centre = film.hila[finding.side] if hilar else _spot(film, finding, rng, 0.05)
        for _ in range(int(rng.integers(3, 6)) if hilar else int(rng.integers(1, 4))):
            radius = rng.uniform(0.02, 0.03) + 0.008 * finding.severity
            spot = (centre[0] + rng.normal(0, 0.028) + 0.03 * finding.side, centre[1] + rng.normal(0, 0.035))
            canvas.disc(spot, radius, 255)
            outline.disc(spot, radius + 0.012)
    film.bone += np.float32(0.85 + 0.25 * finding.severity) * canvas.finish(0.5)
    return outline.region()


def _emphysema(film: Film, finding: Finding, rng: np.random.Generator) -> Region:
    """Lucent upper lungs without vessels, and bullae with thin walls."""
    chest = film.chest
    sides = (finding.side,) if finding.side else (-1, 1)
    mask = np.zeros((film.size, film.size), bool)
    for side in sides:
        low = chest.apex + 0.5 * (chest.sulcus - chest.apex)
        window = _half(film, side, chest.apex - 0.05, low)
        lung = film.lung[window] * (film.heart_chord[window] == 0)
        fade = np.clip((np.float32(low) - film.v[window]) * 5, 0, 1)
        film.vessels[window] *= 1 - np.float32(0.85) * fade
        film.air[window] *= 1 + np.float32(0.16 + 0.14 * finding.severity) * fade * lung
        mask[window] |= (lung > 0.5) & (fade > 0.5)
        for _ in range(int(rng.integers(4, 8))):
            radius = rng.uniform(0.05, 0.08) + 0.04 * finding.severity
            u, v = film.in_lung(side, rng.uniform(0.08, 0.4), rng.uniform(0.35, 0.85))
            bulla, distance = _disc(film, u, v, radius)
            inside = film.lung[bulla] * (film.u[bulla] * side > 0.1)
            distance = np.sqrt(distance)
            wall = np.clip(1 - np.abs(distance - 1 + np.float32(0.006 / radius)) * np.float32(radius / 0.011), 0, 1)
            film.soft[bulla] += np.float32(0.2) * wall * inside
            film.air[bulla] *= 1 + np.float32(0.1) * (distance < 1) * inside
    return mask


def _scar(film: Film, finding: Finding, rng: np.random.Generator) -> Region:
    """Strands that fan from an apical cap towards the hilum."""
    side = finding.side
    canvas, outline = Canvas(film), Stencil(film)
    for _ in range(5 + int(4 * finding.severity)):
        start = film.in_lung(side, rng.uniform(0.05, 0.13), rng.uniform(0.2, 0.75))
        end = film.in_lung(side, rng.uniform(0.24, 0.36), rng.uniform(0.1, 0.5))
        middle = ((start[0] + end[0]) / 2 + rng.normal(0, 0.02), (start[1] + end[1]) / 2 + rng.normal(0, 0.02))
        canvas.line([start, middle, end], rng.uniform(0.012, 0.022) + 0.006 * finding.severity, 190)
        outline.line([start, middle, end], 0.07)
    chest = film.chest
    window = _half(film, side, chest.apex - 0.02, chest.apex + 0.25)
    edge = np.float32(0.075 + 0.04 * finding.severity) * (1 + np.float32(0.3) * _noise(rng, window, 8))
    cap = step(edge - film.tau[window], 0.03) * film.cavity[window]
    film.air[window] *= 1 - np.float32(0.75) * cap
    film.soft += np.float32(0.5 + 0.2 * finding.severity) * canvas.finish(0.5) * film.lung
    region = outline.region() & (film.lung > 0.5)
    region[window] |= cap > 0.5
    return region


def _hernia(film: Film, finding: Finding, rng: np.random.Generator) -> Region:
    """The stomach behind the heart: a round density with air above a fluid level."""
    radius = 0.15 + 0.07 * finding.severity
    u = rng.uniform(0.0, 0.1)
    v = film.dome(0.1) - radius * rng.uniform(0.75, 0.95)
    window, distance = _disc(film, u, v, radius)
    dv = (film.v[window] - np.float32(v)) / np.float32(radius)
    distance = np.sqrt(distance)
    body = step(1 - distance, 0.08)
    gas = step(np.float32(0.86) - distance, 0.08) * step(np.float32(rng.uniform(-0.15, 0.15)) - dv, 0.05)
    film.soft[window] += np.float32(0.5) * body - np.float32(1.15) * gas
    film.air[window] *= 1 - np.float32(0.6) * body
    return _mask(film, window, distance < 1)


# Bones


def _fracture(film: Film, finding: Finding, rng: np.random.Generator) -> Region:
    side, chest = finding.side, film.chest
    outline = Stencil(film)
    if finding.anatomy == "clavicle":
        run = rng.uniform(0.4, 0.6)
        u, v = film.clavicle(side, run)
        window = film.window(min(u, side * 1.2), v - 0.3, max(u, side * 1.2), v + 0.3)
        drop = round((0.055 + 0.04 * finding.severity) * chest.zoom / film.pixel)
        film.bone[window] += np.roll(film.clavicles[window], drop, 0) - film.clavicles[window]
        outline.disc((u, v + 0.03), 0.11)
        return outline.region()
    first, count = int(rng.integers(3, 6)), int(rng.integers(2, 5))
    angle = rng.uniform(0.62, 0.86)
    for k in range(first, first + count):
        v = chest.apex - 0.02 + k * chest.rib_spacing
        for _ in range(2):  # the cage's width depends on the height, which depends on the drop
            tau = (v - chest.apex) / (chest.sulcus - chest.apex)
            drop = chest.rib_drop * float(np.clip(0.35 + 0.9 * tau, 0.25, 1.1)) * (1 - np.sqrt(1 - angle**2))
            v = chest.apex - 0.02 + k * chest.rib_spacing + drop
        u = side * angle * (film.lateral(v) + 0.03)
        window = (
            film.window(u, v - 0.045, u + side * 0.11, v + 0.085)
            if side > 0
            else film.window(u - 0.11, v - 0.045, u, v + 0.085)
        )
        shift = round((0.03 + 0.02 * finding.severity) * chest.zoom / film.pixel)
        film.bone[window] += np.roll(film.ribs[window], shift, 0) - film.ribs[window]
        callus, distance = _disc(film, u, v + 0.01, 0.036 + 0.012 * finding.severity)
        film.bone[callus] += np.float32(0.4 + 0.2 * finding.severity) * np.sqrt(root(1 - distance))
        outline.disc((u, v + 0.01), 0.065)
    return outline.region()


# Devices


def _pacemaker(film: Film, finding: Finding, rng: np.random.Generator) -> Region:
    side = finding.side
    u, v = side * rng.uniform(0.47, 0.58), rng.uniform(-0.48, -0.36)
    half = 0.095 + 0.025 * finding.severity
    canvas, outline = Canvas(film), Stencil(film)
    box = [
        (u + half * x, v + half * y)
        for x, y in ((-1, -0.7), (-0.7, -1), (0.7, -1), (1, -0.7), (1, 0.5), (0.5, 1), (-0.5, 1), (-1, 0.5))
    ]
    entry, cava = (side * 0.32, -0.6), (-0.1 + 0.03 * side, -0.42)
    atrium, apex = (-0.13, 0.06), (0.24, film.dome(0.24) - 0.1)
    start = (u - side * half * 0.3, v - half)
    leads = [
        [
            start,
            (u - side * 0.12, v - 0.16),
            entry,
            (side * 0.12, -0.56),
            cava,
            (-0.12, -0.1),
            (-0.14, 0.12),
            (-0.05, 0.22),
            apex,
        ]
    ]
    if rng.random() < 0.6:
        leads.append([start, (u - side * 0.1, v - 0.14), entry, cava, (-0.13, -0.05), (-0.17, 0.1), (-0.19, 0.04), atrium])
    for lead in leads:
        path = _smooth(np.array(lead))
        canvas.line(path, 0.016, 230)
        outline.line(path, 0.045)
        canvas.line(path[-3:], 0.028, 255)
    canvas.polygon(box, 255)
    outline.polygon(box)
    film.bone += np.float32(1.3) * canvas.finish(0.25)
    return outline.region()


def _tube(film: Film, finding: Finding, rng: np.random.Generator) -> Region:
    canvas, outline = Canvas(film), Stencil(film)
    if finding.anatomy == "trachea":
        u, carina = film.carina
        tip = carina - 0.1 - rng.uniform(0, 0.12)
        path = _smooth(np.array([(u + rng.normal(0, 0.02), -1.2), (u + rng.normal(0, 0.006), -0.75), (u, tip)]))
        width = 0.05
    else:
        side = finding.side
        top = film.in_lung(side, rng.uniform(0.1, 0.2), rng.uniform(0.35, 0.6))
        wall = rng.uniform(0.1, 0.25)
        edge = film.lateral(wall)
        path = _smooth(
            np.array([(side * (edge + 0.35), wall + 0.15), (side * edge, wall), (side * (edge - 0.15), wall - 0.25), top])
        )
        width = 0.052
    canvas.line(path, width, 255)
    canvas.line(path, width * 0.55, 80)
    canvas.line(path, 0.012, 255)
    outline.line(path, width + 0.03)
    film.bone += np.float32(0.8) * canvas.finish(0.25)
    return outline.region()


def _catheter(film: Film, finding: Finding, rng: np.random.Generator) -> Region:
    side = finding.side
    tip = (
        -0.115 + rng.normal(0, 0.01),
        -0.2 + rng.uniform(-0.08, 0.04) + (0.2 if finding.anatomy == "cavoatrial_junction" else 0),
    )
    if rng.random() < 0.5:  # from the neck
        start = [(side * 0.24, -1.2), (side * 0.17, -0.9), (side * 0.13, -0.65)]
    else:  # from the arm
        start = [(side * 1.1, -0.35), (side * 0.8, -0.52), (side * 0.5, -0.64), (side * 0.22, -0.6)]
    path = _smooth(np.array([*start, (-0.1, -0.42), tip]))
    canvas, outline = Canvas(film), Stencil(film)
    canvas.line(path, 0.02, 255)
    outline.line(path, 0.055)
    film.bone += np.float32(0.9 + 0.2 * finding.severity) * canvas.finish(0.3)
    return outline.region()


_PAINT: dict[str, Callable[[Film, Finding, np.random.Generator], Region]] = {
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
ORDER = {pathology: position for position, pathology in enumerate(_PAINT)}


# Tools


class Stencil:
    """A mask drawn from points, in pixels of the film."""

    def __init__(self, film: Film) -> None:
        self._canvas = Canvas(film, oversampled=1)

    def line(self, points: list[tuple[float, float]] | NDArray[np.floating], width: float) -> None:
        self._canvas.line(points, width, 1)

    def disc(self, centre: tuple[float, float], radius: float) -> None:
        self._canvas.disc(centre, radius, 1)

    def polygon(self, points: list[tuple[float, float]]) -> None:
        self._canvas.polygon(points, 1)

    def region(self) -> Region:
        return np.asarray(self._canvas.image, np.uint8) > 0


def _mask(film: Film, window: Window, region: Region) -> Region:
    mask = np.zeros((film.size, film.size), bool)
    mask[window] = region
    return mask


def _half(film: Film, side: int, top: float, bottom: float) -> Window:
    return film.window(min(0, side * 1.1), top, max(0, side * 1.1), bottom)


def _noise(rng: np.random.Generator, window: Window, cells: int) -> Map:
    """Smooth noise over a window: about normal, `cells` lumps along each edge."""
    rows, columns = (part.stop - part.start for part in window)
    lumps = Image.fromarray(rng.standard_normal((cells, cells), dtype=np.float32))
    return np.asarray(lumps.resize((max(columns, 1), max(rows, 1)), Image.Resampling.BICUBIC))[:rows, :columns]


def _disc(film: Film, u: float, v: float, radius: float) -> tuple[Window, Map]:
    """Return a window around a disc and the squared distance from its middle in radii."""
    window = film.window(u - radius, v - radius, u + radius, v + radius)
    du, dv = film.u[window] - np.float32(u), film.v[window] - np.float32(v)
    return window, (du * du + dv * dv) / np.float32(radius * radius)


def _blob(
    film: Film, rng: np.random.Generator, centre: tuple[float, float], wide: float, tall: float, *, rough: float, blur: float
) -> tuple[Window, Map]:
    """Return a window around a lumpy ellipse and its weight: 1 inside, 0 outside, 0.5 at the edge."""
    u, v = centre
    wider, taller = wide * (1 + rough + blur), tall * (1 + rough + blur)
    window = film.window(u - wider, v - taller, u + wider, v + taller)
    du, dv = (film.u[window] - np.float32(u)) / np.float32(wide), (film.v[window] - np.float32(v)) / np.float32(tall)
    distance = np.sqrt(du * du + dv * dv) + np.float32(rough) * _noise(rng, window, 6)
    return window, step(1 - distance, blur)


def _spot(film: Film, finding: Finding, rng: np.random.Generator, radius: float) -> tuple[float, float]:
    """Return a place for a lesion in its zone, clear of the diaphragm; at a hilum, beside it."""
    side = finding.side
    zone = finding.anatomy.split("_", 1)[1]
    if zone == "hilar":
        u, v = film.hila[side]
        return u + side * (0.35 * radius + 0.05), v + float(rng.uniform(-0.05, 0.05))
    heights, depths = ZONES[zone]
    u, v = film.in_lung(side, float(rng.uniform(*heights)), float(rng.uniform(*depths)))
    return u, min(v, film.dome(u) - 0.7 * radius - 0.02)


def _smooth(points: NDArray[np.floating]) -> NDArray[np.floating]:
    """Round the corners of a path (n, 2) by cutting them, three times."""
    for _ in range(3):
        cut = np.stack([0.75 * points[:-1] + 0.25 * points[1:], 0.25 * points[:-1] + 0.75 * points[1:]], 1).reshape(-1, 2)
        points = np.concatenate([points[:1], cut, points[-1:]])
    return points
