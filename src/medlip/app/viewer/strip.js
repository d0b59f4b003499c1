// Films that are open, as a strip of small pictures.

import { $, h, icon } from "./dom.js";
import { lookUpTable, resample } from "./pixels.js";
import { geometryOf, WHOLE } from "./geometry.js";

const SIZE = 64; // pixels of a small picture

export function createStrip(store, actions) {
  const { state } = store;
  const strip = $("#strip");

  function draw() {
    strip.hidden = state.films.length < 2;
    strip.replaceChildren(
      ...state.films.map(item),
      h(
        "button",
        {
          type: "button",
          class: "quiet add",
          "aria-label": "Open more films",
          title: "Open more films (O)",
          onclick: actions.choose,
        },
        icon("open"),
      ),
    );
  }

  function item(film, at) {
    const current = film === state.current;
    const parts = film.study === state.films[at - 1]?.study ? " of the same study" : "";
    return h(
      "div",
      { class: "thumb", "data-status": film.status, "data-current": current, "data-joined": Boolean(parts) },
      h(
        "button",
        {
          type: "button",
          class: "thumb-main",
          "aria-current": current ? "true" : null,
          "aria-label": `${film.label}${parts}${film.status === "failed" ? ", can't be read" : ""}`,
          title: film.label,
          onclick: () => actions.select(film),
        },
        film.pixels
          ? pictureOf(film)
          : film.status === "failed"
            ? h("span", { class: "failed" }, "!")
            : h("span", { class: "spinner" }),
      ),
      h(
        "button",
        {
          type: "button",
          class: "bare thumb-close",
          "aria-label": `Close ${film.label}`,
          title: "Close",
          onclick: () => actions.close(film),
        },
        icon("close"),
      ),
    );
  }

  function pictureOf(film) {
    if (!film.small) {
      film.small = h("canvas", { "aria-hidden": "true" });
      drawSmall(film.small, film.pixels, film.levels, film.pixels.window, SIZE * 2);
    }
    return film.small;
  }

  store.on(["films", "current"], draw);
}

/** Draw all of a film into a square canvas. */
export function drawSmall(canvas, film, levels, window, size) {
  Object.assign(canvas, { width: size, height: size });
  const part = resample(levels, geometryOf(film, WHOLE, size, size));
  const context = canvas.getContext("2d");
  const picture = context.createImageData(part.width, part.height);
  const table = lookUpTable(window, false);
  const pixels = new Uint32Array(picture.data.buffer);
  for (let k = 0; k < pixels.length; k++) pixels[k] = table[part.values[k]];
  context.putImageData(picture, part.x, part.y);
}
