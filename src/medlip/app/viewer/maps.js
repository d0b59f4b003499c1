// Small maps on the model's grid, as pictures over the film: bilinear between the grid's cells, as the Python reading enlarges them.

import { heatColour } from "./colours.js";

const RASTER = 256; // cells of a picture; the browser smooths it to the screen

/** Read a map at a place in [0, 1] x [0, 1] of the film. */
export function sample({ width, height, values }, x, y) {
  const column = Math.min(width - 1, Math.max(0, x * width - 0.5));
  const row = Math.min(height - 1, Math.max(0, y * height - 0.5));
  const left = Math.floor(column);
  const upper = Math.floor(row);
  const right = Math.min(width - 1, left + 1);
  const lower = Math.min(height - 1, upper + 1);
  const fx = column - left;
  const over = values[upper * width + left] * (1 - fx) + values[upper * width + right] * fx;
  const under = values[lower * width + left] * (1 - fx) + values[lower * width + right] * fx;
  return over * (1 - (row - upper)) + under * (row - upper);
}

/** The largest value of a map. */
export function highest({ values }) {
  return values.reduce((most, value) => Math.max(most, value), 0);
}

const enlarged = new WeakMap(); // of each map, once

function enlarge(map) {
  if (!enlarged.has(map)) {
    const out = new Float32Array(RASTER * RASTER);
    for (let y = 0, k = 0; y < RASTER; y++) {
      for (let x = 0; x < RASTER; x++, k++) out[k] = sample(map, (x + 0.5) / RASTER, (y + 0.5) / RASTER);
    }
    enlarged.set(map, out);
  }
  return enlarged.get(map);
}

/**
 * Draw a map as a picture of the whole film.
 *
 * @param map on the model's grid
 * @param {{top: number, floor: number, colour: number[] | null}} how the value that is fully coloured, the value below which
 *   nothing is drawn, and the colour; null draws the heat scale
 * @returns {HTMLCanvasElement} RASTER x RASTER, transparent where the map is low
 */
export function paint(map, { top, floor, colour }) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = RASTER;
  const context = canvas.getContext("2d");
  const picture = context.createImageData(RASTER, RASTER);
  const values = enlarge(map);
  for (let k = 0, at = 0; k < values.length; k++, at += 4) {
    const unit = Math.min(1, values[k] / Math.max(top, 1e-9));
    const [red, green, blue] = colour ?? heatColour(unit);
    picture.data[at] = red;
    picture.data[at + 1] = green;
    picture.data[at + 2] = blue;
    picture.data[at + 3] = values[k] < floor ? 0 : 255 * alpha(unit, colour !== null);
  }
  context.putImageData(picture, 0, 0);
  return canvas;
}

/** How opaque a value is: the film shows through where a map says little. */
export function alpha(unit, tinted) {
  return tinted ? 0.75 * unit : Math.min(1, 1.15 * unit ** 0.8);
}

/**
 * Return the line along which a map has a value, as a path in [0, 1] x [0, 1] of the film (marching squares).
 */
export function contour(map, level) {
  const values = enlarge(map);
  const path = new Path2D();
  for (let y = 0; y < RASTER - 1; y++) {
    for (let x = 0; x < RASTER - 1; x++) {
      const k = y * RASTER + x;
      const corners = [values[k], values[k + 1], values[k + RASTER + 1], values[k + RASTER]];
      if (corners.every((value) => value >= level) || corners.every((value) => value < level)) continue;
      const crossings = [];
      for (let side = 0; side < 4; side++) {
        const from = corners[side] - level;
        const to = corners[(side + 1) % 4] - level;
        if (from >= 0 !== to >= 0) crossings.push(onSide(x, y, side, from / (from - to)));
      }
      for (let pair = 0; pair < crossings.length; pair += 2) {
        path.moveTo(...crossings[pair]);
        path.lineTo(...crossings[pair + 1]);
      }
    }
  }
  return path;
}

/** The place at a share of a side of a square of the raster; sides go round from the upper one. */
function onSide(x, y, side, share) {
  const [dx, dy] = [
    [share, 0],
    [1, share],
    [1 - share, 1],
    [0, 1 - share],
  ][side];
  return [(x + dx + 0.5) / RASTER, (y + dy + 0.5) / RASTER];
}
