"""The phantom's chest from the side: the person of the frontal film with a depth, exposed organ by organ.

As left lateral films are hung, the front is on the image's left. Heights are those of the frontal film; depths (u) are
tabulated over the height in the lungs, in half depths of the lungs, and both sides lie on top of each other.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from medlip.phantom.anatomy import bowel_gas, draw_chest, rib_drop, rib_profile, vessels
from medlip.phantom.film import AXIS, Canvas, Chest, Film, LookupTable, Map, Points, Window, root, shell, smooth, step, table

# What belongs to an exposure and not to the person.
_POSE = ("tilt", "turn", "exposure", "contrast", "fog", "grain", "marker", "collimation")

# Depths over the height in the lungs (0 apex, 1 sulcus).
_HEIGHTS = (-0.5, -0.25, 0.0, 0.12, 0.3, 0.5, 0.7, 0.9, 1.1, 1.4)
_FRONT = (-0.0, -0.05, -0.2, -0.46, -0.72, -0.88, -0.97, -1.0, -0.98, -0.9)
_BACK = (0.42, 0.44, 0.62, 0.8, 0.97, 1.03, 1.02, 0.95, 0.86, 0.8)
# Of the heart and the great vessels, over the height v.
_LEVELS = (-0.5, -0.4, -0.3, -0.2, -0.1, 0.0, 0.15, 0.3, 0.42, 0.6)
_HEART_FRONT = (-0.42, -0.44, -0.47, -0.52, -0.6, -0.7, -0.83, -0.9, -0.9, -0.82)
_HEART_BACK = (-0.02, 0.0, 0.02, 0.05, 0.1, 0.17, 0.24, 0.25, 0.2, 0.1)
# The oblique fissure, from the front to behind: depth and height in the lungs.
_FISSURE = ((-1.1, -0.6, -0.2, 0.15, 0.6, 1.1), (1.12, 0.86, 0.66, 0.49, 0.3, 0.16))
MINOR_FISSURE = 0.46


class LateralFilm(Film):
    """A film whose rays run from the patient's right to the left; the anatomy is drawn by `expose_lateral`.

    Attributes:
        depth: half of the lungs' depth.
        lungs: the air of each lung by side; `air` is their sum.
        dome_tables: height of each dome over u by side.
        above_dome: distance above each dome by side.
        front_table, back_table: the lungs' borders over v.
        fissure_table: height of the oblique fissure over u.
        carina, hila: where the trachea divides, and the middle of each hilum by side.
    """

    def __init__(self, chest: Chest, size: int) -> None:
        super().__init__(chest, size)
        self.depth = chest.width * chest.depth
        self.front_table, self.back_table = self.over_height(_FRONT), self.over_height(_BACK)
        self.fissure_table: LookupTable = (chest.apex + chest.height * np.interp(AXIS / self.depth, *_FISSURE)).astype(
            np.float32
        )
        self.dome_tables = {side: dome_table(chest, height) for side, height in zip((-1, 1), chest.domes, strict=True)}
        self.above_dome = {side: self.columns(dome) - self.v for side, dome in self.dome_tables.items()}
        self.lungs = {-1: self.blank(), 1: self.blank()}
        self.carina = (0.15 * self.depth, -0.2)
        self.hila = {-1: (0.08 * self.depth, -0.08), 1: (0.24 * self.depth, -0.12)}

    def over_height(self, depths: tuple[float, ...]) -> LookupTable:
        """Return depths at `_HEIGHTS` as a table over v."""
        curve: LookupTable = np.interp(self.tau_table, AXIS, _curve(_HEIGHTS, depths)).astype(np.float32)
        curve *= np.float32(self.depth)
        return curve

    def in_lung(self, v: float, backward: float) -> float:
        """Return the depth u at height v, from 0 at the lungs' front to 1 at their back."""
        front, back = (float(np.interp(v, AXIS, border)) for border in (self.front_table, self.back_table))
        return front + backward * (back - front)

    def trachea(self, v: float) -> float:
        """Return the depth u of the trachea's axis, which runs down and back."""
        return self.carina[0] + 0.12 * (v - self.carina[1])

    def lung_of(self, side: int, window: Window) -> Map:
        """Return 1 in the lung of a side above its dome, 0 elsewhere, in a window."""
        return self.cavity[window] * step(self.above_dome[side][window], 2.5 * self.pixel)

    def scale_air(self, window: Window, factor: Map, side: int) -> None:
        """Multiply the air in a window by a factor: that of one side's lung, or of both (side 0)."""
        for lung in (side,) if side else (-1, 1):
            self.lungs[lung][window] *= factor

    def arch(self) -> Points:
        """Return the axis of the aorta from the heart over the arch along the spine."""
        knob = 0.08 * (self.chest.knob - 1)
        d, level = self.depth, self.chest.heart_level
        up, down = ((-0.3, -0.02), (-0.32, -0.2), (-0.22, -0.36), (0.08, -0.44)), ((0.42, -0.38), (0.56, -0.2), (0.62, 0.1))
        return smooth([(u * d, v + level - knob * (v < -0.3)) for u, v in (*up, *down, (0.6, 0.6))])

    def develop(self, rng: np.random.Generator) -> NDArray[np.uint8]:
        """Return the film as uint8 (size, size), dense parts bright."""
        np.add(self.lungs[-1], self.lungs[1], out=self.air)
        return super().develop(rng)


def dome_table(chest: Chest, peak: float) -> LookupTable:
    """Return the height v over u of a dome: highest before the middle, it falls far behind and a little in front."""
    u = AXIS / np.float32(chest.width * chest.depth)
    forward, backward = np.clip((-0.25 - u) / 0.8, 0, 1.5), np.clip((u + 0.25) / 1.3, 0, 1)
    drop = chest.dome_depth * (0.4 * forward**2 + 1.9 * (1 - np.sqrt(1 - 0.98 * backward**2.2)))
    heights: LookupTable = (peak + drop).astype(np.float32)
    return heights


def expose_lateral(chest: Chest, sex: str, age: int, size: int, rng: np.random.Generator) -> LateralFilm:
    """Return the lateral film (size, size) of the person that `chest` was drawn for, not yet developed."""
    pose = draw_chest(rng, sex, age, "PA")
    chest = replace(
        chest,
        shift=(pose.shift[0], chest.shift[1]),  # the detector stays where it is
        asymmetry=0.0,
        depth=chest.depth * float(rng.uniform(0.95, 1.05)),
        **{name: getattr(pose, name) for name in _POSE},
    )
    film = LateralFilm(chest, size)
    _heart(film)
    _lungs(film)
    _trunk(film)
    _ribs(film)
    _sternum(film)
    _spine(film)
    _great_vessels(film)
    _airways(film)
    _shoulders(film)
    bowel_gas(film, film.dome_tables[1], rng, shift=-0.25)
    vessels(film, film.hila, _fissures(film), rng)
    return film


def _heart(film: LateralFilm) -> None:
    """Draw the heart with what leaves it upwards."""
    chest = film.chest
    growth = np.array([0, 0, 0, 0.1, 0.4, 0.8, 1, 1, 1, 1]) * (chest.heart - 1)
    front = np.array(_HEART_FRONT) - 0.25 * growth
    back = np.array(_HEART_BACK) + 0.75 * growth
    shift = round(chest.heart_level * (len(AXIS) - 1) / float(AXIS[-1] - AXIS[0]))
    first, last = (np.roll(table(_LEVELS, border * film.depth), shift) for border in (front, back))
    first = np.maximum(first, film.front_table + np.float32(0.03))
    band = film.band(-0.8, chest.sulcus + 0.15)
    across = film.u[band] - film.rows((first + last) * np.float32(0.5), band)
    across *= film.rows(np.float32(2) / np.maximum(last - first, np.float32(1e-3)), band)
    across *= across
    heart = film.heart_chord[band] = root(1 - across)
    thick = np.interp(AXIS - chest.heart_level, (-0.5, -0.25, -0.05, 0.15), (0.0, 0.4, 0.75, 1.0))
    heart *= film.rows(thick.astype(np.float32), band)
    film.soft[band] += np.float32(0.22) * heart * step(film.above_dome[1][band], 3 * film.pixel)


def _lungs(film: LateralFilm) -> None:
    chest = film.chest
    band = film.band(chest.apex - 0.05, chest.sulcus + 0.35)
    closing = np.sqrt(1 - np.clip(1 - film.tau_table / 0.2, 0, 1) ** 2)
    middle = np.where(film.tau_table < 0, np.float32(9), (film.front_table + film.back_table) * np.float32(0.5))
    half = np.maximum((film.back_table - film.front_table) * np.float32(0.5) * closing, np.float32(1e-3)).astype(np.float32)
    from_middle = np.abs(film.u[band] - film.rows(middle, band))
    half_rows = film.rows(half, band)
    cavity = film.cavity[band] = step(half_rows - from_middle, 2 * film.pixel)
    from_middle /= half_rows
    thick = root(1 - from_middle * from_middle)
    np.sqrt(thick, out=thick)
    thick *= film.rows((0.68 * chest.inflation * np.clip(0.5 + 0.9 * film.tau_table, 0, 1)).astype(np.float32), band)
    thick *= cavity
    for side, hidden in ((-1, 0.4), (1, 0.8)):  # the heart lies in the left lung more than in the right
        above = step(film.above_dome[side][band], 2.5 * film.pixel)
        film.lungs[side][band] = thick * above * (1 - np.float32(hidden) * film.heart_chord[band])
        np.maximum(film.lung[band], above * cavity, out=film.lung[band])


def _trunk(film: LateralFilm) -> None:
    """Draw the trunk's outline and thickness, and breasts."""
    chest, d = film.chest, film.depth
    skin = 0.06 + chest.fat
    front, back = film.over_height(_FRONT) - np.float32(0.09 + 0.7 * skin), film.over_height(_BACK) + np.float32(0.12 + skin)
    shoulder = np.clip((-0.15 - AXIS) / 0.85, 0, 1)  # above, arms and shoulders
    shoulder = shoulder * shoulder * (3 - 2 * shoulder)
    front -= (0.5 * d * shoulder).astype(np.float32)
    back += (0.35 * d * shoulder).astype(np.float32)
    half = (back - front) * np.float32(0.5)
    t = film.u - film.rows((front + back) * np.float32(0.5))
    t *= film.rows(np.float32(1) / half)
    t *= t
    chord = root(1 - t)
    film.body = np.sqrt(chord) * film.rows(
        table((-1.3, -0.8, -0.5, -0.2, 0.3, 0.7, 1.2), (1.6, 2.0, 2.05, 2.0, 2.1, 2.3, 2.45))
    )
    belly = film.band(min(chest.domes) - 0.05, 1.6)
    inside = step(film.u[belly] - film.rows(film.front_table, belly), 2 * film.pixel)
    inside *= step(film.rows(film.back_table, belly) - film.u[belly], 2 * film.pixel)
    for above_dome in film.above_dome.values():
        film.body[belly] += np.float32(0.12) * inside * step(-above_dome[belly], 3 * film.pixel)
    if chest.breasts:
        v, radius = 0.16 + 0.12 * chest.breasts, 0.2 + 0.14 * chest.breasts
        u = film.in_lung(v, 0.0) - 0.05
        window = film.window(u - radius, v - radius, u + radius, v + radius)
        du, dv = (film.u[window] - np.float32(u)) * np.float32(1.3), film.v[window] - np.float32(v)
        bump = root(1 - (du * du + dv * dv) * np.float32(1 / radius**2))
        film.body[window] = np.maximum(film.body[window] + np.float32(0.2) * bump, np.float32(1.3) * bump)


def _ribs(film: LateralFilm) -> None:
    """Draw the ribs of both sides: from the side their rings are bands that fall from back to front."""
    chest, spacing = film.chest, film.chest.rib_spacing
    band = film.band(chest.apex - 0.05, 0.95)
    half = (film.back_table - film.front_table) * np.float32(0.5)
    forward = film.rows((film.front_table + film.back_table) * np.float32(0.5), band) - film.u[band]
    forward *= film.rows(np.float32(1) / half, band)
    fall = film.rows(rib_drop(film) * np.float32(1 / spacing), band)
    steepness = np.sqrt(np.float32(1 / spacing**2) + (fall / np.float32(film.depth)) ** 2)
    level = (film.v[band] - np.float32(chest.apex - 0.02)) * np.float32(1 / spacing) - fall * (1 + forward)
    edge = np.clip(forward * forward, 0, 1)
    weight = (np.float32(0.13) + np.float32(0.15) * edge) * step(1.02 - np.abs(forward), 0.05)
    weight *= np.clip((np.float32(0.85) - forward) * 5, 0, 1)  # what is left are cartilages
    inside = (film.tau_table > -0.03).astype(np.float32)
    weight *= film.rows(inside, band) * np.float32(chest.bone)
    for shift in (0.0, 0.25 + 0.1 * chest.turn):  # of the side that is farther from the detector
        film.bone[band] += rib_profile(level + np.float32(shift), steepness, 0.03, 0.28, 0.4, 10) * weight


def _sternum(film: LateralFilm) -> None:
    chest = film.chest
    heights = np.linspace(chest.apex + 0.14 * chest.height, chest.apex + 0.74 * chest.height, 7)
    border = np.interp(heights, AXIS, film.front_table) - 0.035
    axis = np.stack([border, heights], -1)
    canvas = _board(film, axis, 0.1)
    canvas.line(axis, 0.04, 120)
    for side in (-0.018, 0.018):
        canvas.line(axis + (side, 0), 0.009, 220)
    canvas.line(axis[1:3], 0.05, 40)  # the joint of its two parts
    canvas.add_to(film.bone, 0.45 * chest.bone, 0.008)


def _spine(film: LateralFilm) -> None:
    """Draw vertebral bodies with end plates along the curve of the back, and what lies behind them."""
    window = film.window(-0.2, -1.3, 1.0, 1.3)
    middle = film.back_table - np.float32(0.16)
    curve = np.gradient(middle, AXIS).astype(np.float32)
    u, v = film.u[window] - film.rows(middle, window), film.v[window]
    level = (v + film.rows(curve, window) * u + np.float32(1.5)) * np.float32(1 / 0.125)
    phase = level - np.floor(level) - np.float32(0.5)
    width = np.float32(0.075) + np.float32(0.02) * (phase * 2) ** 2 + np.float32(0.014) * np.clip(v, -0.6, 1)
    across = np.abs(u) / width
    plate_at = np.abs(phase) - np.float32(0.37)
    disc, plate = np.clip(plate_at * 10, 0, 1), np.clip(1 - np.abs(plate_at) * 18, 0, 1)
    body = shell(across, 0.25, 0.75) * (np.float32(0.34) - np.float32(0.24) * disc + np.float32(0.14) * plate)
    behind = np.clip(1 - np.abs(u - np.float32(0.15)) * np.float32(1 / 0.075), 0, 1)
    body += behind * (np.float32(0.16) + np.float32(0.1) * np.cos(np.float32(2 * np.pi) * (phase + np.float32(0.1))))
    film.bone[window] += body * np.float32(film.chest.bone)


def _great_vessels(film: LateralFilm) -> None:
    arch = film.arch()[::4]
    canvas = _board(film, arch, 0.2, 1)
    canvas.line(arch, 0.12 + 0.05 * (film.chest.knob - 1))
    canvas.add_to(film.soft, 0.15, 0.025)
    artery = Canvas(film, film.window(-0.2, -0.4, 0.4, 0.2), 1)
    for side, radius in ((-1, 0.055), (1, 0.045)):
        artery.ellipse(film.hila[side], radius, radius * 1.25)
    artery.add_to(film.soft, 0.16, 0.02)


def _airways(film: LateralFilm) -> None:
    """Draw the trachea, which runs down and back, and a main bronchus seen along its axis."""
    u, v = film.carina
    trachea = np.array([(film.trachea(height), height) for height in (-1.3, v + 0.02)])
    canvas = Canvas(film, film.window(u - 0.3, -1.3, u + 0.2, v + 0.2))
    canvas.line(trachea, 0.075)
    canvas.ellipse((u + 0.015, v + 0.07), 0.035, 0.035)
    canvas.add_to(film.soft, -0.34, 0.018)


def _shoulders(film: LateralFilm) -> None:
    """Draw the blades of both shoulders, and the arms, which are held up."""
    back = film.depth
    blades = Canvas(film, film.window(0.0, -0.9, 1.0, 0.4), 1)
    for shift in (0.0, 0.09):
        blade = np.array([(0.42 * back, -0.78), (0.8 * back, -0.4), (1.02 * back, 0.1)]) + (shift, 0.02)
        blades.line(blade, 0.022, 170)
        blades.line(blade + (0.03, 0), 0.06, 60)
    blades.add_to(film.bone, 0.3 * film.chest.bone, 0.012)
    arms = Canvas(film, film.window(-0.9, -1.3, 0.9, -0.4), 1)
    for shift in (-0.1, 0.12):
        arms.line(np.array([(0.12 * back, -0.66), (-0.1 * back, -0.95), (-0.5 * back, -1.3)]) + (shift, 0), 0.1, 90)
        arms.ellipse((0.12 * back + shift, -0.7), 0.1, 0.1, 110)
    arms.add_to(film.bone, 0.55 * film.chest.bone, 0.02)


def _fissures(film: LateralFilm) -> list[Points]:
    """Return the minor fissure, from the right hilum forwards, and the oblique one."""
    height = film.chest.apex + MINOR_FISSURE * film.chest.height
    minor = np.array([(film.in_lung(height, 0.03), height - 0.02), (-0.3 * film.depth, height), (0.1 * film.depth, height)])
    run = np.linspace(-0.55, 0.9, 12) * film.depth
    return [minor, np.stack([run, np.interp(run, AXIS, film.fissure_table)], -1)]


def _board(film: LateralFilm, points: Points, margin: float, oversampled: int = 2) -> Canvas:
    """Return a board over the window of these points."""
    (u0, v0), (u1, v1) = (points.min(0) - margin).tolist(), (points.max(0) + margin).tolist()
    return Canvas(film, film.window(u0, v0, u1, v1), oversampled)


@lru_cache(maxsize=8)
def _curve(heights: tuple[float, ...], depths: tuple[float, ...]) -> LookupTable:
    return table(heights, depths)
