// The fact matrix read back from the image: how probable each pathology is in each anatomy. Every cell can be clicked.

import { $, h, setVars } from "./dom.js";
import { display, probability } from "./format.js";
import { entryOf } from "./session.js";

const FEW = { pathologies: 8, anatomies: 14 }; // of the strongest, before all are asked for

export function createMatrix(store, actions) {
  const { state } = store;
  const sheet = $("#panel-matrix");
  let all = false;
  let cursor = [0, 0]; // the cell in the order of focus, as row and column

  function draw() {
    if (state.tab !== "matrix") return;
    const { reading } = entryOf(state.current, state.model);
    if (!reading)
      return sheet.replaceChildren(h("p", { class: "soft" }, "The matrix appears here as soon as there is a film."));
    if (!reading.matrix)
      return sheet.replaceChildren(
        h(
          "p",
          { class: "soft" },
          `${reading.model.name} doesn't tell in which anatomy a finding lies: there is no matrix to read.`,
        ),
      );
    const focused = sheet.contains(document.activeElement) ? document.activeElement.dataset.part : null;
    const { rows, columns } = choose(reading);
    const said = saidBy(state.current.study.facts);
    sheet.replaceChildren(
      h(
        "div",
        { class: "sheet-head" },
        h("p", { class: "soft small" }, "Probability of each finding in each place. Click a cell, a finding or a place."),
        h(
          "button",
          {
            type: "button",
            class: "quiet",
            "data-part": "all",
            "aria-pressed": all,
            onclick: () => {
              all = !all;
              cursor = [0, 0];
              draw();
            },
          },
          all ? "Only the strongest" : `All ${reading.matrix.pathologies.length} × ${reading.matrix.anatomies.length}`,
        ),
      ),
      h("div", { class: "scroll" }, table(reading, rows, columns, said)),
      h(
        "p",
        { class: "soft small legend" },
        h("i", { class: "key present" }),
        "present in the report",
        h("i", { class: "key absent" }),
        "absent in it",
      ),
    );
    if (focused) sheet.querySelector(`[data-part="${focused}"]`)?.focus();
    return undefined;
  }

  /** Rows are anatomies and columns pathologies, as in the fact matrix; by default the strongest of both. */
  function choose({ matrix, findings }) {
    const { pathologies, anatomies, probabilities } = matrix;
    if (all) return { rows: anatomies.map((_, k) => k), columns: pathologies.map((_, k) => k) };
    const rank = new Map(findings.map(({ id }, k) => [id, k]));
    const columns = pathologies
      .map((_, k) => k)
      .filter((k) => rank.has(pathologies[k]))
      .sort((a, b) => rank.get(pathologies[a]) - rank.get(pathologies[b]))
      .slice(0, FEW.pathologies);
    const strength = (row) => Math.max(...columns.map((column) => probabilities[column][row]));
    const rows = anatomies
      .map((_, k) => k)
      .sort((a, b) => strength(b) - strength(a))
      .slice(0, FEW.anatomies);
    return { rows, columns };
  }

  function table({ model, matrix }, rows, columns, said) {
    const grid = h(
      "table",
      { class: all ? "matrix all" : "matrix", role: "grid", "aria-label": "Probability of each finding in each place" },
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          h("td", {}),
          ...columns.map((column, c) => {
            const name = matrix.pathologies[column];
            return h(
              "th",
              { scope: "col" },
              h(
                "button",
                {
                  type: "button",
                  tabindex: -1,
                  "data-part": `-1,${c}`,
                  "aria-pressed": isShown(name),
                  onclick: () => actions.toggle(name),
                },
                h("span", {}, display(model.pathologies, name)),
              ),
            );
          }),
        ),
      ),
      h(
        "tbody",
        {},
        ...rows.map((row, r) => {
          const anatomy = matrix.anatomies[row];
          return h(
            "tr",
            {},
            h(
              "th",
              { scope: "row" },
              h(
                "button",
                {
                  type: "button",
                  tabindex: -1,
                  "data-part": `${r},-1`,
                  "aria-pressed": state.inquiry?.anatomy === anatomy,
                  onclick: () => actions.inquire({ anatomy }),
                },
                display(model.anatomies, anatomy),
              ),
            ),
            ...columns.map((column, c) => cell(model, matrix, row, column, r, c, said)),
          );
        }),
      ),
    );
    grid.addEventListener("keydown", (event) => move(event, rows.length, columns.length));
    return grid;
  }

  function cell(model, matrix, row, column, r, c, said) {
    const pathology = matrix.pathologies[column];
    const anatomy = matrix.anatomies[row];
    const p = matrix.probabilities[column][row];
    const presence = said.get(`${pathology} ${anatomy}`) ?? "";
    const meaning = `${display(model.pathologies, pathology)}, ${display(model.anatomies, anatomy)}: ${probability(p)}${presence && `; ${presence} in the report`}`;
    const button = h(
      "button",
      {
        type: "button",
        class: "cell",
        tabindex: r === cursor[0] && c === cursor[1] ? 0 : -1,
        "data-part": `${r},${c}`,
        "data-said": presence,
        "data-strong": p >= 0.5,
        "data-chosen": state.inquiry?.anatomy === anatomy && isShown(pathology),
        "aria-label": meaning,
        title: meaning,
        onclick: () => {
          cursor = [r, c];
          actions.showPair(pathology, anatomy);
        },
      },
      all ? "" : p < 0.01 ? "·" : probability(p).replace("0.", "."),
    );
    setVars(button, { "--share": p });
    return h("td", {}, button);
  }

  const isShown = (id) => state.shown.some((entry) => entry.id === id);

  function move(event, height, width) {
    const at = document.activeElement.dataset.part?.split(",").map(Number);
    const by = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!at || !by) return;
    event.preventDefault();
    const next = [Math.min(height - 1, Math.max(-1, at[0] + by[0])), Math.min(width - 1, Math.max(-1, at[1] + by[1]))];
    const target = sheet.querySelector(`[data-part="${next}"]`);
    if (!target) return; // the empty corner
    document.activeElement.tabIndex = -1;
    target.tabIndex = 0;
    cursor = next;
    target.focus();
  }

  store.on(["tab", "films", "current", "model", "shown", "inquiry", "report"], draw);
}

/** What a report says of each pair, by "pathology anatomy". */
function saidBy(facts) {
  return new Map(
    (facts?.facts ?? [])
      .filter(({ settles }) => settles)
      .map(({ pathology, anatomy, presence }) => [`${pathology} ${anatomy}`, presence]),
  );
}
