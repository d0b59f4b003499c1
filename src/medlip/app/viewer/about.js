// Which model read the film, what was done to the film, and what is sent where.

import { $, h } from "./dom.js";
import { entryOf } from "./session.js";

export function createAbout(store) {
  const { state } = store;
  const sheet = $("#panel-about");

  function draw() {
    const film = state.current;
    const models = [state.model, state.second].filter(Boolean);
    const read = models.map((model) => entryOf(film, model).reading).filter(Boolean);
    const notes = [...new Set([...(film?.pixels?.notes ?? []), ...read.flatMap((reading) => reading.notes)])];
    sheet.replaceChildren(
      ...models.flatMap(about),
      film?.pixels
        ? h(
            "section",
            {},
            h("h2", {}, "The film"),
            list({
              Size: `${film.pixels.width} × ${film.pixels.height}`,
              Depth: `${film.pixels.bits} bit, all of them windowed here`,
            }),
            ...notes.map((note) => h("p", { class: "soft small" }, note)),
          )
        : "",
      h(
        "section",
        {},
        h("h2", {}, "What is sent where"),
        h(
          "p",
          {},
          "Films, reports and questions go to the server of this page and to nobody else. It keeps none of them. The name of a file is not sent, and no export holds it.",
        ),
      ),
      h(
        "section",
        {},
        h("h2", {}, "Not a medical device"),
        h("p", {}, state.disclaimer || "Research software. Not a medical device: not for diagnosis or treatment."),
      ),
    );
  }

  function about(model) {
    const found = [...model.pathologies.values()].filter(({ kind }) => kind === "abnormal").length;
    return [
      h(
        "section",
        {},
        h("h2", {}, model.name),
        h("p", {}, model.summary),
        list({
          Version: model.version || "unknown",
          Hash: model.hash,
          Method: model.method,
          "Sees the film at": `${model.input_size} × ${model.input_size} pixels`,
          Knows: `${found} findings, ${model.anatomies.size} places`,
          Probabilities: model.calibrated ? "calibrated" : "not calibrated",
          Maps: model.can.absolute_maps
            ? "on one scale: the highest place has the finding's probability"
            : "each on a scale of its own",
          "Any text": model.can.open_text ? "can be asked" : "can't be asked: it has no text encoder",
        }),
      ),
    ];
  }

  const list = (rows) =>
    h("dl", {}, ...Object.entries(rows).flatMap(([term, meaning]) => [h("dt", {}, term), h("dd", {}, meaning)]));

  store.on(["films", "current", "model", "second", "ready"], draw);
  draw();
}
