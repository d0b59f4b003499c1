// The scales beside the film: what a colour of a map means, in the map's own units.

import { css, heatGradient, tint } from "./colours.js";
import { $, h, setVars } from "./dom.js";
import { value } from "./format.js";
import { drawn, topOf, unitOf } from "./layers.js";
import { entryOf } from "./session.js";

export function createScales(store) {
  const { state } = store;

  function draw() {
    const rows = new Map(); // of both models the first that has a map: the scale is the same, but where maps are stretched
    for (const model of [state.model, state.second].filter(Boolean)) {
      for (const { finding, slot } of drawn(state, entryOf(state.current, model).reading)) {
        const key = state.stretched ? `${model.id} ${finding.id}` : finding.id;
        const name = state.stretched && state.second ? `${finding.label}, ${model.name}` : finding.label;
        if (!rows.has(key)) rows.set(key, scaleOf(finding, name, slot));
      }
    }
    $("#scales").hidden = !rows.size;
    $("#scales").replaceChildren(...rows.values());
  }

  function scaleOf({ map }, name, slot) {
    const top = topOf(map, state.stretched);
    const bar = h("span", { class: "scale-bar" }, h("span", { class: "scale-floor" }));
    const colour = tint(slot);
    const alone = state.shown.length === 1;
    setVars(bar, {
      "--gradient": alone ? heatGradient("to top") : `linear-gradient(to top, ${css(colour, 0.08)}, ${css(colour)})`,
      "--floor": state.floor,
    });
    const meaning = `Scale of ${name}: 0 to ${value(top)}, ${unitOf(map)}; below ${value(state.floor * top)} nothing is drawn`;
    return h(
      "div",
      { class: "scale", role: "img", "aria-label": meaning, title: meaning },
      h("span", { class: "scale-name" }, alone && !state.second ? unitOf(map) : name),
      h("span", { class: "scale-top" }, value(top)),
      bar,
      h("span", { class: "scale-low" }, "0"),
    );
  }

  store.on(["films", "current", "model", "second", "shown", "mapsOn", "floor", "stretched"], draw);
}
