// Where a film lies on the screen, and which place of it is under the pointer.

export const MOST_ZOOM = 24;
export const WHOLE = Object.freeze({ zoom: 1, x: 0.5, y: 0.5, flip: false, invert: false });

/**
 * Return where a film lies on the screen.
 *
 * @param {{width: number, height: number}} film
 * @param view zoom (1 shows all of it), x and y: the place of the film, in [0, 1], in the middle of the screen; flip
 * @param {number} screenWidth in pixels of the canvas
 * @param {number} screenHeight in pixels of the canvas
 */
export function geometryOf(film, view, screenWidth, screenHeight) {
  const scale = Math.min(screenWidth / film.width, screenHeight / film.height) * view.zoom;
  const x = view.flip ? 1 - view.x : view.x;
  return {
    scale,
    flip: view.flip,
    left: screenWidth / 2 - x * film.width * scale,
    top: screenHeight / 2 - view.y * film.height * scale,
    width: film.width,
    height: film.height,
    screenWidth,
    screenHeight,
  };
}

/** Return the place of the film, in [0, 1], under a point of the screen; it may lie outside. */
export function placeAt({ scale, flip, left, top, width, height }, screenX, screenY) {
  const x = (screenX - left) / (width * scale);
  return { x: flip ? 1 - x : x, y: (screenY - top) / (height * scale) };
}

/** Return the point of the screen at which a place of the film lies. */
export function pointOf({ scale, flip, left, top, width, height }, { x, y }) {
  return { x: left + (flip ? 1 - x : x) * width * scale, y: top + y * height * scale };
}

/** Zoom by a factor so that the place under a point of the screen stays under it. */
export function zoomAt(film, view, factor, screenX, screenY, screenWidth, screenHeight) {
  const zoom = Math.min(MOST_ZOOM, Math.max(0.5, view.zoom * factor));
  const kept = placeAt(geometryOf(film, view, screenWidth, screenHeight), screenX, screenY);
  const after = placeAt(geometryOf(film, { ...view, zoom }, screenWidth, screenHeight), screenX, screenY);
  return within({ ...view, zoom, x: view.x + kept.x - after.x, y: view.y + kept.y - after.y });
}

/** Move a view by pixels of the screen. */
export function panBy(film, view, dx, dy, screenWidth, screenHeight) {
  const { scale } = geometryOf(film, view, screenWidth, screenHeight);
  const x = view.x - ((view.flip ? -1 : 1) * dx) / (film.width * scale);
  return within({ ...view, x, y: view.y - dy / (film.height * scale) });
}

/** A view whose middle lies on the film: it can't get lost. */
function within(view) {
  return { ...view, x: Math.min(1, Math.max(0, view.x)), y: Math.min(1, Math.max(0, view.y)) };
}
