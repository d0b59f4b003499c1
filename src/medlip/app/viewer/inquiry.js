// "What is said here?": the findings at a place that was clicked, or in an anatomy that was chosen.

import { $, announce, h, icon, setVars } from "./dom.js";
import { display, probability } from "./format.js";
import { sample } from "./maps.js";
import { LEAST, anatomiesAt, anatomiesOf } from "./places.js";
import { entryOf, everything } from "./session.js";

const MOST = 6; // findings that are named
const FEW = 3; // anatomies that are

export function createInquiry(store, actions) {
  const { state } = store;
  const card = h("section", { class: "inquiry", id: "inquiry", "aria-label": "What is said here", hidden: true });
  let announced = null;
  $("#stage").append(card);

  function draw() {
    const { inquiry, current } = state;
    const model = (inquiry?.model && [state.model, state.second].find((one) => one?.id === inquiry.model)) || state.model;
    const { reading } = entryOf(current, model);
    card.hidden = !inquiry || !current?.pixels || !reading;
    if (card.hidden) return;
    const { title, rows, anatomies, note } = inquiry.anatomy
      ? ofAnatomy(reading, inquiry.anatomy)
      : ofPlace(reading, inquiry);
    card.replaceChildren(
      h(
        "header",
        {},
        h("h2", {}, title),
        h(
          "button",
          {
            type: "button",
            class: "bare",
            "aria-label": "Close",
            title: "Close (Esc)",
            onclick: () => actions.inquire(null),
          },
          icon("close"),
        ),
      ),
      rows.length
        ? h("ul", { class: "rows" }, ...rows.map(row))
        : h("p", { class: "soft" }, "Nothing is said of this place."),
      ...chips(anatomies, model),
      ...statements(current, inquiry.anatomy),
      note && h("p", { class: "soft small" }, note),
      h("p", { class: "soft small" }, "Not a medical device."),
    );
    if (inquiry === announced) return;
    announced = inquiry;
    const where = anatomies.map(({ anatomy }) => `, ${display(model.anatomies, anatomy)}`).join("");
    announce(
      `${title}${where}: ${rows.length ? rows.map(({ label, share }) => `${label} ${probability(share)}`).join(", ") : "nothing"}`,
    );
  }

  function row({ id, label, share, where }) {
    const shown = state.shown.some((entry) => entry.id === id);
    const bar = h("span", { class: "gauge" });
    setVars(bar, { "--share": share });
    return h(
      "li",
      {},
      h(
        "button",
        { type: "button", class: "row", "aria-pressed": shown, onclick: () => actions.toggle(id) },
        h("span", { class: "name" }, label, where && h("span", { class: "soft" }, ` ${where}`)),
        h("span", { class: "measure" }, bar, h("span", { class: "number" }, probability(share))),
      ),
    );
  }

  /** The anatomies in which what is seen here lies, to be clicked. */
  function chips(anatomies, model) {
    if (!anatomies.length) return [];
    return [
      h("h3", {}, "Likely in"),
      h(
        "p",
        { class: "places" },
        ...anatomies.map(({ anatomy, probability: p }) =>
          h(
            "button",
            { type: "button", class: "chip", onclick: () => actions.inquire({ anatomy, model: model.id }) },
            display(model.anatomies, anatomy),
            h("span", { class: "number" }, probability(p)),
          ),
        ),
      ),
    ];
  }

  /** The maps read at a place. */
  function ofPlace(reading, { x, y }) {
    const found = everything(reading)
      .filter(({ map }) => map)
      .map((finding) => ({ ...finding, share: sample(finding.map, x, y) }));
    const absolute = found.every(({ map }) => map.absolute);
    // Maps that each have a scale of their own can't be compared: the probable findings are named whose map is high here.
    const rank = absolute ? ({ share }) => share : ({ share, probability: p }) => share * p;
    const rows = found
      .filter((one) => rank(one) >= LEAST)
      .sort((a, b) => rank(b) - rank(a))
      .slice(0, MOST);
    return {
      title: "At this place",
      rows: rows.map((one) => ({
        ...one,
        where: one.places[0] ? display(reading.model.anatomies, one.places[0].anatomy) : "",
      })),
      anatomies: anatomiesAt(reading, x, y).slice(0, FEW),
      note: absolute ? "" : "Each map has a scale of its own: 1 is its highest place.",
    };
  }

  /** The matrix read along an anatomy, or of the places of the findings where there is no matrix. */
  function ofAnatomy(reading, anatomy) {
    const rows = reading.findings
      .map((finding) => ({ ...finding, share: anatomiesOf(reading, finding).get(anatomy) ?? 0 }))
      .filter((one) => one.share >= LEAST);
    return {
      title: display(reading.model.anatomies, anatomy),
      rows: rows.sort((a, b) => b.share - a.share).slice(0, MOST),
      anatomies: [],
      note: "",
    };
  }

  /** What the report says of an anatomy, in its own sentences. */
  function statements({ study }, anatomy) {
    const facts = (study.facts?.facts ?? []).filter((fact) => fact.settles && fact.anatomy === anatomy);
    const sentences = [...new Set(facts.map(({ sentence }) => sentence))];
    return sentences.length
      ? [h("h3", {}, "In the report"), ...sentences.map((sentence) => h("blockquote", {}, sentence))]
      : [];
  }

  store.on(["inquiry", "films", "current", "model", "second", "shown", "report"], draw);
}
