// What mouse, touch and arrow keys do on a film. Dragging does what the tool says; a click without dragging asks for a place.

import { panBy, placeAt, zoomAt } from "./geometry.js";

export const TOOLS = [
  {
    id: "window",
    label: "Window and level",
    key: "w",
    icon: "window",
    hint: "drag: left and right for contrast, up and down for brightness",
  },
  { id: "pan", label: "Pan", key: "p", icon: "pan", hint: "drag the film" },
  { id: "zoom", label: "Zoom", key: "z", icon: "zoom", hint: "drag up and down" },
  { id: "point", label: "Point", key: "x", icon: "point", hint: "move the crosshair and read what is said under it" },
];

const STILL = 4; // pixels that a click may move
const STEP = 24; // pixels of dragging that an arrow key stands for
const CELL = 1 / 64; // of the film, that an arrow key moves the crosshair

/** The window after a drag: the width grows by ratio, so that narrow and wide ones are as easy to set. */
export function windowBy({ center, width }, dx, dy, top) {
  return {
    center: Math.min(top * 1.5, Math.max(-top * 0.5, center + (dy * width) / 400)),
    width: Math.min(top * 4, Math.max(1, width * 2 ** (dx / 200))),
  };
}

/**
 * Let a pane be worked with.
 *
 * @param {{element: HTMLElement, renderer: import("./renderer.js").Renderer}} pane
 * @param state whose current film and tool count
 * @param {{setView, setWindow, point, hover, showWhole}} actions
 */
export function attachGestures(pane, state, { setView, setWindow, point, hover, showWhole }) {
  const { element } = pane;
  const touches = new Map();
  let drag = null;

  const size = () => [element.clientWidth, element.clientHeight];
  const within = (event) => {
    const box = element.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const place = (x, y) => placeAt(pane.renderer.geometry(state.current.pixels, state.current.view), x, y);

  /** Do with the film what dragging by (dx, dy) does with a tool. */
  function move(tool, dx, dy, [x, y]) {
    const film = state.current;
    if (tool === "window") setWindow(windowBy(film.window, dx, dy, film.pixels.top));
    else if (tool === "pan") setView(panBy(film.pixels, film.view, dx, dy, ...size()));
    else if (tool === "zoom") setView(zoomAt(film.pixels, film.view, 2 ** (-dy / 150), x, y, ...size()));
    else point(place(x, y), pane);
  }

  function toolOf(event) {
    if (event.button === 1 || event.shiftKey) return "pan";
    return event.button === 2 ? "zoom" : state.tool;
  }

  element.addEventListener("pointerdown", (event) => {
    if (!state.current?.pixels || event.target.closest("button")) return;
    element.focus({ preventScroll: true });
    element.setPointerCapture(event.pointerId);
    const at = within(event);
    touches.set(event.pointerId, at);
    drag = touches.size > 1 ? null : { tool: toolOf(event), from: at, last: at, moved: false, button: event.button };
    if (event.button === 1) event.preventDefault(); // no scrolling by the middle button
  });

  element.addEventListener("pointermove", (event) => {
    if (!state.current?.pixels) return;
    const at = within(event);
    hover(place(...at));
    if (touches.size > 1 && touches.has(event.pointerId)) return pinch(event.pointerId, at);
    if (!drag) return;
    drag.moved ||= Math.hypot(at[0] - drag.from[0], at[1] - drag.from[1]) > STILL;
    if (!drag.moved) return;
    const [x, y] = drag.tool === "zoom" ? drag.from : at;
    move(drag.tool, at[0] - drag.last[0], at[1] - drag.last[1], [x, y]);
    drag.last = at;
  });

  /** Two fingers zoom and pan at once. */
  function pinch(id, at) {
    const other = [...touches.entries()].find(([key]) => key !== id)[1];
    const before = touches.get(id);
    const apart = ([ax, ay], [bx, by]) => Math.max(1, Math.hypot(ax - bx, ay - by));
    const film = state.current;
    const middle = [(at[0] + other[0]) / 2, (at[1] + other[1]) / 2];
    const zoomed = zoomAt(film.pixels, film.view, apart(at, other) / apart(before, other), ...middle, ...size());
    setView(panBy(film.pixels, zoomed, (at[0] - before[0]) / 2, (at[1] - before[1]) / 2, ...size()));
    touches.set(id, at);
  }

  function end(event) {
    touches.delete(event.pointerId);
    const finished = drag;
    drag = null;
    if (event.type === "pointerup" && finished && !finished.moved && finished.button === 0)
      point(place(...finished.from), pane);
  }
  element.addEventListener("pointerup", end);
  element.addEventListener("pointercancel", end);
  element.addEventListener("pointerleave", () => hover(null));
  element.addEventListener("contextmenu", (event) => event.preventDefault());
  element.addEventListener("dblclick", () => state.current?.pixels && showWhole());

  element.addEventListener(
    "wheel",
    (event) => {
      const film = state.current;
      if (!film?.pixels) return;
      event.preventDefault();
      const pixels = event.deltaY * (event.deltaMode === 1 ? 24 : 1);
      setView(zoomAt(film.pixels, film.view, 2 ** (-pixels / 300), ...within(event), ...size()));
    },
    { passive: false },
  );

  element.addEventListener("keydown", (event) => {
    const film = state.current;
    const direction = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!film?.pixels || event.target !== element || event.ctrlKey || event.metaKey || event.altKey) return;
    const middle = size().map((length) => length / 2);
    if (event.key === "Enter") point(state.inquiry?.x === undefined ? place(...middle) : state.inquiry, pane);
    else if (!direction) return;
    else if (state.tool === "point") {
      const from = state.inquiry?.x === undefined ? place(...middle) : state.inquiry;
      const [dx, dy] = direction.map((unit) => unit * CELL * (event.shiftKey ? 4 : 1));
      point({ x: from.x + (film.view.flip ? -dx : dx), y: from.y + dy }, pane);
    } else move(state.tool, direction[0] * STEP, direction[1] * STEP, middle);
    event.preventDefault();
  });
}
