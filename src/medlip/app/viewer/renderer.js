// Draws a film and the maps over it into two canvases.
//
// The film is sampled once for a place and zoom; dragging the window only looks its values up in a table again. So the work of a
// frame depends on the size of the screen, not on that of the film.

import { css } from "./colours.js";
import { geometryOf } from "./geometry.js";
import { contour, paint } from "./maps.js";
import { lookUpTable, resample } from "./pixels.js";

const MOST_PIXELS = 4_000_000; // of a canvas: larger screens get a coarser one, and stay fluid

/**
 * @typedef {object} Layer a map that is drawn
 * @property map on the model's grid
 * @property {number[] | null} colour of its own, or null for the heat scale
 * @property {number} top the value that is fully coloured
 * @property {number} floor the value below which nothing is drawn
 * @property {boolean} outlined whether its edge at the floor is drawn
 */

export class Renderer {
  #filmCanvas;
  #mapCanvas;
  #sampled = { key: "", levels: null, part: null, picture: null };
  #painted = new Map();
  #overlaid = []; // what the maps' canvas shows

  constructor(filmCanvas, mapCanvas) {
    this.#filmCanvas = filmCanvas;
    this.#mapCanvas = mapCanvas;
  }

  /** Pixels of the canvas for one of the page. */
  density = 1;

  /** Give the canvases as many pixels as their place on the page has, now or after it changed. */
  fit() {
    const { clientWidth, clientHeight } = this.#filmCanvas;
    const wanted = window.devicePixelRatio || 1;
    this.density = Math.min(wanted, Math.sqrt(MOST_PIXELS / Math.max(1, clientWidth * clientHeight)));
    for (const canvas of [this.#filmCanvas, this.#mapCanvas]) {
      const width = Math.round(clientWidth * this.density);
      const height = Math.round(clientHeight * this.density);
      if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height }); // which clears it
    }
  }

  /** Where the film lies, in pixels of the page. */
  geometry(film, view) {
    return geometryOf(film, view, this.#filmCanvas.clientWidth, this.#filmCanvas.clientHeight);
  }

  /** Show nothing. */
  clear() {
    this.#overlaid = [];
    this.#sampled.key = "";
    for (const canvas of [this.#filmCanvas, this.#mapCanvas])
      canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
  }

  /** Draw the film through a window. */
  drawFilm(film, levels, view, window) {
    const canvas = this.#filmCanvas;
    const context = canvas.getContext("2d");
    const { part, picture, fresh } = this.#sample(film, levels, view);
    if (fresh) context.clearRect(0, 0, canvas.width, canvas.height);
    if (!picture) return;
    const table = lookUpTable(window, view.invert);
    const pixels = new Uint32Array(picture.data.buffer);
    const { values } = part;
    for (let k = 0; k < pixels.length; k++) pixels[k] = table[values[k]];
    context.putImageData(picture, part.x, part.y);
  }

  #sample(film, levels, view) {
    const { width, height } = this.#filmCanvas;
    const key = [view.zoom, view.x, view.y, view.flip, width, height].join();
    if (this.#sampled.key === key && this.#sampled.levels === levels) return { ...this.#sampled, fresh: false };
    const part = resample(levels, geometryOf(film, view, width, height));
    this.#sampled = { key, levels, part, picture: part.values.length ? new ImageData(part.width, part.height) : null };
    return { ...this.#sampled, fresh: true };
  }

  /**
   * Draw maps over the film, the first one lowest.
   *
   * @param {Layer[]} layers
   * @param {number} opacity in [0, 1]
   */
  drawMaps(film, layers, view, opacity) {
    const canvas = this.#mapCanvas;
    const wanted = [
      view.zoom,
      view.x,
      view.y,
      view.flip,
      canvas.width,
      canvas.height,
      opacity,
      ...layers.flatMap(Object.values),
    ];
    if (wanted.length === this.#overlaid.length && wanted.every((value, k) => value === this.#overlaid[k])) return;
    this.#overlaid = wanted;
    const context = canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    const { left, top, scale, flip } = geometryOf(film, view, canvas.width, canvas.height);
    const width = film.width * scale;
    const height = film.height * scale;
    context.imageSmoothingQuality = "high";
    for (const layer of layers) {
      const { picture, edge } = this.#paintOnce(layer);
      context.setTransform(flip ? -width : width, 0, 0, height, flip ? left + width : left, top);
      context.globalAlpha = opacity;
      context.drawImage(picture, 0, 0, 1, 1);
      if (!edge) continue;
      const outline = new Path2D();
      outline.addPath(edge, context.getTransform());
      context.setTransform(1, 0, 0, 1, 0, 0);
      context.globalAlpha = Math.min(1, 0.35 + opacity);
      context.lineJoin = context.lineCap = "round";
      context.lineWidth = 1.75 * this.density;
      context.strokeStyle = css(layer.colour ?? [255, 255, 255], layer.colour ? 1 : 0.7);
      context.stroke(outline);
    }
    this.#forget(layers);
  }

  /** Paint a map once for its colour and scale: moving and zooming draw the same picture again. */
  #paintOnce({ map, colour, top, floor, outlined }) {
    const key = [colour, top, floor, outlined].join();
    let painted = this.#painted.get(map);
    if (painted?.key !== key) {
      painted = { key, picture: paint(map, { top, floor, colour }), edge: outlined ? contour(map, floor) : null };
      this.#painted.set(map, painted);
    }
    return painted;
  }

  #forget(layers) {
    const kept = new Set(layers.map(({ map }) => map));
    for (const map of this.#painted.keys()) if (!kept.has(map)) this.#painted.delete(map);
  }
}
