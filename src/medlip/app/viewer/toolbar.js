// The tools beside the film.

import { $, h, icon } from "./dom.js";
import { TOOLS } from "./gestures.js";

export function createToolbar(store, actions) {
  const { state } = store;
  const bar = $("#tools");

  const button = (id, label, key, name, act, hint = "") =>
    h(
      "button",
      {
        type: "button",
        id: `tool-${id}`,
        class: "tool",
        "aria-label": label,
        title: `${label} (${key.toUpperCase()})${hint && `: ${hint}`}`,
        tabindex: -1,
        onclick: act,
      },
      icon(name),
    );
  const tools = TOOLS.map(({ id, label, key, icon: name, hint }) =>
    button(id, label, key, name, () => actions.tool(id), hint),
  );
  const invert = button("invert", "Invert", "i", "invert", actions.invert);
  const flip = button("flip", "Flip film and maps", "f", "flip", actions.flip);
  const maps = button("maps", "Show maps", "m", "maps", actions.toggleMaps);
  const reset = button("reset", "Reset the view", "r", "reset", actions.reset);
  const line = () => h("span", { class: "line", role: "separator" });
  bar.append(...tools, line(), invert, flip, maps, line(), reset);
  const all = [...tools, invert, flip, maps, reset];
  all[0].tabIndex = 0;

  bar.addEventListener("keydown", (event) => {
    const by = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
    const at = all.indexOf(document.activeElement);
    if (!by || at < 0) return;
    event.preventDefault();
    all[at].tabIndex = -1;
    const next = all[(at + by + all.length) % all.length];
    next.tabIndex = 0;
    next.focus();
  });

  function draw() {
    TOOLS.forEach(({ id }, k) => tools[k].setAttribute("aria-pressed", String(state.tool === id)));
    invert.setAttribute("aria-pressed", String(Boolean(state.current?.view.invert)));
    flip.setAttribute("aria-pressed", String(Boolean(state.current?.view.flip)));
    maps.setAttribute("aria-pressed", String(state.mapsOn));
    $("#panes").dataset.tool = state.tool;
  }

  store.on(["tool", "view", "current", "films", "mapsOn"], draw);
  draw();
}
