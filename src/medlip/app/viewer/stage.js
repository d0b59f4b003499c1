// The film in the middle: a pane for each model, and what is written around it.

import { $, h, setAttribute, setVars } from "./dom.js";
import { display, probability, value } from "./format.js";
import { pointOf } from "./geometry.js";
import { attachGestures } from "./gestures.js";
import { drawn, layersOf } from "./layers.js";
import { sample } from "./maps.js";
import { anatomiesAt } from "./places.js";
import { Renderer } from "./renderer.js";
import { entryOf } from "./session.js";

export function createStage(store, actions) {
  const { state } = store;
  const panes = [createPane(), createPane()];
  const area = $("#panes");
  let frame = 0;
  let asked = false; // who asked what is said at a place needs no hint any more

  function createPane() {
    const pane = h("div", {
      class: "pane",
      tabindex: 0,
      role: "application",
      "aria-roledescription": "film",
      "aria-describedby": "not-medical",
    });
    const film = h("canvas", { class: "film" });
    const maps = h("canvas", { class: "maps" });
    const parts = {
      right: h("span", { class: "marker", title: "The patient's right, as films are hung" }, "R"),
      left: h("span", { class: "marker", title: "The patient's left, as films are hung" }, "L"),
      cross: h("span", { class: "cross", hidden: true }),
      title: h("p", { class: "written title" }),
      numbers: h("p", { class: "written numbers" }),
      under: h("p", { class: "written under", "aria-hidden": "true" }),
      state: h("div", { class: "pane-state", hidden: true }),
    };
    pane.append(film, maps, ...Object.values(parts));
    const made = { element: pane, parts, renderer: new Renderer(film, maps), model: null };
    attachGestures(made, state, { ...actions, hover: (place) => readUnder(made, place) });
    return made;
  }

  /** Draw with the next frame, however often it is asked for. */
  function draw() {
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      drawNow();
    });
  }

  function drawNow() {
    const film = state.current;
    const shown = Boolean(film);
    area.hidden = !shown;
    $("#tools").hidden = !shown;
    asked ||= Boolean(state.inquiry);
    $("#hint").hidden = asked || !film?.pixels;
    $("#welcome").hidden = shown;
    const models = film ? [state.model, state.second].filter(Boolean) : [];
    area.classList.toggle("two", models.length > 1);
    const present = panes.filter(({ element }) => element.isConnected).length;
    if (present !== models.length) area.replaceChildren(...panes.slice(0, models.length).map(({ element }) => element));
    models.forEach((model, k) => drawPane(panes[k], film, model));
  }

  function drawPane(pane, film, model) {
    pane.model = model;
    const { renderer, parts, element } = pane;
    const { reading } = entryOf(film, model);
    renderer.fit();
    setAttribute(
      element,
      "aria-label",
      `${film.label}, read by ${model.name}. Arrow keys do what dragging does with the tool.`,
    );
    parts.title.replaceChildren(h("b", {}, state.second ? model.name : film.label), state.second ? ` ${film.label}` : "");
    for (const part of [parts.right, parts.left]) part.hidden = !film.pixels;
    element.dataset.flipped = film.view.flip;
    drawState(parts.state, film, model);
    if (!film.pixels) {
      renderer.clear();
      parts.numbers.textContent = parts.under.textContent = "";
      parts.cross.hidden = true;
      return;
    }
    renderer.drawFilm(film.pixels, film.levels, film.view, film.window);
    renderer.drawMaps(film.pixels, layersOf(state, reading), film.view, state.opacity);
    const { width, center } = film.window;
    const { scale } = renderer.geometry(film.pixels, film.view);
    parts.numbers.textContent = `W ${value(width)}  L ${value(center)}  ·  ${Math.round(scale * (window.devicePixelRatio || 1) * 100)} %  ·  ${film.pixels.width} × ${film.pixels.height}, ${film.pixels.bits} bit`;
    drawCross(pane, film);
  }

  function drawCross({ renderer, parts }, film) {
    const place = state.inquiry?.x === undefined ? null : state.inquiry;
    parts.cross.hidden = !place;
    if (!place) return;
    const { x, y } = pointOf(renderer.geometry(film.pixels, film.view), place);
    setVars(parts.cross, { "--x": `${x}px`, "--y": `${y}px` });
  }

  function drawState(box, film, model) {
    const { problem, pending, reading } = entryOf(film, model);
    const trouble = film.problem ?? (reading ? null : problem); // what was read stays in view
    box.hidden = !trouble && !(film.status === "reading" || (pending && !reading));
    box.classList.toggle("failed", Boolean(trouble));
    box.classList.toggle("aside", !trouble && Boolean(film.pixels));
    if (box.hidden) return;
    if (!trouble) {
      box.replaceChildren(
        h("span", { class: "spinner", "aria-hidden": "true" }),
        film.pixels ? `${model.name} is reading …` : "Opening …",
      );
    } else {
      box.replaceChildren(
        h("h2", {}, trouble.title),
        h("p", {}, trouble.detail),
        h(
          "p",
          { class: "choices" },
          h("button", { type: "button", onclick: () => actions.retry(film) }, "Try again"),
          h("button", { type: "button", onclick: () => actions.close(film) }, "Take it away"),
        ),
      );
    }
  }

  /** Write what lies under the pointer: the film's own value, the likeliest anatomy of what is seen there, and the maps' values. */
  function readUnder({ parts, model }, place) {
    const film = state.current;
    const inside = place && place.x >= 0 && place.x < 1 && place.y >= 0 && place.y < 1;
    if (!film?.pixels || !inside) {
      parts.under.textContent = "";
      return;
    }
    const { width, height, values } = film.pixels;
    const grey = values[Math.floor(place.y * height) * width + Math.floor(place.x * width)];
    const { reading } = entryOf(film, model);
    const said = drawn(state, reading)
      .slice(0, 3)
      .map(({ finding }) => `${finding.label} ${probability(sample(finding.map, place.x, place.y))}`);
    const where = anatomiesAt(reading, place.x, place.y)
      .slice(0, 1)
      .map(({ anatomy }) => display(model.anatomies, anatomy));
    parts.under.textContent = [`value ${grey}`, ...where, ...said].join("  ·  ");
  }

  store.on(
    ["films", "current", "model", "second", "shown", "mapsOn", "opacity", "floor", "stretched", "inquiry", "view"],
    draw,
  );
  new ResizeObserver(draw).observe($("#stage"));

  return { draw, panes: () => panes.filter(({ element }) => element.isConnected) };
}
