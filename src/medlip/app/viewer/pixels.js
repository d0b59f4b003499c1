// A film's pixels: 16 bits, never fewer, and the same film at halves of its size, so that a small view of it is smooth.

/**
 * @typedef {object} Film pixels as the server sends them
 * @property {number} width
 * @property {number} height
 * @property {Uint16Array} values row by row
 * @property {number} top the largest value that the pixels may have: 255, 4095, 65535 …
 * @property {{center: number, width: number}} window as the file says, in the pixels' own units
 */

// Between two pixels there are 128 steps: with 16 bits, and in two directions, sums stay below 2 ** 31, which is quick.
const ONE = 128;
const SHIFT = 14;
const HALF = 1 << (SHIFT - 1);

/** Return the film at its own size, a half, a quarter … down to about 64 pixels. */
export function pyramid({ width, height, values }) {
  const levels = [{ width, height, values }];
  while (Math.min(levels.at(-1).width, levels.at(-1).height) > 128) levels.push(halve(levels.at(-1)));
  return levels;
}

function halve({ width, height, values }) {
  const w = width >> 1;
  const h = height >> 1;
  const half = new Uint16Array(w * h);
  for (let y = 0; y < h; y++) {
    const above = 2 * y * width;
    const below = above + width;
    for (let x = 0; x < w; x++) {
      const k = 2 * x;
      half[y * w + x] = (values[above + k] + values[above + k + 1] + values[below + k] + values[below + k + 1] + 2) >> 2;
    }
  }
  return { width: w, height: h, values: half };
}

/**
 * Sample a film where a view shows it.
 *
 * @param levels of `pyramid`
 * @param geometry of `geometryOf`: where the film lies on the screen
 * @returns {{x: number, y: number, width: number, height: number, values: Uint16Array}} the part of the screen that the film
 *   covers, with the film's values between its pixels, not yet windowed: interpolation comes before the window
 */
export function resample(levels, geometry) {
  const { scale, flip, left, top, width: filmWidth, height: filmHeight, screenWidth, screenHeight } = geometry;
  const x0 = Math.max(0, Math.ceil(left - 0.5));
  const y0 = Math.max(0, Math.ceil(top - 0.5));
  const x1 = Math.min(screenWidth, Math.floor(left + filmWidth * scale + 0.5));
  const y1 = Math.min(screenHeight, Math.floor(top + filmHeight * scale + 0.5));
  const width = Math.max(0, x1 - x0);
  const height = Math.max(0, y1 - y0);
  const out = new Uint16Array(width * height);
  const depth = Math.min(levels.length - 1, Math.max(0, Math.round(-Math.log2(scale))));
  const level = levels[depth];
  const columns = positions(x0, width, left, filmWidth * scale, level.width, flip);
  const rows = positions(y0, height, top, filmHeight * scale, level.height, false);
  const source = level.values;
  const { first: near, second: far, share } = columns;
  for (let y = 0, k = 0; y < height; y++) {
    const upper = rows.first[y] * level.width;
    const lower = rows.second[y] * level.width;
    const below = rows.share[y];
    const above = ONE - below;
    for (let x = 0; x < width; x++, k++) {
      const a = near[x];
      const b = far[x];
      const beyond = share[x];
      const before = ONE - beyond;
      const over = source[upper + a] * before + source[upper + b] * beyond;
      const under = source[lower + a] * before + source[lower + b] * beyond;
      out[k] = (over * above + under * below + HALF) >> SHIFT;
    }
  }
  return { x: x0, y: y0, width, height, values: out };
}

/** Between which two pixels of a film each pixel of the screen lies, along one axis. */
function positions(start, count, offset, length, size, mirrored) {
  const first = new Int32Array(count);
  const second = new Int32Array(count);
  const share = new Int32Array(count);
  for (let k = 0; k < count; k++) {
    let unit = (start + k + 0.5 - offset) / length;
    if (mirrored) unit = 1 - unit;
    const at = Math.min(size - 1, Math.max(0, unit * size - 0.5));
    first[k] = Math.floor(at);
    second[k] = Math.min(size - 1, first[k] + 1);
    share[k] = Math.round((at - first[k]) * ONE);
  }
  return { first, second, share };
}

/** Grey of every value as a pixel of a canvas: a linear window, rounded only here. */
export function lookUpTable({ center, width }, invert) {
  const table = new Uint32Array(1 << 16);
  const low = center - width / 2;
  const factor = 255 / Math.max(width, 1e-6);
  for (let value = 0; value < table.length; value++) {
    const grey = Math.round(Math.min(255, Math.max(0, (value - low) * factor)));
    table[value] = ((invert ? 255 - grey : grey) * 0x010101) | 0xff000000;
  }
  return table;
}
