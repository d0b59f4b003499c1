"""The phantom's anatomy: thickness maps along the ray, summed and developed into a film.

Coordinates: u runs to the patient's left (to the right of the image, as films are hung), v runs down; both are in half image
widths from the middle of the chest, so that an unmoved chest fills [-1, 1] x [-1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from scipy.interpolate import CubicSpline

Map = NDArray[np.float32]
Window = tuple[slice, slice]

TABLE_FROM, TABLE_TO, TABLE_STEPS = -1.6, 1.6, 1024
AXIS = np.linspace(TABLE_FROM, TABLE_TO, TABLE_STEPS, dtype=np.float32)
OVERSAMPLED = 2


@dataclass(slots=True)
class Chest:
    """One person's chest, how it stands before the detector, and the exposure; findings reshape it before it is drawn.

    Lengths are in half image widths. Pairs are (patient's right, patient's left).
    """

    tilt: float
    shift: tuple[float, float]
    zoom: float
    turn: float
    width: float
    apex: float
    sulcus: float
    domes: list[float]
    dome_depth: float
    asymmetry: float
    heart: float
    heart_level: float
    knob: float
    rib_spacing: float
    rib_drop: float
    clavicle_level: float
    clavicle_slope: float
    fat: float
    breasts: float
    arms: bool
    bone: float
    vessels: float
    inflation: float
    stomach: float
    exposure: float
    contrast: float
    grain: float
    collimation: tuple[float, float, float, float]

    @classmethod
    def draw(cls, rng: np.random.Generator, sex: str, age: int, position: str) -> Chest:
        """Draw a normal chest of a person of this sex and age (years), taken from behind ("PA") or in front ("AP")."""

        def around(mean: float, spread: float) -> float:
            return mean + spread * float(np.clip(rng.standard_normal(), -2, 2))

        apex, right_dome = around(-0.76, 0.035), around(0.34, 0.05)
        heavy = rng.random() ** 2
        collimated = rng.random(4) < 0.18
        return cls(
            tilt=around(0, 0.022),
            shift=(around(0, 0.03), around(0, 0.03)),
            zoom=around(1.0, 0.045),
            turn=around(0, 0.5),
            width=around(0.69 if sex == "M" else 0.66, 0.03),
            apex=apex,
            sulcus=around(0.60, 0.03),
            domes=[right_dome, right_dome + around(0.05, 0.015)],
            dome_depth=around(0.2, 0.03),
            asymmetry=around(0, 0.015),
            heart=around(1.0 if position == "PA" else 1.06, 0.05),
            heart_level=around(0, 0.02),
            knob=around(1.0 + 0.004 * (age - 50), 0.1),
            rib_spacing=around(0.115, 0.006),
            rib_drop=around(0.21, 0.03),
            clavicle_level=around(-0.66, 0.04),
            clavicle_slope=around(0.12, 0.06),
            fat=0.07 + 0.16 * heavy,
            breasts=float(rng.uniform(0.2, 1)) if sex == "F" else 0.0,
            arms=bool(rng.random() < 0.5),
            bone=around(1.0 - 0.004 * (age - 50), 0.1),
            vessels=around(1.0, 0.15),
            inflation=around(1.0, 0.05),
            stomach=float(rng.uniform(0, 1)),
            exposure=around(0, 0.1) + 0.12 * heavy,
            contrast=around(1.0, 0.12),
            grain=float(rng.uniform(0.008, 0.022)) * (1 + heavy),
            collimation=tuple(np.where(collimated, rng.uniform(0.01, 0.06, 4), 0.0).tolist()),  # type: ignore[arg-type]
        )


def step(distance: Map, blur: float) -> Map:
    """Return 0 outside (distance < 0), 1 inside, with a linear edge `blur` wide."""
    return np.clip(distance * np.float32(1 / blur) + np.float32(0.5), 0, 1)  # type: ignore[no-any-return]


def root(squared: Map) -> Map:
    """Return the half chord of a unit circle from 1 - t^2; 0 outside."""
    return np.sqrt(np.maximum(squared, 0))  # type: ignore[no-any-return]


@lru_cache(maxsize=8)
def _grid(size: int) -> tuple[Map, Map]:
    centre = ((np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1).astype(np.float32)
    return centre[None, :], centre[:, None]


@lru_cache(maxsize=16)
def _basis(knots: tuple[float, ...]) -> Map:
    """Return the matrix (TABLE_STEPS, knots) that turns values at the knots into a smooth table along an axis."""
    spline = CubicSpline(np.array(knots), np.eye(len(knots)), bc_type="natural")
    return spline(np.clip(AXIS, knots[0], knots[-1])).astype(np.float32)  # type: ignore[no-any-return]


def table(knots: tuple[float, ...], values: tuple[float, ...]) -> Map:
    """Return a smooth curve through `values` at `knots`, sampled along the axis; constant beyond the ends."""
    return _basis(knots) @ np.array(values, np.float32)


class Film:
    """The maps of one exposure: air, soft tissue, bone and vessels, each (size, size), and where everything lies.

    Attributes:
        air: what is left of the lungs' air along the ray, about 1 in a normal lung.
        soft: soft tissue and fluid added to the body.
        bone: bone and metal.
        vessels: the lungs' vessels.
        lung: 1 in the lungs above the diaphragm, 0 elsewhere.
        u, v: coordinates of every pixel; `a` is |u|.
        tau: height in the lung: 0 at the apex, 1 in the costophrenic sulcus.
    """

    def __init__(self, chest: Chest, size: int, rng: np.random.Generator) -> None:
        self.chest, self.size = chest, size
        self.pixel = 2 / size
        x, y = _grid(size)
        cosine, sine = np.cos(chest.tilt) / chest.zoom, np.sin(chest.tilt) / chest.zoom
        dx, dy = x - np.float32(chest.shift[0]), y - np.float32(chest.shift[1])
        u = np.float32(cosine) * dx + np.float32(sine) * dy
        self.v: Map = np.float32(cosine) * dy - np.float32(sine) * dx
        # One side is a little wider than the other.
        self.u: Map = u * (1 + np.float32(chest.asymmetry) * np.sign(u))
        self.a: Map = np.abs(self.u)
        self._rows = self._positions(self.v)
        self._columns = self._positions(self.u)
        self._shape_tables()
        self._draw(rng)

    # Where things are

    @staticmethod
    def _positions(values: Map) -> NDArray[np.intp]:
        scale = (TABLE_STEPS - 1) / (TABLE_TO - TABLE_FROM)
        return np.clip((values - TABLE_FROM) * scale + 0.5, 0, TABLE_STEPS - 1).astype(np.intp)

    def rows(self, values: Map, window: Window | None = None) -> Map:
        """Look a table over v up for every pixel (of the window)."""
        return values.take(self._rows if window is None else self._rows[window])  # type: ignore[no-any-return]

    def columns(self, values: Map, window: Window | None = None) -> Map:
        """Look a table over u up for every pixel (of the window)."""
        return values.take(self._columns if window is None else self._columns[window])  # type: ignore[no-any-return]

    def to_pixels(self, points: NDArray[np.floating]) -> NDArray[np.floating]:
        """Turn chest coordinates (..., 2) as (u, v) into pixels (..., 2) as (x, y)."""
        chest = self.chest
        u = points[..., 0] / (1 + chest.asymmetry * np.sign(points[..., 0])) * chest.zoom
        v = points[..., 1] * chest.zoom
        cosine, sine = np.cos(chest.tilt), np.sin(chest.tilt)
        x = cosine * u - sine * v + chest.shift[0]
        y = sine * u + cosine * v + chest.shift[1]
        return np.stack([(x + 1) / self.pixel, (y + 1) / self.pixel], axis=-1)

    def window(self, u0: float, v0: float, u1: float, v1: float) -> Window:
        """Return the slices (rows, columns) that hold the rectangle from (u0, v0) to (u1, v1)."""
        corners = self.to_pixels(np.array([[u0, v0], [u1, v0], [u0, v1], [u1, v1]]))
        low = np.clip(np.floor(corners.min(0)).astype(int), 0, self.size)
        high = np.clip(np.ceil(corners.max(0)).astype(int) + 1, 0, self.size)
        return slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0]))

    def lateral(self, v: float) -> float:
        """Return the lungs' outer edge |u| at height v."""
        return float(np.interp(v, AXIS, self.lateral_table))

    def dome(self, u: float) -> float:
        """Return the height v of the diaphragm at u."""
        return float(np.interp(u, AXIS, self.dome_table))

    def in_lung(self, side: int, tau: float, sigma: float) -> tuple[float, float]:
        """Return the point (u, v) of a lung (side -1 the right one, 1 the left one) at relative height and depth, 0 to 1."""
        v = self.chest.apex + tau * (self.chest.sulcus - self.chest.apex)
        edge = self.silhouette_table[0 if side < 0 else 1]
        medial = max(float(np.interp(v, AXIS, edge)) * side, float(np.interp(v, AXIS, self.medial_table)))
        return side * (medial + sigma * (self.lateral(v) - medial)), v

    # The curves

    def _shape_tables(self) -> None:
        chest = self.chest
        height = chest.sulcus - chest.apex
        tau = (AXIS - chest.apex) / height
        inside = np.clip(tau, 0, 1)
        self.lateral_table: Map = np.where(
            tau < 0, 0.02, 0.26 + (chest.width - 0.26) * (1 - (1 - inside) ** 2.6) ** 0.55
        ).astype(np.float32)
        self.medial_table: Map = np.where(tau < 0, 0.3, 0.25 - 0.2 * (1 - (1 - inside) ** 8) ** 0.5).astype(np.float32)
        self.tau_table: Map = tau.astype(np.float32)
        self.dome_table = self._dome_table(chest.domes, chest.dome_depth)
        self.silhouette_table = self._silhouette_tables()

    def _dome_table(self, domes: list[float], depth: float) -> Map:
        a = np.abs(AXIS)
        peak, width = 0.36, self.chest.width - 0.36
        outward = np.clip((a - peak) / (width + 0.02), 0, 1)
        inward = np.clip((peak - a) / peak, 0, 1)
        drop = depth * (1.25 * (1 - np.sqrt(1 - 0.985 * outward**2.4))) + 0.3 * depth * inward**2
        return (np.where(AXIS < 0, domes[0], domes[1]) + drop).astype(np.float32)

    def _silhouette_tables(self) -> tuple[Map, Map]:
        """Return the right (negative u) and left borders of mediastinum and heart over v."""
        chest = self.chest
        knots = (-1.0, -0.72, -0.55, -0.42, -0.33, -0.24, -0.15, -0.05, 0.07, 0.2, 0.33, 0.45, 0.6)
        right = (0.09, 0.10, 0.125, 0.135, 0.14, 0.14, 0.14, 0.155, 0.19, 0.215, 0.20, 0.165, 0.12)
        left = (0.09, 0.105, 0.125, 0.165, 0.185, 0.165, 0.15, 0.18, 0.25, 0.335, 0.40, 0.415, 0.3)
        grow = np.array([0, 0, 0, 0, 0, 0, 0.15, 0.5, 0.85, 1, 1, 1, 1]) * (chest.heart - 1)
        knob = np.array([0, 0, 0.15, 0.8, 1, 0.6, 0.15, 0, 0, 0, 0, 0, 0]) * (chest.knob - 1)
        shifted = tuple(k + chest.heart_level for k in knots)
        turn = 0.02 * chest.turn
        right_edge = table(knots, tuple(-np.array(right) * (1 + 0.8 * grow) + turn))
        left_edge = table(knots, tuple(np.array(left) * (1 + grow + 0.6 * knob) + turn))
        offset = np.interp(AXIS, np.array(shifted), np.array(knots))
        return (
            np.interp(offset, AXIS, right_edge).astype(np.float32),
            np.interp(offset, AXIS, left_edge).astype(np.float32),
        )

    # The maps

    def _draw(self, rng: np.random.Generator) -> None:
        self._draw_lungs()
        self._draw_body()
        self._draw_ribs()
        self._draw_spine()
        self._draw_airways()
        self._draw_clavicles()
        self._draw_shoulders()
        self._draw_stomach(rng)
        self._draw_vessels(rng)

    def _draw_lungs(self) -> None:
        chest = self.chest
        lateral, medial = self.rows(self.lateral_table), self.rows(self.medial_table)
        half = np.maximum((lateral - medial) * np.float32(0.5), np.float32(1e-3))
        t = (self.a - medial) / half - 1
        chord = root(1 - t * t)
        self.tau = self.rows(self.tau_table)
        self.cavity: Map = step((1 - np.abs(t)) * half, 2 * self.pixel) * (self.tau > 0)
        depth = np.clip(0.5 + 0.9 * self.tau_table, 0, 1) - 0.12 * np.clip(self.tau_table - 0.5, 0, 1)
        full = (np.sqrt(chord) * np.float32(0.7) + chord * np.float32(0.3)) * self.rows(depth.astype(np.float32))
        self.above_dome: Map = self.columns(self.dome_table) - self.v
        front = step(self.above_dome, 2.5 * self.pixel)
        behind = np.float32(0.2) * np.clip(1 + self.above_dome / np.float32(0.2), 0, 1)
        self.lung: Map = self.cavity * front
        air = full * (front + (1 - front) * behind) * np.float32(chest.inflation)
        right, left = (self.rows(edge) for edge in self.silhouette_table)
        middle, half = (left + right) * np.float32(0.5), (left - right) * np.float32(0.5)
        across = (self.u - middle) / half
        self.heart_chord: Map = root(1 - across * across)
        cover = np.minimum(self.heart_chord * np.float32(1.7), 1)
        self.air: Map = air * (1 - np.float32(0.86) * cover)
        self.soft: Map = np.float32(0.32) * self.heart_chord * front

    def _draw_body(self) -> None:
        chest = self.chest
        knots = (-1.3, -1.0, -0.86, -0.74, -0.55, -0.3, -0.05, 0.3, 0.7, 1.2)
        wall = chest.width + chest.fat
        outline = table(knots, (0.2, 0.21, 0.42, 1.02, 1.16, 1.06, wall + 0.1, wall + 0.03, wall, wall + 0.02))
        t = self.a / self.rows(np.maximum(outline, 0.05))
        chord = root(1 - t * t)
        thick = table(knots, (1.0, 1.0, 1.1, 1.35, 1.65, 1.85, 1.95, 2.15, 2.5, 2.6))
        self.body: Map = (np.float32(0.45) * np.sqrt(chord) + np.float32(0.55) * chord) * self.rows(thick)
        self.body += np.float32(0.3) * self.cavity * step(-self.above_dome, 3 * self.pixel)
        if chest.arms:
            arm = table((-0.6, -0.2, 0.2, 0.6, 1.2), (1.0, wall + 0.28, wall + 0.27, wall + 0.3, wall + 0.36))
            t = (self.a - self.rows(arm)) / np.float32(0.17)
            humerus = (self.a - self.rows(arm) - np.float32(0.01)) / np.float32(0.05)
            lower = step(self.v + np.float32(0.35), 0.3)
            self.body = np.maximum(self.body, np.float32(0.85) * root(1 - t * t) * lower)
            self.body += np.float32(0.3) * root(1 - humerus * humerus) * lower
        if chest.breasts:
            for side in (-1, 1):
                centre, radius = (
                    (side * (0.4 + 0.05 * chest.breasts), 0.16 + 0.1 * chest.breasts),
                    0.24 + 0.12 * chest.breasts,
                )
                window = self.window(centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius)
                du, dv = self.u[window] - np.float32(centre[0]), self.v[window] - np.float32(centre[1])
                bump = root(1 - (du * du + dv * dv) / np.float32(radius**2))
                self.body[window] += np.float32(0.38) * bump * step(dv + np.float32(0.2 * radius), radius * 1.6)

    def _draw_ribs(self) -> None:
        chest = self.chest
        cage = self.rows(self.lateral_table + np.float32(0.03))
        t = np.minimum(self.a / cage, 1)
        cosine = root(1 - t * t)
        drop_table = chest.rib_drop * np.clip(0.35 + 0.9 * self.tau_table, 0.25, 1.1)
        drop = self.rows(drop_table.astype(np.float32))
        steep = drop * t / (cage * np.maximum(cosine, np.float32(0.12)))
        slant = 1 / np.sqrt(1 + steep * steep)
        start = self.v - np.float32(chest.apex - 0.02)
        within = step(cage - self.a, 2 * self.pixel) * (self.tau > np.float32(-0.03))
        spacing = np.float32(chest.rib_spacing)
        posterior = (start - drop * (1 - cosine)) / spacing
        self.rib_number: Map = np.rint(posterior)
        offset = np.abs(posterior - self.rib_number) * slant * (spacing / np.float32(0.027))
        shell = (
            np.clip(1 - offset, 0, np.float32(0.3)) * np.float32(3.3) * (np.float32(0.5) + np.float32(0.5) * offset * offset)
        )
        self.ribs: Map = shell * (np.float32(0.26) + np.float32(0.2) * t**6) * (self.rib_number < 11)
        anterior = (start - drop * (1 + cosine)) / spacing
        number = np.rint(anterior)
        offset = np.abs(anterior - number) * slant * (spacing / np.float32(0.034))
        shell = (
            np.clip(1 - offset, 0, np.float32(0.4)) * np.float32(2.5) * (np.float32(0.6) + np.float32(0.4) * offset * offset)
        )
        self.ribs += shell * np.float32(0.2) * np.clip((t - np.float32(0.4)) * 4, 0, 1) * ((number < 8) & (number >= 0))
        self.ribs *= within * np.float32(chest.bone)
        self.bone: Map = self.ribs.copy()
        self.clavicles: Map = np.zeros_like(self.ribs)

    def _draw_spine(self) -> None:
        window = self.window(-0.16, -1.3, 0.16, 1.3)
        u, v = self.u[window] + np.float32(0.008 * self.chest.turn), self.v[window]
        level = (v + np.float32(1.5)) / np.float32(0.125)
        phase = level - np.floor(level) - np.float32(0.5)
        width = np.float32(0.075) + np.float32(0.016) * (phase * 2) ** 2 + np.float32(0.012) * np.clip(v, -0.5, 1)
        column = root(1 - (u / width) ** 2)
        disc = np.clip((np.abs(phase) - np.float32(0.36)) * 9, 0, 1)
        plate = np.clip(1 - np.abs(np.abs(phase) - np.float32(0.36)) * 18, 0, 1)
        pedicle_u = (np.abs(u) - np.float32(0.048)) / np.float32(0.02)
        pedicle = np.clip(np.float32(1.3) - pedicle_u**2 - ((phase + np.float32(0.16)) / np.float32(0.2)) ** 2, 0, 1)
        process = np.clip(
            np.float32(1.2) - (u / np.float32(0.016)) ** 2 - ((phase - np.float32(0.2)) / np.float32(0.22)) ** 2, 0, 1
        )
        amount = np.sqrt(column) * (np.float32(0.36) - np.float32(0.12) * disc + np.float32(0.1) * plate)
        amount += (np.float32(0.1) * pedicle + np.float32(0.08) * process) * (column > 0)
        self.bone[window] += amount * np.float32(self.chest.bone)

    def _draw_airways(self) -> None:
        shift = 0.02 * self.chest.turn - 0.012
        self.carina = (shift, -0.2)
        window = self.window(-0.3, -1.3, 0.3, 0.05)
        u, v = self.u[window] - np.float32(shift), self.v[window]
        below = np.maximum(v - np.float32(self.carina[1] - 0.02), 0)
        spread = np.where(u < 0, np.float32(0.75), np.float32(1.15)) * below
        half = np.float32(0.036) - np.float32(0.04) * np.minimum(below, np.float32(0.35))
        tube = root(1 - ((np.abs(u) - spread) / half) ** 2)
        fade = np.clip(1 - below * 5, 0, 1)
        self.soft[window] -= np.float32(0.34) * tube * fade

    def _draw_clavicles(self) -> None:
        chest = self.chest
        for side in (-1, 1):
            window = self.window(min(0, side * 0.95), -1.1, max(0, side * 0.95), -0.35)
            a = self.u[window] * side - np.float32(0.03 * chest.turn * side)
            run = (a - np.float32(0.075)) / np.float32(0.75)
            line = (
                chest.clavicle_level - chest.clavicle_slope * run * 1.1 - np.float32(0.035) * np.sin(run * np.float32(6.3))
            )
            half = np.float32(0.027) + np.float32(0.016) * np.clip(1 - 7 * run, 0, 1)
            q = np.abs(self.v[window] - line) / half
            shell = np.clip(1 - q, 0, np.float32(0.3)) * np.float32(3.3) * (np.float32(0.55) + np.float32(0.45) * q * q)
            self.clavicles[window] += np.float32(0.32 * chest.bone) * shell * step(run, 0.03) * step(1 - run, 0.03)
        self.bone += self.clavicles

    def clavicle(self, side: int, run: float) -> tuple[float, float]:
        """Return the point (u, v) on a clavicle's axis, `run` from 0 at the sternum to 1 at the shoulder."""
        chest = self.chest
        a = 0.075 + 0.75 * run
        v = chest.clavicle_level - chest.clavicle_slope * run * 1.1 - 0.035 * np.sin(run * 6.3)
        return side * a + 0.03 * chest.turn, float(v)

    def _draw_shoulders(self) -> None:
        """Scapulae and humeral heads, as drawn shapes."""
        level = self.chest.clavicle_level
        edge = self.chest.width
        blade = [(edge - 0.02, level + 0.06), (edge - 0.1, level + 0.28), (edge + 0.02, level + 0.72), (edge + 0.1, level + 0.6),
                 (edge + 0.24, level + 0.12), (edge + 0.1, level - 0.02)]  # fmt: skip
        spine = [(edge - 0.06, level + 0.2), (edge + 0.2, level - 0.05), (edge + 0.3, level - 0.06)]
        head = (edge + 0.33, level + 0.06)
        canvas = Canvas(self)
        for side in (-1, 1):
            mirrored = [(side * a, v) for a, v in blade]
            canvas.polygon(mirrored, 70)
            canvas.line([*mirrored[2:5]], 0.03, 150)
            canvas.line([(side * a, v) for a, v in spine], 0.035, 110)
            canvas.disc((side * head[0], head[1]), 0.125, 130)
            canvas.line([(side * head[0], head[1]), (side * (head[0] + 0.1), head[1] + 0.7)], 0.11, 110)
        self.bone += np.float32(0.55 * self.chest.bone) * canvas.finish(1.6)

    def _draw_stomach(self, rng: np.random.Generator) -> None:
        """The gastric bubble under the left dome, and bowel gas."""
        amount = self.chest.stomach
        places = [
            (rng.uniform(0.25, 0.42), 0.06 + 0.06 * amount, rng.uniform(0.1, 0.17), 0.05 + 0.05 * amount, 0.5 * amount)
        ]
        places += [
            (rng.uniform(-0.6, 0.7), rng.uniform(0.3, 0.6), rng.uniform(0.04, 0.1), rng.uniform(0.03, 0.08), 0.4)
            for _ in range(2)
        ]
        for u0, under, ru, rv, depth in places:
            v0 = self.dome(u0) + 0.035 + under
            window = self.window(u0 - ru, v0 - rv, u0 + ru, v0 + rv)
            du, dv = (self.u[window] - np.float32(u0)) / np.float32(ru), (self.v[window] - np.float32(v0)) / np.float32(rv)
            bubble = root(1 - du * du - dv * dv) * step(np.float32(0.35) - dv, 0.2)
            self.soft[window] -= np.float32(depth) * bubble * step(-self.above_dome[window] - np.float32(0.02), 0.02)

    def _draw_vessels(self, rng: np.random.Generator) -> None:
        """Vessels: trees that leave the hila, branch and taper; those of the bases are larger."""
        self.hila = {side: (side * 0.15 + 0.015 * self.chest.turn, -0.1 + (0.03 if side < 0 else -0.01)) for side in (-1, 1)}
        canvas = Canvas(self)
        for side in (-1, 1):
            u0, v0 = self.hila[side]
            fan = np.array([-1.45, -1.05, -0.6, -0.1, 0.35, 0.75, 1.05, 1.3]) + rng.normal(0, 0.1, 8)
            radius = np.array([0.014, 0.015, 0.012, 0.012, 0.015, 0.018, 0.019, 0.018])
            length = np.array([0.075, 0.085, 0.08, 0.07, 0.075, 0.09, 0.095, 0.095])
            trunk = _walk(rng, np.tile([0.0, v0], (8, 1)), fan, length, 6, 0.13)
            first = _walk(
                rng,
                trunk[:, 1:6].reshape(-1, 2),
                np.repeat(fan, 5) + rng.choice([-0.6, 0.6], 40),
                np.repeat(length, 5) * 0.7,
                4,
                0.15,
            )
            angle = np.repeat(fan, 5).repeat(2) + rng.normal(0, 0.7, 80)
            second = _walk(rng, first[:, 1:3].reshape(-1, 2), angle, np.repeat(length, 10) * 0.55, 3, 0.2)
            taper = np.repeat(radius, 5) * np.tile([0.62, 0.52, 0.42, 0.34, 0.26], 8)
            for points, width, shrink in (
                (second, taper.repeat(2) * 0.55, 0.55),
                (first, taper, 0.4),
                (trunk, radius, 0.25),
            ):
                points[..., 0] = side * points[..., 0] + u0
                canvas.tapered(points, width * 2, shrink)
            canvas.ellipse((u0, v0), 0.04, 0.085, 150)
        self.vessels: Map = canvas.finish(0.6) * np.float32(0.5 * self.chest.vessels)

    # The film

    def develop(self, rng: np.random.Generator) -> NDArray[np.uint8]:
        """Return the film as uint8 (size, size), dense parts bright: attenuation summed, through the film's curve, with noise."""
        chest = self.chest
        within = np.minimum(self.air * np.float32(1.6), 1)
        attenuation = self.body + self.soft + self.bone - np.float32(1.42) * self.air + self.vessels * within
        small = rng.standard_normal((2, 24, 24), dtype=np.float32)
        mottle = np.asarray(Image.fromarray(small[0]).resize((self.size, self.size), Image.Resampling.BICUBIC))
        attenuation += np.float32(0.03) * mottle * np.minimum(self.body, 1)
        shade = (attenuation - np.float32(1.12 + chest.exposure)) * np.float32(1.75 * chest.contrast)
        film = 1 / (1 + np.exp(-shade))
        film += (
            np.float32(chest.grain)
            * rng.standard_normal((self.size, self.size), dtype=np.float32)
            * (film + np.float32(0.25))
        )
        self._collimate(film)
        return (np.clip(film, 0, 1) * np.float32(255)).astype(np.uint8)

    def _collimate(self, film: Map) -> None:
        top, right, bottom, left = (round(part * self.size) for part in self.chest.collimation)
        for edge in (np.s_[:top], np.s_[self.size - bottom :], np.s_[:, :left], np.s_[:, self.size - right :]):
            film[edge] *= np.float32(0.12)


class Canvas:
    """A drawing board for shapes given by points, oversampled so that edges are smooth."""

    def __init__(self, film: Film, oversampled: int = OVERSAMPLED) -> None:
        self.film, self.oversampled = film, oversampled
        self.scale = oversampled / film.pixel * film.chest.zoom
        self.image = Image.new("L", (film.size * oversampled, film.size * oversampled))
        self.pen = ImageDraw.Draw(self.image)

    def _place(self, points: list[tuple[float, float]] | NDArray[np.floating]) -> list[tuple[float, float]]:
        placed = self.film.to_pixels(np.asarray(points, float)) * self.oversampled
        return [(x, y) for x, y in placed.tolist()]

    def polygon(self, points: list[tuple[float, float]], value: int) -> None:
        self.pen.polygon(self._place(points), fill=value)

    def line(self, points: list[tuple[float, float]] | NDArray[np.floating], width: float, value: int) -> None:
        self.pen.line(self._place(points), fill=value, width=max(1, round(width * self.scale)), joint="curve")

    def disc(self, centre: tuple[float, float], radius: float, value: int) -> None:
        self.ellipse(centre, radius, radius, value)

    def ellipse(self, centre: tuple[float, float], radius_u: float, radius_v: float, value: int) -> None:
        ((x, y),) = self._place([centre])
        ru, rv = radius_u * self.scale, radius_v * self.scale
        self.pen.ellipse((x - ru, y - rv, x + ru, y + rv), fill=value)

    def tapered(self, branches: NDArray[np.floating], widths: NDArray[np.floating], shrink: float) -> None:
        """Draw branches (n, points, 2) whose widths (n,) shrink along them to `shrink` of it; wider ones are denser."""
        placed = (self.film.to_pixels(branches) * self.oversampled).tolist()
        steps = branches.shape[1] - 1
        scale = self.scale
        for points, width in zip(placed, widths.tolist(), strict=True):
            for k in range(steps):
                now = width * (1 - (1 - shrink) * k / steps)
                value = int(min(255, 40 + 5200 * now))
                self.pen.line((*points[k], *points[k + 1]), fill=value, width=max(1, round(now * scale)))

    def finish(self, blur: float) -> Map:
        """Return the drawing as a map in [0, 1], blurred by `blur` hundredths of the image's half width."""
        image = self.image.reduce(self.oversampled)
        radius = blur * 0.01 / self.film.pixel
        return np.asarray(image.filter(ImageFilter.BoxBlur(radius)), np.float32) * np.float32(1 / 255)


def _walk(
    rng: np.random.Generator,
    start: NDArray[np.floating],
    angle: NDArray[np.floating],
    length: NDArray[np.floating],
    steps: int,
    wander: float,
) -> NDArray[np.floating]:
    """Return paths (n, steps + 1, 2) that set out at `start` (n, 2) at `angle` from the horizontal and wander."""
    angles = angle[:, None] + np.cumsum(rng.normal(0, wander, (len(angle), steps)), 1)
    moves = np.stack([np.cos(angles), np.sin(angles)], -1) * length[:, None, None]
    return np.concatenate([start[:, None], start[:, None] + np.cumsum(moves, 1)], 1)
