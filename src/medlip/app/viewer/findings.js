// The list of findings: likeliest first, each with its probability, its threshold and its place; and how maps are drawn.

import { MOST_SHOWN, css, heatColour, tint } from "./colours.js";
import { $, announce, h, icon, setVars } from "./dom.js";
import { counted, display, probability, value } from "./format.js";
import { unitOf } from "./layers.js";
import { entryOf, findingOf } from "./session.js";
import { sumUp } from "./study.js";
import { isPresent } from "./verdicts.js";

const WORTH = 0.1; // of its likeliest place, that a finding's other places are named from: the matrix has them all
const FIRST = 14; // rows that are listed at once; the others are one click away

export function createFindings(store, actions) {
  const { state } = store;
  const sheet = $("#panel-findings");
  const list = h("div", { class: "list" });
  const ask = createAsk();
  let all = false;
  sheet.append(ask.form, list, createControls(store));

  /** The box that finds a finding by name and asks anything else. */
  function createAsk() {
    const input = h("input", {
      id: "ask",
      type: "search",
      autocomplete: "off",
      placeholder: "Find a finding, or ask anything",
      "aria-describedby": "ask-note",
    });
    const note = h("p", { id: "ask-note", class: "soft small", hidden: true });
    const button = h("button", { type: "submit", class: "quiet" }, "Ask");
    const form = h(
      "form",
      { class: "ask", role: "search" },
      h("label", { class: "unseen", for: "ask" }, "Find a finding, or ask anything"),
      input,
      button,
      note,
    );
    const say = (text) => {
      note.hidden = !text;
      note.textContent = text;
    };
    input.addEventListener("input", () => {
      say("");
      draw();
    });
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const text = input.value.trim();
      if (!text) return input.focus();
      const known = [...(state.model?.pathologies.values() ?? [])].find(
        ({ name, display: shown, kind }) =>
          kind === "abnormal" && [name, shown].some((word) => word.toLowerCase() === text.toLowerCase()),
      );
      input.value = "";
      if (known) {
        if (!state.shown.some(({ id }) => id === known.name)) actions.toggle(known.name);
        return draw();
      }
      if (!state.model?.can.open_text)
        return say(`${state.model?.name} answers for its own vocabulary alone: choose one of the findings.`);
      say("Asking …");
      try {
        await actions.ask(text);
        say("");
        const found = findingOf(entryOf(state.current, state.model).reading, text);
        if (found) announce(`${text}: ${probability(found.probability)}`);
      } catch (problem) {
        say(`${problem.title}. ${problem.detail}`);
        input.value = text; // nothing that was typed is lost
      }
      return draw();
    });
    return {
      form,
      input,
      get wanted() {
        return input.value.trim().toLowerCase();
      },
    };
  }

  function draw() {
    const film = state.current;
    const { reading, pending, problem } = entryOf(film, state.model);
    const beside = state.second && entryOf(film, state.second).reading;
    const focused = list.contains(document.activeElement)
      ? { id: document.activeElement.closest("[data-id]")?.dataset.id, part: document.activeElement.dataset.part }
      : null;
    if (!reading) list.replaceChildren(placeholder(film, pending, problem));
    else list.replaceChildren(...sections(reading, beside));
    if (focused?.id)
      rows()
        .find(({ dataset }) => dataset.id === focused.id)
        ?.querySelector(`[data-part="${focused.part}"]`)
        ?.focus();
  }

  function placeholder(film, pending, problem) {
    if (problem || film?.problem) return h("p", { class: "soft" }, "There is no reading of this film.");
    if (film)
      return h(
        "div",
        { class: "skeleton", "aria-label": "Reading", role: "img" },
        ...Array.from({ length: 7 }, () => h("span")),
      );
    return h(
      "p",
      { class: "soft" },
      pending ? "Reading …" : "Findings appear here, likeliest first, as soon as there is a film.",
    );
  }

  function sections(reading, beside) {
    const typed = ask.wanted;
    const named = ({ label, id }) => label.toLowerCase().includes(typed) || id.toLowerCase().includes(typed);
    const wanted = typed && reading.findings.some(named); // a text that names no finding is a question: the list stays
    const matches = (finding) => !wanted || named(finding);
    const found = reading.findings.filter(matches);
    const above = found.filter(isPresent);
    const below = found.filter((finding) => !isPresent(finding));
    const room = Math.max(3, FIRST - above.length);
    const few = wanted || all ? below : below.filter(({ id }, k) => k < room || isShown(id));
    const parts = [];
    if (reading.doubts.length)
      parts.push(
        h(
          "p",
          { class: "trouble", role: "note" },
          h("b", {}, "What is read here may mean little: "),
          `${reading.doubts.join("; ")}. A model for frontal chest X-rays answers anything it is shown.`,
        ),
      );
    const films = state.films.filter(({ study }) => study === state.current.study);
    if (films.length > 1 && !typed) parts.push(ofStudy(films));
    if (beside)
      parts.push(h("p", { class: "soft small" }, `Upper bar: ${reading.model.name}. Lower bar: ${beside.model.name}.`));
    const basis = reading.calibrated // before the first number, and not below the last
      ? "Probabilities are calibrated."
      : "Probabilities are not calibrated: they rank, and don't measure risk.";
    parts.push(h("p", { class: "soft small" }, basis));
    if (reading.asked.some(matches))
      parts.push(section("Asked", reading.asked.length, reading.asked.filter(matches), reading, beside));
    parts.push(
      section(
        "At or above the threshold",
        above.length,
        above,
        reading,
        beside,
        wanted ? "" : "None of the findings reaches its threshold.",
      ),
    );
    parts.push(section("Below the threshold", below.length, few, reading, beside));
    if (few.length < below.length)
      parts.push(
        h(
          "button",
          {
            type: "button",
            class: "quiet more",
            onclick: () => {
              all = true;
              draw();
            },
          },
          `Show all ${below.length} below`,
        ),
      );
    if (reading.thresholdsFrom) parts.push(h("p", { class: "soft small" }, `Threshold: ${reading.thresholdsFrom}.`));
    const roving = rowsOf(parts).find(({ dataset }) => dataset.id === state.selected) ?? rowsOf(parts)[0];
    for (const element of roving?.querySelectorAll("button") ?? []) element.tabIndex = 0;
    return parts;
  }

  function section(title, number, findings, reading, beside, none = "") {
    if (!findings.length && !none) return "";
    return h(
      "section",
      { class: "group" },
      h("h2", {}, title, h("span", { class: "count" }, number)),
      findings.length
        ? h("ul", { class: "rows" }, ...findings.map((finding) => row(finding, reading, beside)))
        : h("p", { class: "soft small" }, none),
    );
  }

  /** What all films of the study show together: a click shows the finding on the film that shows it most. */
  function ofStudy(films) {
    const { findings, doubted, unread } = sumUp(films, state.model);
    const present = findings.filter(({ finding }) => isPresent(finding));
    const names = (some) => some.map(({ label }) => label).join(", ");
    return h(
      "section",
      { class: "group study", "aria-label": "The study" },
      h("h2", {}, `The study: highest of ${films.length} films`, h("span", { class: "count" }, present.length)),
      present.length
        ? h(
            "ul",
            { class: "rows" },
            ...present.map(({ film, finding }) =>
              h(
                "li",
                { "data-of": finding.id },
                h(
                  "button",
                  { type: "button", class: "row", onclick: () => actions.showOn(film, finding.id) },
                  h("span", { class: "name" }, finding.label, h("span", { class: "soft" }, ` ${film.label}`)),
                  measure(finding),
                ),
              ),
            ),
          )
        : h("p", { class: "soft small" }, "None of the findings reaches its threshold."),
      doubted.length > 0 && h("p", { class: "soft small" }, `Left out because of doubts: ${names(doubted)}.`),
      unread.length > 0 && h("p", { class: "soft small" }, `Without a reading so far: ${names(unread)}.`),
    );
  }

  const isShown = (id) => state.shown.some((entry) => entry.id === id);

  function row(finding, reading, beside) {
    const { id, label } = finding;
    const shown = state.shown.find((entry) => entry.id === id);
    const other = beside && findingOf(beside, id);
    const selected = state.selected === id;
    const swatch = h(
      "button",
      {
        type: "button",
        class: "swatch",
        tabindex: -1,
        "data-part": "swatch",
        "aria-pressed": Boolean(shown && state.mapsOn),
        "aria-label": `Map of ${label}, with the others`,
        title: "Show or hide the map, with the others (Space)",
        onclick: () => actions.toggle(id),
      },
      h("span"),
    );
    setVars(swatch, {
      "--tint": css(shown ? (state.shown.length === 1 ? heatColour(0.72) : tint(shown.slot)) : [128, 128, 128]),
    });
    const main = h(
      "button",
      {
        type: "button",
        class: "row",
        tabindex: -1,
        "data-part": "row",
        "aria-pressed": Boolean(shown && state.mapsOn),
        title: "Show this map alone (Enter)",
        onclick: (event) => (event.ctrlKey || event.metaKey || event.shiftKey ? actions.toggle(id) : actions.showOnly(id)),
      },
      h("span", { class: "name" }, label),
      finding.threshold !== null && h("span", { class: "unseen" }, isPresent(finding) ? "present" : "below its threshold"),
      h(
        "span",
        { class: "measures" },
        measure(finding),
        other && h("span", { class: "unseen" }, state.second.name),
        other && measure(other),
      ),
    );
    return h(
      "li",
      {
        class: "finding",
        "data-id": id,
        "data-present": finding.threshold !== null && isPresent(finding),
        "data-selected": selected,
        "data-shown": Boolean(shown),
      },
      swatch,
      main,
      finding.asked
        ? h(
            "button",
            {
              type: "button",
              class: "bare remove",
              tabindex: -1,
              "data-part": "remove",
              "aria-label": `Take “${label}” away`,
              onclick: () => actions.forget(id),
            },
            icon("close"),
          )
        : "",
      places(finding, reading, selected),
    );
  }

  function measure({ probability: p, threshold }) {
    const bar = h("span", { class: "gauge", "data-threshold": threshold !== null });
    setVars(bar, { "--share": p, "--threshold": threshold ?? 0 });
    return h("span", { class: "measure" }, bar, h("span", { class: "number" }, probability(p)));
  }

  /** Where a finding lies: its likeliest place in words; all of them, to be clicked, where it is looked at. */
  function places({ places: found }, reading, selected) {
    if (!found.length) return "";
    const { anatomies } = reading.model;
    if (!selected) return h("p", { class: "places" }, display(anatomies, found[0].anatomy));
    const worth = found.filter(({ probability: p }) => p >= found[0].probability * WORTH);
    return h(
      "p",
      { class: "places" },
      ...worth.map(({ anatomy, probability: p }) =>
        h(
          "button",
          {
            type: "button",
            class: "chip",
            tabindex: -1,
            "data-part": anatomy,
            title: "What is said of this place",
            onclick: () => actions.inquire({ anatomy }),
          },
          display(anatomies, anatomy),
          h("span", { class: "number" }, probability(p)),
        ),
      ),
    );
  }

  // One row is in the order of focus; arrows go from row to row.

  const rows = () => rowsOf([list]);

  list.addEventListener("keydown", (event) => {
    const at = rows().indexOf(document.activeElement.closest("[data-id]"));
    if (at < 0) return;
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: rows().length - 1 }[event.key];
    if (event.key === " " && document.activeElement.dataset.part === "row") actions.toggle(rows()[at].dataset.id);
    else if (to === undefined) return;
    else {
      const next = rows()[Math.min(rows().length - 1, Math.max(0, to))];
      for (const element of list.querySelectorAll("button[data-part]")) element.tabIndex = -1;
      for (const element of next.querySelectorAll("button")) element.tabIndex = 0;
      next.querySelector(".row").focus();
    }
    event.preventDefault();
  });
  list.addEventListener("keyup", (event) => {
    if (event.key === " " && document.activeElement.dataset.part === "row") event.preventDefault(); // the browser would click as well
  });

  store.on(["ready", "films", "current", "model", "second", "shown", "mapsOn", "selected", "texts"], draw);
  draw();
  return {
    focusAsk: () => ask.input.focus(),
    /** The finding that stands nth in the list, from 0. */
    nth: (n) => rows()[n]?.dataset.id,
    /** The finding that stands next to the one that was last looked at. */
    next(by) {
      const ids = rows().map(({ dataset }) => dataset.id);
      return ids[
        Math.min(ids.length - 1, Math.max(0, ids.indexOf(state.selected) + (state.selected === null && by < 0 ? 0 : by)))
      ];
    },
  };
}

const rowsOf = (parts) => parts.filter(Boolean).flatMap((part) => [...part.querySelectorAll("li[data-id]")]);

/** Opacity, threshold and scale of the maps. */
function createControls(store) {
  const { state } = store;
  const opacity = slider("Opacity", "opacity", (unit) => `${Math.round(unit * 100)} %`);
  const floor = slider("Map threshold", "floor", () => "");
  const stretched = h("input", {
    type: "checkbox",
    id: "stretched",
    onchange: () => store.set({ stretched: stretched.checked }),
  });
  const shown = h("span", { class: "soft small" });
  const box = h(
    "div",
    { class: "controls", role: "group", "aria-label": "How maps are drawn" },
    opacity.row,
    floor.row,
    h(
      "p",
      { class: "control-line" },
      h("label", { class: "check" }, stretched, " Stretch each map to its own highest value"),
      shown,
    ),
  );

  function slider(label, key, write) {
    const input = h("input", {
      type: "range",
      id: key,
      min: 0,
      max: 1,
      step: 0.01,
      oninput: () => store.set({ [key]: Number(input.value) }),
    });
    const output = h("output", { for: key });
    return {
      row: h("p", { class: "slider" }, h("label", { for: key }, label), input, output),
      draw: () => {
        input.value = state[key];
        setVars(input, { "--value": state[key] });
        output.textContent = write(state[key]);
      },
      output,
    };
  }

  function draw() {
    opacity.draw();
    floor.draw();
    stretched.checked = state.stretched;
    const { reading } = entryOf(state.current, state.model);
    const map = state.shown.map(({ id }) => findingOf(reading, id)?.map).find(Boolean);
    floor.output.textContent = state.stretched || !map ? `${Math.round(state.floor * 100)} %` : `${value(state.floor)}`;
    floor.output.title = map ? unitOf(map) : "";
    shown.textContent = state.shown.length > 1 ? `${counted(state.shown.length, "map")} of at most ${MOST_SHOWN}` : "";
    box.hidden = !reading;
  }
  store.on(["opacity", "floor", "stretched", "shown", "films", "current"], draw);
  draw();
  return box;
}
