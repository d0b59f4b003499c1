"""The phantom's film: where every pixel lies in the chest, maps of thickness along the ray, and tools to draw on them.

Coordinates: on a frontal film u runs to the patient's left (to the right of the image, as films are hung), on a lateral one
to the back; v runs down on both. They are in half image widths from the middle of the chest, so that an unmoved chest fills
about [-1, 1] x [-1, 1]. A side is -1 (the patient's right) or 1 (left).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.interpolate import CubicSpline

Map = NDArray[np.float32]
LookupTable = NDArray[np.float32]
Region = NDArray[np.bool_]
Points = NDArray[np.float64]
Window = tuple[slice, slice]

TABLE_FROM, TABLE_TO, TABLE_STEPS = -1.6, 1.6, 1024
AXIS: LookupTable = np.linspace(TABLE_FROM, TABLE_TO, TABLE_STEPS, dtype=np.float32)


@dataclass(slots=True)
class Chest:
    """One person's chest, how it stands before the detector, and the exposure; findings reshape it before it is drawn.

    Lengths are in half image widths; `domes` are the heights of the diaphragm's (right, left) domes, `depth` is that of the
    lungs as a share of their width.
    """

    tilt: float
    shift: tuple[float, float]
    zoom: float
    turn: float
    width: float
    apex: float
    sulcus: float
    domes: tuple[float, float]
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
    fog: float
    grain: float
    marker: bool
    collimation: tuple[float, ...]
    depth: float = 0.68

    @property
    def height(self) -> float:
        """From the lungs' apex to the costophrenic sulcus."""
        return self.sulcus - self.apex


def step(distance: Map, blur: float) -> Map:
    """Return 0 outside (distance < 0), 1 inside, with a linear edge `blur` wide."""
    edge = distance * np.float32(1 / blur)
    edge += np.float32(0.5)
    return np.clip(edge, 0, 1, out=edge)


def root(squared: Map) -> Map:
    """Return the half chord of a unit circle from 1 - t^2; 0 outside."""
    chord = np.maximum(squared, 0)
    return np.sqrt(chord, out=chord)


def shell(q: Map, cortex: float, inner: float) -> Map:
    """Return the profile of a bone with a dense cortex, `q` being the distance from its axis in half widths."""
    profile = 1 - q
    profile *= np.float32(1 / cortex)
    np.clip(profile, 0, 1, out=profile)
    weight = q * q
    weight *= np.float32(1 - inner)
    weight += np.float32(inner)
    profile *= weight
    return profile


def table(knots: tuple[float, ...], values: Sequence[float] | NDArray[np.floating]) -> LookupTable:
    """Return a smooth curve through `values` at `knots`, sampled along the axis; constant beyond the ends."""
    return _spline_basis(knots) @ np.asarray(values, np.float32)


@lru_cache(maxsize=16)
def _spline_basis(knots: tuple[float, ...]) -> Map:
    spline = CubicSpline(np.array(knots), np.eye(len(knots)), bc_type="natural")
    return np.asarray(spline(np.clip(AXIS, knots[0], knots[-1])), np.float32)


@lru_cache(maxsize=8)
def _grid(size: int) -> tuple[Map, Map]:
    centre = ((np.arange(size) + 0.5) * (2 / size) - 1).astype(np.float32)
    return centre[None, :], centre[:, None]


class Film:
    """The maps of one exposure, each (size, size), whatever the direction of its rays.

    Attributes:
        u, v: coordinates of every pixel; `a` is |u|.
        tau_table: height in the lungs over v: 0 at the apex, 1 in the costophrenic sulcus.
        cavity: 1 within the rib cage, in front of, behind and beside the diaphragm too.
        lung: 1 in the lungs above the diaphragm, 0 elsewhere.
        heart_chord: thickness of heart and mediastinum, 0 to 1.
        air: what is left of the lungs' air along the ray, about 1 in a normal lung.
        vessels: the lungs' vessels; they show where there is air.
        body, soft, bone: the trunk, soft tissue and fluid added to it, bone and metal.
    """

    def __init__(self, chest: Chest, size: int) -> None:
        self.chest, self.size, self.pixel = chest, size, 2 / size
        x, y = _grid(size)
        self._cosine, self._sine = math.cos(chest.tilt) * chest.zoom, math.sin(chest.tilt) * chest.zoom
        cosine, sine = (np.float32(part / chest.zoom**2) for part in (self._cosine, self._sine))
        dx, dy = x - np.float32(chest.shift[0]), y - np.float32(chest.shift[1])
        self.v: Map = cosine * dy - sine * dx
        self.u: Map = cosine * dx + sine * dy
        self.u += np.float32(chest.asymmetry) * np.abs(self.u)  # one side is a little wider than the other
        self.a: Map = np.abs(self.u)
        self._rows, self._columns = _positions(self.v), _positions(self.u)
        self.tau_table: LookupTable = (AXIS - np.float32(chest.apex)) / np.float32(chest.height)
        self.cavity, self.lung, self.heart_chord = self.blank(), self.blank(), self.blank()
        self.air, self.vessels = self.blank(), self.blank()
        self.body, self.soft, self.bone = self.blank(), self.blank(), self.blank()

    def blank(self) -> Map:
        """Return a map of zeros."""
        return np.zeros((self.size, self.size), np.float32)

    def rows(self, values: LookupTable, window: Window | None = None) -> Map:
        """Look a table over v up for every pixel (of the window)."""
        return values.take(self._rows if window is None else self._rows[window])

    def columns(self, values: LookupTable, window: Window | None = None) -> Map:
        """Look a table over u up for every pixel (of the window)."""
        return values.take(self._columns if window is None else self._columns[window])

    def to_pixels(self, points: Points) -> Points:
        """Turn chest coordinates (..., 2) as (u, v) into pixels (..., 2) as (x, y)."""
        u, v = points[..., 0], points[..., 1]
        u = u - self.chest.asymmetry * np.abs(u)
        placed = np.empty(points.shape)
        placed[..., 0] = self._cosine * u - self._sine * v + (1 + self.chest.shift[0])
        placed[..., 1] = self._sine * u + self._cosine * v + (1 + self.chest.shift[1])
        placed *= 1 / self.pixel
        return placed

    def window(self, u0: float, v0: float, u1: float, v1: float) -> Window:
        """Return the slices (rows, columns) that hold the rectangle between two corners."""
        cosine, sine, (right, down) = self._cosine, self._sine, self.chest.shift
        u0, u1 = u0 - self.chest.asymmetry * abs(u0), u1 - self.chest.asymmetry * abs(u1)
        columns = self._span(right, cosine * u0, cosine * u1, -sine * v0, -sine * v1)
        return self._span(down, cosine * v0, cosine * v1, sine * u0, sine * u1), columns

    def _span(self, shift: float, a0: float, a1: float, b0: float, b1: float) -> slice:
        """Return the pixels along one axis from the least to the greatest sum of an `a`, a `b` and the shift."""
        low, high = (a0, a1) if a0 < a1 else (a1, a0)
        low, high = (low + b0, high + b1) if b0 < b1 else (low + b1, high + b0)
        first, last = math.floor((low + 1 + shift) / self.pixel), math.ceil((high + 1 + shift) / self.pixel)
        return slice(min(max(first, 0), self.size), min(max(last + 1, 0), self.size))

    def band(self, top: float, bottom: float) -> Window:
        """Return the rows that hold the lungs between two heights, whole: cropped ones are slower to work on."""
        wall = self.chest.width + 0.05
        return self.window(-wall, top, wall, bottom)[0], slice(0, self.size)

    @property
    def everywhere(self) -> Window:
        """The whole film as a window."""
        return slice(0, self.size), slice(0, self.size)

    def scale_air(self, window: Window, factor: Map, side: int) -> None:
        """Multiply the air in a window by a factor; `side` tells the lungs apart where one lies behind the other."""
        self.air[window] *= factor

    def mask(self, window: Window, region: Region) -> Region:
        """Return a region of a window as a mask of the whole film."""
        mask = np.zeros((self.size, self.size), bool)
        mask[window] = region
        return mask

    def field(self) -> Window:
        """Return the part of the film that the collimator leaves open."""
        top, right, bottom, left = (round(share * self.size) for share in self.chest.collimation)
        return slice(top, self.size - bottom), slice(left, self.size - right)

    def develop(self, rng: np.random.Generator) -> NDArray[np.uint8]:
        """Return the film as uint8 (size, size), dense parts bright: summed attenuation through its curve, with noise."""
        chest, size = self.chest, self.size
        white, mottle = _noise_fields(size)
        shade = self.body + self.soft
        shade += self.bone
        shade -= np.float32(1.42) * self.air
        seen = self.air * np.float32(1.6)
        shade += np.multiply(self.vessels, np.minimum(seen, 1, out=seen), out=seen)
        texture = np.minimum(self.body, 1)
        texture += np.float32(0.8) * self.lung
        shade += np.multiply(texture, _piece(mottle, size, rng), out=texture)
        shade -= np.float32(1.12 + chest.exposure)
        shade *= np.float32(-1.75 * chest.contrast)
        np.exp(shade, out=shade)
        shade += 1
        np.reciprocal(shade, out=shade)
        grain = _piece(white, size, rng) * np.float32(chest.grain)
        grain *= shade + np.float32(0.3)
        shade += grain
        shade *= np.float32(255 * (0.97 - chest.fog))
        shade += np.float32(255 * chest.fog)
        if chest.marker:
            self._mark(shade)
        field = self.field()
        exposed = np.full((size, size), 5, np.uint8)
        exposed[field] = np.clip(shade[field], 0, 255)
        return exposed

    def _mark(self, film: Map) -> None:
        """Lay a letter L beside the patient's left shoulder."""
        x, y, tall, thick = (round(part * self.size) for part in (0.91, 0.07, 0.05, 0.009))
        film[y : y + tall, x : x + thick] = 255
        film[y + tall - thick : y + tall, x : x + tall // 2] = 255


class FrontalFilm(Film):
    """A film whose rays run from back to front (or front to back); the anatomy is drawn by `anatomy.expose`.

    Attributes:
        above_dome: distance above the diaphragm.
        ribs, clavicles: their share of `bone`.
        carina, hila: where the trachea divides, and the middle of each hilum by side.
    """

    def __init__(self, chest: Chest, size: int) -> None:
        super().__init__(chest, size)
        self._shape()
        self.above_dome = self.columns(self.dome_table)
        self.above_dome -= self.v
        self.ribs, self.clavicles = self.blank(), self.blank()
        self.carina = (0.02 * chest.turn - 0.012, -0.2)
        self.hila = {side: (0.165 * side + 0.015 * chest.turn, -0.1 - 0.02 * side) for side in (-1, 1)}

    def side_window(self, side: int, top: float, bottom: float) -> Window:
        """Return the window of one side of the chest between two heights."""
        return self.window(0, top, side * 1.1, bottom)

    def flank(self, v: float) -> float:
        """Return the lungs' outer edge |u| at height v."""
        return float(np.interp(v, AXIS, self.flank_table))

    def dome(self, u: float) -> float:
        """Return the height v of the diaphragm at u."""
        return float(np.interp(u, AXIS, self.dome_table))

    def in_lung(self, side: int, tau: float, sigma: float) -> tuple[float, float]:
        """Return a lung's point (u, v) at relative height (0 apex, 1 sulcus) and depth (0 mediastinum, 1 chest wall)."""
        v = self.chest.apex + tau * self.chest.height
        border = side * float(np.interp(v, AXIS, self.border_tables[(side + 1) // 2]))
        medial = max(border, float(np.interp(v, AXIS, self.medial_table)))
        return side * (medial + sigma * (self.flank(v) - medial)), v

    def clavicle(self, side: int, run: float) -> tuple[float, float]:
        """Return the point (u, v) on a clavicle's axis, `run` from 0 at the sternum to 1 at the shoulder."""
        u = side * (0.085 + 0.75 * run) + 0.03 * self.chest.turn
        return u, self.chest.clavicle_level - self.chest.clavicle_slope * run - 0.03 * float(np.sin(6.3 * run))

    def _shape(self) -> None:
        """Tabulate the outlines of lungs and mediastinum over v, and of the diaphragm over u."""
        chest = self.chest
        below = 1 - np.clip(self.tau_table, 0, 1)
        outside = self.tau_table < 0
        self.flank_table = np.where(outside, 0.02, 0.25 + (chest.width - 0.25) * (1 - below**2.7) ** 0.52).astype(np.float32)
        self.medial_table = np.where(outside, 5, 0.24 - 0.19 * (1 - below**9) ** 0.5).astype(np.float32)
        self.dome_table = dome_table(chest, chest.domes)
        self.border_tables = self._borders()

    def _borders(self) -> tuple[LookupTable, LookupTable]:
        """Return the right (negative u) and left borders of mediastinum and heart over v."""
        chest = self.chest
        knots = (-1.0, -0.72, -0.55, -0.42, -0.33, -0.24, -0.15, -0.05, 0.07, 0.2, 0.33, 0.45, 0.6)
        right = np.array([0.09, 0.10, 0.125, 0.135, 0.14, 0.135, 0.135, 0.155, 0.2, 0.23, 0.22, 0.17, 0.1])
        left = np.array([0.09, 0.105, 0.125, 0.165, 0.19, 0.165, 0.15, 0.175, 0.255, 0.345, 0.405, 0.40, 0.27])
        heart = np.array([0, 0, 0, 0, 0, 0, 0.15, 0.5, 0.85, 1, 1, 1, 1]) * (chest.heart - 1)
        knob = np.array([0, 0, 0.15, 0.8, 1, 0.6, 0.15, 0, 0, 0, 0, 0, 0]) * (chest.knob - 1)
        turn = 0.02 * chest.turn
        borders = np.stack(
            [table(knots, turn - right * (1 + 0.8 * heart)), table(knots, turn + left * (1 + heart + 0.6 * knob))]
        )
        moved = np.roll(borders, round(chest.heart_level * (TABLE_STEPS - 1) / (TABLE_TO - TABLE_FROM)), axis=1)
        return moved[0], moved[1]


def dome_table(chest: Chest, domes: tuple[float, float]) -> LookupTable:
    """Return the height v of the diaphragm over u, for domes of these heights."""
    a, peak = np.abs(AXIS), 0.34
    outward = np.clip((a - peak) / (chest.width + 0.02 - peak), 0, 1)
    inward = np.clip((peak - a) / peak, 0, 1)
    drop = chest.dome_depth * (1.2 * (1 - np.sqrt(1 - 0.98 * outward**2.2)) + 0.35 * inward**2)
    left = np.clip(0.5 + AXIS / 0.24, 0, 1)
    left = left * left * (3 - 2 * left)
    heights: LookupTable = domes[0] * (1 - left) + domes[1] * left + drop
    return heights.astype(np.float32)


@lru_cache(maxsize=4)
def _noise_fields(size: int) -> tuple[Map, Map]:
    """Return large fields of white noise and of mottle: drawing them afresh would be the slowest part of a film."""
    rng, wide = np.random.default_rng(size), 4 * size
    white = rng.standard_normal((wide, wide))
    whole = (slice(0, wide), slice(0, wide))
    return white.astype(np.float32), np.float32(0.025) * (noise(rng, whole, 80) + noise(rng, whole, 360))


def _piece(field: Map, size: int, rng: np.random.Generator) -> Map:
    row, column = rng.integers(0, len(field) - size, 2).tolist()
    return field[row : row + size, column : column + size]


def _positions(values: Map) -> NDArray[np.intp]:
    """Return where values lie in a table; a film never reaches beyond its ends."""
    scale = (TABLE_STEPS - 1) / (TABLE_TO - TABLE_FROM)
    positions = values * np.float32(scale)
    positions += np.float32(0.5 - TABLE_FROM * scale)
    return positions.astype(np.intp)


class Canvas:
    """A drawing board over a window of a film, for shapes given by points (n, 2) in chest coordinates."""

    def __init__(self, film: Film, window: Window, oversampled: int = 2) -> None:
        self._film, self._window, self._oversampled = film, window, oversampled
        self._scale = oversampled / film.pixel * film.chest.zoom
        rows, columns = window
        self._corner = np.array([columns.start, rows.start], np.float64)
        self._image = Image.new("L", ((columns.stop - columns.start) * oversampled, (rows.stop - rows.start) * oversampled))
        self._pen = ImageDraw.Draw(self._image)

    def polygon(self, points: Points, value: int = 255) -> None:
        """Fill a polygon."""
        self._pen.polygon(self._place(points), fill=value)

    def line(self, points: Points, width: float, value: int = 255) -> None:
        """Draw a line of this width through points."""
        self._pen.line(self._place(points), fill=value, width=max(1, round(width * self._scale)), joint="curve")

    def ellipse(self, centre: tuple[float, float], radius_u: float, radius_v: float, value: int = 255) -> None:
        """Fill an upright ellipse."""
        x, y = self._place(np.array([centre]))
        ru, rv = radius_u * self._scale, radius_v * self._scale
        self._pen.ellipse((x - ru, y - rv, x + ru, y + rv), fill=value)

    def branches(self, paths: Points, widths: Points) -> None:
        """Draw paths (n, points, 2) of the given widths (n,); the wider, the denser."""
        placed = ((self._film.to_pixels(paths) - self._corner) * self._oversampled).reshape(len(paths), -1).tolist()
        thickness = np.maximum(np.round(widths * self._scale), 1).astype(int).tolist()
        values = np.minimum(40 + 5000 * widths, 255).astype(int).tolist()
        for points, width, value in zip(placed, thickness, values, strict=True):
            self._pen.draw.draw_lines(points, value, width)  # what `line` comes to, without its checks

    def add_to(self, target: Map, amount: float, blur: float, within: Map | None = None) -> None:
        """Add the drawing, from 0 to `amount`, to a map of the film; blurred over this radius, times the map `within`."""
        image = self._image if self._oversampled == 1 else self._image.reduce(self._oversampled)
        drawn = _blurred(np.asarray(image), blur / self._film.pixel)
        drawn *= np.float32(amount / 255)
        if within is not None:
            drawn *= within[self._window]
        target[self._window] += drawn

    def region(self) -> Region:
        """Return where anything was drawn, as a mask of the film; the board must not be oversampled."""
        return self._film.mask(self._window, np.asarray(self._image) > 0)

    def _place(self, points: Points) -> list[float]:
        placed: list[float] = ((self._film.to_pixels(points) - self._corner) * self._oversampled).ravel().tolist()
        return placed


def _blurred(drawn: NDArray[np.uint8], radius: float) -> Map:
    """Return a drawing averaged over a box of this radius in pixels, its edges drawn on."""
    reach, rest = int(radius) + 1, np.float32(radius % 1)
    height, width = drawn.shape
    padded = np.empty((height + 2 * reach, width + 2 * reach), np.float32)
    padded[reach:-reach, reach:-reach] = drawn
    padded[:reach], padded[-reach:] = padded[reach], padded[-reach - 1]
    padded[:, :reach], padded[:, -reach:] = padded[:, [reach]], padded[:, [-reach - 1]]
    mean = padded.ravel()
    for stride in (padded.shape[1], 1):  # down, then across: what runs over a row's end stays in the margin
        parts = [mean[k * stride : mean.size - (2 * reach - k) * stride] for k in range(2 * reach + 1)]
        mean = parts[0] + parts[-1]
        mean *= rest
        for part in parts[1:-1]:
            mean += part
    mean *= np.float32((2 * radius + 1) ** -2)
    rows = np.empty((height, padded.shape[1]), np.float32)
    rows.ravel()[: mean.size] = mean
    return rows[:, :width]


def noise(rng: np.random.Generator, window: Window, cells: int) -> Map:
    """Return smooth noise over a window: about normal, with `cells` lumps along each edge."""
    rows, columns = (max(part.stop - part.start, 0) for part in window)
    lumps = Image.fromarray(rng.standard_normal((cells, cells), dtype=np.float32))
    return np.asarray(lumps.resize((max(columns, 1), max(rows, 1)), Image.Resampling.BILINEAR))[:rows, :columns]


def disc(film: Film, u: float, v: float, radius: float) -> tuple[Window, Map]:
    """Return the window around a disc and each pixel's squared distance from its middle, in radii."""
    window = film.window(u - radius, v - radius, u + radius, v + radius)
    du, dv = film.u[window] - np.float32(u), film.v[window] - np.float32(v)
    return window, (du * du + dv * dv) * np.float32(1 / radius**2)


def blob(
    film: Film, rng: np.random.Generator, centre: tuple[float, float], wide: float, tall: float, *, rough: float, blur: float
) -> tuple[Window, Map]:
    """Return the window around a lumpy ellipse and its weight: 1 inside, 0 outside, 0.5 at the edge."""
    u, v = centre
    wider, taller = wide * (1 + rough + blur), tall * (1 + rough + blur)
    window = film.window(u - wider, v - taller, u + wider, v + taller)
    du, dv = (film.u[window] - np.float32(u)) / np.float32(wide), (film.v[window] - np.float32(v)) / np.float32(tall)
    distance: Map = np.sqrt(du * du + dv * dv) + np.float32(rough) * noise(rng, window, 7)
    return window, step(1 - distance, blur)


def smooth(points: Sequence[tuple[float, float]]) -> Points:
    """Round the corners of a path by cutting them, three times."""
    path = np.array(points, np.float64)
    for _ in range(3):
        cut = np.stack([0.75 * path[:-1] + 0.25 * path[1:], 0.25 * path[:-1] + 0.75 * path[1:]], 1).reshape(-1, 2)
        path = np.concatenate([path[:1], cut, path[-1:]])
    return path
