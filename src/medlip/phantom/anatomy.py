"""The phantom's normal anatomy: a chest is drawn at random, then exposed to a film, organ by organ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from medlip.phantom.film import AXIS, Canvas, Chest, Film, FrontalFilm, LookupTable, Map, Points, root, shell, step, table


def draw_chest(rng: np.random.Generator, sex: str, age: int, position: str) -> Chest:
    """Draw a normal chest of a person of this sex and age (years), taken from behind ("PA") or in front ("AP")."""

    def around(mean: float, spread: float) -> float:
        return mean + spread * min(max(rng.standard_normal(), -2.0), 2.0)

    heavy = float(rng.random()) ** 2
    right_dome = around(0.32, 0.05)
    closed = rng.random(4) < 0.15
    return Chest(
        tilt=around(0, 0.022),
        shift=(around(0, 0.03), around(-0.02, 0.04)),
        zoom=around(1.1, 0.05),
        turn=around(0, 0.5 if position == "PA" else 0.8),
        width=around(0.69 if sex == "M" else 0.665, 0.03),
        apex=around(-0.75, 0.03),
        sulcus=around(0.58, 0.03),
        domes=(right_dome, right_dome + around(0.05, 0.012)),
        dome_depth=around(0.22, 0.03),
        asymmetry=around(0, 0.015),
        heart=around(1.0 if position == "PA" else 1.05, 0.05),
        heart_level=around(0, 0.02),
        knob=around(1.0 + 0.005 * (age - 50), 0.1),
        rib_spacing=around(0.115, 0.006),
        rib_drop=around(0.22, 0.03),
        clavicle_level=around(-0.57 if position == "PA" else -0.63, 0.035),
        clavicle_slope=around(0.15, 0.06),
        fat=0.06 + 0.14 * heavy,
        breasts=float(rng.uniform(0.1, 1)) if sex == "F" else 0.0,
        arms=bool(rng.random() < 0.5),
        bone=around(1.0 - 0.004 * (age - 50), 0.1),
        vessels=around(1.0, 0.15),
        inflation=around(1.0, 0.05),
        stomach=float(rng.uniform(0, 1)),
        exposure=around(0, 0.13) + 0.1 * heavy,
        contrast=around(1.0, 0.13),
        fog=float(rng.uniform(0, 0.1)),
        grain=float(rng.uniform(0.004, 0.014)) * (1 + heavy),
        marker=bool(rng.random() < 0.6),
        collimation=tuple(np.where(closed, rng.uniform(0.01, 0.05, 4), 0.0).tolist()),
    )


def expose(chest: Chest, size: int, rng: np.random.Generator) -> FrontalFilm:
    """Return the film (size, size) of a chest without findings, not yet developed."""
    film = FrontalFilm(chest, size)
    _lungs_and_heart(film)
    _trunk(film)
    _ribs(film)
    _spine(film)
    _airways(film)
    _clavicles(film)
    _shoulders(film)
    bowel_gas(film, film.dome_table, rng)
    vessels(film, film.hila, [_minor_fissure(film)], rng)
    return film


def _lungs_and_heart(film: FrontalFilm) -> None:
    chest = film.chest
    band, base = film.band(-1.3, chest.sulcus + 0.15), film.band(min(chest.domes) - 0.05, chest.sulcus + 0.15)
    right, left = film.border_tables
    across = film.u[band] - film.rows((left + right) * np.float32(0.5), band)
    across *= film.rows(np.float32(2) / (left - right), band)
    across *= across
    heart = film.heart_chord[band] = root(1 - across)
    np.multiply(heart, film.rows(table((-0.7, -0.3, 0.1), (0.1, 0.2, 0.3)), band), out=film.soft[band])

    half_table = np.maximum((film.flank_table - film.medial_table) * np.float32(0.5), np.float32(1e-3))
    half = film.rows(half_table, band)
    from_middle = film.a[band] - film.rows(film.medial_table + half_table, band)
    np.abs(from_middle, out=from_middle)
    cavity = film.cavity[band] = film.lung[band] = step(half - from_middle, 2 * film.pixel)
    from_middle /= half
    from_middle *= from_middle
    chord = root(1 - from_middle)
    depth = np.clip(0.5 + 0.9 * film.tau_table, 0, 1) - 0.12 * np.clip(film.tau_table - 0.5, 0, 1)
    air = np.sqrt(chord, out=film.air[band])
    chord *= np.float32(0.43)
    air += chord
    air *= film.rows((0.7 * chest.inflation * depth).astype(np.float32), band)
    air *= cavity
    heart *= np.float32(-0.86 * 1.7)
    heart += 1
    air *= np.maximum(heart, np.float32(0.14), out=heart)

    above_dome = film.above_dome[base]
    front = step(above_dome, 2.5 * film.pixel)
    film.soft[base] *= front
    film.lung[base] *= front
    behind = np.float32(0.2) * np.clip(1 + above_dome * 5, 0, 1)  # some lung lies behind the dome
    film.air[base] *= front + (1 - front) * behind


def _trunk(film: FrontalFilm) -> None:
    """Draw the trunk's outline and thickness, arms and breasts."""
    chest, v = film.chest, film.v
    knots = (-1.3, -1.0, -0.86, -0.74, -0.55, -0.3, -0.05, 0.3, 0.7, 1.2)
    wall = chest.width + chest.fat
    outline = table(knots, (0.22, 0.23, 0.45, 1.02, 1.18, 1.08, wall + 0.12, wall + 0.04, wall, wall + 0.02))
    t = film.a * film.rows(np.float32(1) / outline)
    t *= t
    chord = root(1 - t)
    thick = table(knots, (1.0, 1.0, 1.1, 1.35, 1.65, 1.85, 1.95, 2.15, 2.45, 2.6))
    film.body = np.sqrt(chord)
    film.body *= np.float32(0.45)
    chord *= np.float32(0.55)
    film.body += chord
    film.body *= film.rows(thick)
    belly = film.band(min(chest.domes) - 0.1, 1.6)
    below_dome = step(-film.above_dome[belly], 3 * film.pixel)
    below_dome *= step(film.rows(film.flank_table, belly) - film.a[belly], 2 * film.pixel)
    below_dome *= np.float32(0.3)
    film.body[belly] += below_dome
    arm = table((-0.6, -0.2, 0.2, 0.6, 1.2), wall + np.array([0.25, 0.26, 0.27, 0.3, 0.36]))
    for side in (-1, 1) if chest.arms else ():
        window = film.window(side * (wall + 0.08), -0.5, side * 1.6, 1.6)
        body, middle = film.body[window], film.a[window] - film.rows(arm, window)
        lower = step(v[window] + np.float32(0.35), 0.3)
        np.maximum(body, np.float32(0.85) * lower * root(1 - (middle / np.float32(0.16)) ** 2), out=body)
        body += np.float32(0.3) * lower * shell(np.abs(middle) * np.float32(1 / 0.05), 0.3, 0.6)
    for side in (-1, 1) if chest.breasts else ():
        u0, v0, radius = side * (0.4 + 0.05 * chest.breasts), 0.16 + 0.1 * chest.breasts, 0.24 + 0.12 * chest.breasts
        window = film.window(u0 - radius, v0 - radius, u0 + radius, v0 + radius)
        du, dv = film.u[window] - np.float32(u0), v[window] - np.float32(v0)
        bump = root(1 - (du * du + dv * dv) * np.float32(1 / radius**2))
        film.body[window] += np.float32(0.34) * bump * step(dv + np.float32(0.2 * radius), radius * 1.6)


def _ribs(film: FrontalFilm) -> None:
    """Draw the ribs as tilted rings: the hind half falls from the spine to the flank, the front half on to the sternum."""
    chest, spacing = film.chest, film.chest.rib_spacing
    band = film.band(chest.apex - 0.05, 0.85)
    cage = film.flank_table + np.float32(0.025)
    inverse = film.rows(np.float32(1) / cage, band)
    fall = film.rows(rib_drop(film) * np.float32(1 / spacing), band)
    t = film.a[band] * inverse
    np.minimum(t, 1, out=t)
    squared = t * t
    cosine = 1 - squared
    np.sqrt(cosine, out=cosine)
    inverse *= fall
    inverse *= t
    inverse /= np.maximum(cosine, np.float32(0.12))
    inverse *= inverse
    inverse += np.float32(1 / spacing**2)
    steepness = np.sqrt(inverse, out=inverse)
    hind = film.v[band] - np.float32(chest.apex - 0.02)
    hind *= np.float32(1 / spacing)
    hind -= fall
    fall *= cosine
    fore = hind - fall
    hind += fall
    ribs = rib_profile(hind, steepness, 0.029, 0.28, 0.45, 10)
    squared *= squared * squared
    squared *= np.float32(0.15)
    squared += np.float32(0.27)
    ribs *= squared
    front = rib_profile(fore, steepness, 0.036, 0.35, 0.6, 7)
    weight = t * 4
    weight -= np.float32(1.7)
    np.clip(weight, 0, 1, out=weight)
    weight *= np.float32(0.19)
    weight *= (fore >= -0.5).astype(np.float32)  # no front half lies above the first
    front *= weight
    ribs += front
    t *= 3
    t -= np.float32(2.9)
    ribs += np.clip(t, 0, np.float32(0.1), out=t)  # the cage's edge, seen along the bone
    inside = np.where(film.tau_table > -0.03, cage, -1).astype(np.float32)
    ribs *= step(film.rows(inside, band) - film.a[band], 2 * film.pixel)
    ribs *= np.float32(chest.bone)
    film.ribs[band] = film.bone[band] = ribs


def rib_profile(level: Map, steepness: Map, half: float, cortex: float, inner: float, last: int) -> Map:
    """Return the bone of the ribs down to number `last`, the axis of each where `level` is its number."""
    number = np.rint(level)
    q = level - number
    np.abs(q, out=q)
    q /= steepness
    q *= np.float32(1 / half)
    profile = shell(q, cortex, inner)
    profile *= (number <= last).astype(np.float32)
    return profile


def rib_drop(film: Film) -> LookupTable:
    """Return by how much a rib falls from the spine to the flank, over v."""
    drop: LookupTable = np.float32(film.chest.rib_drop) * np.clip(0.35 + 0.9 * film.tau_table, 0.25, 1.1)
    return drop


def _spine(film: FrontalFilm) -> None:
    """Draw vertebral bodies with end plates, pedicles and spinous processes."""
    window = film.window(-0.11, -1.3, 0.11, 1.3)
    u, v = film.u[window] + np.float32(0.008 * film.chest.turn), film.v[window]
    level = (v + np.float32(1.5)) * np.float32(1 / 0.125)
    phase = level - np.floor(level) - np.float32(0.5)
    width = np.float32(0.072) + np.float32(0.016) * (phase * 2) ** 2 + np.float32(0.012) * np.clip(v, -0.5, 1)
    column = root(1 - (u / width) ** 2)
    plate_at = np.abs(phase) - np.float32(0.36)
    disc, plate = np.clip(plate_at * 9, 0, 1), np.clip(1 - np.abs(plate_at) * 18, 0, 1)
    pedicle_u = (np.abs(u) - np.float32(0.048)) * np.float32(1 / 0.02)
    pedicle = np.clip(np.float32(1.3) - pedicle_u**2 - ((phase + np.float32(0.16)) * 5) ** 2, 0, 1)
    process = np.clip(
        np.float32(1.2) - (u * np.float32(1 / 0.016)) ** 2 - ((phase - np.float32(0.2)) * np.float32(4.5)) ** 2, 0, 1
    )
    amount = np.sqrt(column) * (np.float32(0.34) - np.float32(0.12) * disc + np.float32(0.1) * plate)
    amount += (np.float32(0.1) * pedicle + np.float32(0.08) * process) * (column > 0)
    film.bone[window] += amount * np.float32(film.chest.bone)


def _airways(film: FrontalFilm) -> None:
    """Draw trachea and main bronchi; the right one is steeper."""
    window = film.window(-0.3, -1.3, 0.3, 0.05)
    u, v = film.u[window] - np.float32(film.carina[0]), film.v[window]
    below = np.maximum(v - np.float32(film.carina[1] - 0.03), 0)
    spread = np.where(u < 0, np.float32(0.7), np.float32(1.1)) * below
    half = np.float32(0.038) - np.float32(0.03) * np.minimum(below * 4, 1)
    tube = root(1 - ((np.abs(u) - spread) / half) ** 2)
    film.soft[window] -= np.float32(0.6) * tube * np.clip(1 - below * 5, 0, 1)


def _clavicles(film: FrontalFilm) -> None:
    chest = film.chest
    for side in (-1, 1):
        top, bottom = chest.clavicle_level - max(chest.clavicle_slope, 0) - 0.09, chest.clavicle_level + 0.11
        window = film.window(0, top, side, bottom)
        run = (film.u[window] * side - np.float32(0.03 * chest.turn * side + 0.085)) * np.float32(1 / 0.75)
        line = (
            chest.clavicle_level - np.float32(chest.clavicle_slope) * run - np.float32(0.03) * np.sin(run * np.float32(6.3))
        )
        half = np.float32(0.03) + np.float32(0.018) * np.clip(1 - 6 * run, 0, 1)
        bone = shell(np.abs(film.v[window] - line) / half, 0.28, 0.5)
        bone *= np.float32(0.4 * chest.bone) * step(run, 0.03) * step(1 - run, 0.03)
        film.clavicles[window] += bone
        film.bone[window] += bone


def _shoulders(film: FrontalFilm) -> None:
    """Draw scapulae and humeri."""
    level, edge = film.chest.clavicle_level - 0.06, film.chest.width
    blade = np.array([(-0.02, 0.06), (-0.08, 0.28), (0.02, 0.72), (0.09, 0.62), (0.22, 0.14), (0.1, -0.02)])
    ridge = np.array([(-0.06, 0.2), (0.2, -0.05), (0.3, -0.06)])
    border = np.array([(-0.02, 0.06), (-0.08, 0.28), (0.02, 0.72), (0.07, 0.64), (0.2, 0.16)])
    humerus = np.array([(0.34, 0.06), (0.43, 0.75)])
    for side in (-1, 1):
        canvas = Canvas(film, film.window(side * (edge - 0.15), level - 0.15, side * 1.3, level + 0.8), oversampled=1)
        origin, mirror = np.array([edge, level]), np.array([side, 1])
        canvas.polygon((blade + origin) * mirror, 55)
        for part, width, value in ((border, 0.022, 120), (ridge, 0.03, 110), (humerus, 0.11, 105)):
            canvas.line((part + origin) * mirror, width, value)
        canvas.ellipse((side * (edge + 0.33), level + 0.06), 0.125, 0.125, 130)
        canvas.add_to(film.bone, 0.6 * film.chest.bone, 0.014)


def bowel_gas(film: Film, dome: LookupTable, rng: np.random.Generator, shift: float = 0.0) -> None:
    """Draw the gastric bubble under a dome (heights over u), with its fluid level, and gas in the bowel, `shift` along u."""
    full = film.chest.stomach
    bubbles = [(rng.uniform(0.25, 0.42), 0.05 + 0.06 * full, rng.uniform(0.1, 0.18), 0.05 + 0.06 * full, 0.75 * full)]
    bubbles += [
        (rng.uniform(0.15, 0.5), rng.uniform(0.2, 0.55), rng.uniform(0.04, 0.1), rng.uniform(0.03, 0.08), 0.5)
        for _ in range(3)
    ]
    for u, below, wide, tall, depth in bubbles:
        u += shift
        v = float(np.interp(u, AXIS, dome)) + 0.035 + below
        window = film.window(u - wide, v - tall, u + wide, v + tall)
        du, dv = (film.u[window] - np.float32(u)) / np.float32(wide), (film.v[window] - np.float32(v)) / np.float32(tall)
        gas = np.sqrt(root(1 - du * du - dv * dv)) * step(np.float32(0.35) - dv, 0.25)
        below_dome = film.v[window] - film.columns(dome, window)
        film.soft[window] -= np.float32(depth) * gas * step(below_dome - np.float32(0.02), 0.02)


# Trunks that leave a hilum: angle from the horizontal (down is positive), half width, length of a step.
_TRUNKS = np.array(
    [
        (-1.5, 0.012, 0.07), (-1.15, 0.014, 0.08), (-0.75, 0.012, 0.08), (-0.25, 0.01, 0.07), (0.2, 0.012, 0.075),
        (0.6, 0.015, 0.085), (0.95, 0.018, 0.09), (1.25, 0.02, 0.095), (1.5, 0.014, 0.09),
    ]
)  # fmt: skip


def vessels(
    film: Film, hila: Mapping[int, tuple[float, float]], fissures: Sequence[Points], rng: np.random.Generator
) -> None:
    """Draw vessels, trees that leave the hila to either side, branch and taper, larger to the bases; at times fissures."""
    canvas = Canvas(film, film.window(-film.chest.width, film.chest.apex, film.chest.width, film.chest.sulcus))
    count = len(_TRUNKS)
    for side in (-1, 1):
        hilum = hila[side]
        angle, width, length = (_TRUNKS * (1 + rng.normal(0, 0.1, (count, 3)))).T
        start = np.stack([np.zeros(count), rng.normal(0, 0.03, count) + 0.03 * np.sign(angle)], -1)
        trunks, headings = _walk(rng, start, angle + rng.normal(0, 0.1, count), length, 6)
        forks = np.repeat([-1.0, 1.0, -1.0, 1.0, -1.0], count) * rng.uniform(0.35, 0.9, 5 * count)
        boughs, bough_headings = _walk(
            rng, _along(trunks, 1, 6), _flat(headings[:, 1:6]) + forks, np.tile(length * 0.66, 5), 4
        )
        inner = boughs[: 2 * count]
        forks = (2.0 * rng.integers(0, 2, len(inner)) - 1) * rng.uniform(0.3, 0.9, len(inner))
        twigs, _ = _walk(rng, inner[:, 2], bough_headings[: 2 * count, 1] + forks, np.tile(length * 0.5, 2), 3)
        for paths in (twigs, boughs, trunks):
            paths *= (side, 1)
            paths += hilum
        taper = np.repeat([0.66, 0.56, 0.47, 0.39, 0.3], count) * np.tile(width, 5)
        canvas.branches(twigs, taper[: 2 * count] * 0.8)
        canvas.branches(boughs, taper * 1.2)
        parts = np.concatenate([trunks[:, 4:], trunks[:, 2:5], trunks[:, :3]])
        canvas.branches(parts, np.concatenate([width * 0.9, width * 1.45, width * 2.0]))
        canvas.ellipse(hilum, 0.035, 0.08, 140)
    if rng.random() < 0.5:  # seen on edge
        for points in fissures:
            canvas.line(points, 0.006, 110)
    canvas.add_to(film.vessels, 0.6 * film.chest.vessels, 0.007)


def _minor_fissure(film: FrontalFilm) -> Points:
    run = np.linspace(0.15, 1.0, 8).tolist()
    return np.array([film.in_lung(-1, 0.43 + 0.03 * sigma - 0.06 * sigma * sigma, sigma) for sigma in run])


def _walk(rng: np.random.Generator, start: Points, angle: Points, length: Points, steps: int) -> tuple[Points, Points]:
    """Return paths (n, steps + 1, 2) from `start` (n, 2) that bend and wander, and their headings (n, steps)."""
    bend = rng.normal(0, 0.1, (len(angle), 1)) + rng.normal(0, 0.13, (len(angle), steps))
    headings = angle[:, None] + np.cumsum(bend, 1)
    moves = np.stack([np.cos(headings), np.sin(headings)], -1) * length[:, None, None]
    return np.concatenate([start[:, None], start[:, None] + np.cumsum(moves, 1)], 1), headings


def _along(paths: Points, first: int, last: int) -> Points:
    """Return the points `first` to `last` - 1 of paths (n, points, 2), point by point, as (n x points, 2)."""
    return np.ascontiguousarray(paths[:, first:last].swapaxes(0, 1)).reshape(-1, 2)


def _flat(headings: Points) -> Points:
    return headings.T.ravel()
