// Every key, in one table: what it does, and what the help says of it.

import { $, h } from "./dom.js";
import { TOOLS } from "./gestures.js";

const KEPT = "medlip-keys"; // "off" where single keys are turned off

const GESTURES = [
  ["Drag", "what the tool says: window and level at first"],
  ["Click", "ask what is said at a place"],
  ["Wheel, two fingers, right drag", "zoom"],
  ["Shift + drag, middle drag", "pan"],
  ["Double click", "all of the film, and its own window"],
  ["Click a finding", "show its map alone; its colour box, or Shift + click: with the others"],
];

const CLOSER = [
  ["Arrows on the film", "what dragging does with the tool"],
  ["Enter on the film", "ask what is said at the crosshair, or in the middle"],
  ["↑ ↓ in the list", "from finding to finding; Enter: alone, Space: with the others"],
  ["Arrows in the matrix", "from cell to cell; Enter: show"],
  ["Tab, Shift + Tab", "from part to part"],
];

/**
 * Attach the keys.
 *
 * @param {object} actions by name, each without arguments but for `finding(n)` and `tool(id)`
 */
export function createKeyboard(actions) {
  const keys = [
    {
      group: "Findings",
      keys: ["j", "k"],
      label: "next, previous finding",
      act: (key) => actions.nextFinding(key === "j" ? 1 : -1),
    },
    {
      group: "Findings",
      keys: [..."123456789"],
      shown: "1 … 9",
      label: "show or hide the nth finding, with the others",
      act: (key) => actions.nthFinding(Number(key) - 1),
    },
    { group: "Findings", keys: ["m"], label: "hide or show all maps", act: actions.toggleMaps },
    {
      group: "Findings",
      keys: ["[", "]"],
      label: "opacity of the maps",
      act: (key) => actions.changeBy("opacity", key === "]" ? 0.05 : -0.05),
    },
    {
      group: "Findings",
      keys: ["{", "}"],
      label: "threshold of the maps",
      act: (key) => actions.changeBy("floor", key === "}" ? 0.05 : -0.05),
    },
    { group: "Findings", keys: ["s"], label: "stretch maps to their own highest value", act: actions.toggleStretch },
    { group: "Findings", keys: ["/"], label: "find or ask", act: actions.focusAsk },
    { group: "Findings", keys: ["g"], label: "findings, matrix, report, about", act: actions.nextTab },
    ...TOOLS.map(({ id, key, label }) => ({
      group: "Film",
      keys: [key],
      label: `tool: ${label.toLowerCase()}`,
      act: () => actions.tool(id),
    })),
    {
      group: "Film",
      keys: ["+", "=", "-"],
      shown: "+ −",
      label: "zoom",
      act: (key) => actions.zoom(key === "-" ? 1 / 1.25 : 1.25),
    },
    { group: "Film", keys: ["i"], label: "invert", act: actions.invert },
    { group: "Film", keys: ["f"], label: "flip, film and maps together", act: actions.flip },
    { group: "Film", keys: ["r"], label: "reset window, zoom, flip and inversion", act: actions.reset },
    { group: "Page", keys: ["o"], label: "open films or an example", act: actions.open },
    { group: "Page", keys: ["b", "n"], label: "previous, next film", act: (key) => actions.step(key === "n" ? 1 : -1) },
    { group: "Page", keys: ["c"], label: "compare with the next model, or with none", act: actions.compare },
    { group: "Page", keys: ["e"], label: "export and share", act: actions.export },
    { group: "Page", keys: ["t"], label: "dark or light", act: actions.theme },
    { group: "Page", keys: ["?"], label: "this help", act: actions.help },
    { group: "Page", keys: ["Escape"], shown: "Esc", label: "close what is open, leave a text", act: actions.escape },
  ];
  const byKey = new Map(keys.flatMap((entry) => entry.keys.map((key) => [key, entry])));

  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    const entry = byKey.get(event.key) ?? byKey.get(event.key.toLowerCase());
    if (!entry) return;
    const typing = event.target.closest("input:not([type=range], [type=checkbox]), textarea, select");
    if (document.querySelector("dialog[open]")) return; // which closes itself
    if (event.key === "Escape" && typing) typing.blur(); // so that keys act again
    else if (typing || (event.key !== "Escape" && off())) return;
    else entry.act(event.key);
    event.preventDefault();
  });

  const dialog = $("#help-dialog");
  const single = h("input", {
    type: "checkbox",
    checked: !off(),
    onchange: () => localStorage.setItem(KEPT, single.checked ? "on" : "off"),
  });
  const caps = (words) => words.split(" ").map((word) => h("kbd", {}, word));
  const group = (title, rows) =>
    h(
      "section",
      {},
      h("h3", {}, title),
      h("dl", {}, ...rows.flatMap(([term, meaning]) => [h("dt", {}, term), h("dd", {}, meaning)])),
    );
  const table = (name) =>
    group(
      name,
      keys
        .filter((entry) => entry.group === name)
        .map((entry) => [caps(entry.shown ?? entry.keys.join(" ").toUpperCase()), entry.label]),
    );
  dialog.append(
    h(
      "header",
      {},
      h("h2", { id: "help-title" }, "Keys and gestures"),
      h("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, "Close"),
    ),
    h(
      "div",
      { class: "help-columns" },
      ...["Findings", "Film", "Page"].map(table),
      group("Mouse and touch", GESTURES),
      group("With the keyboard alone", CLOSER),
    ),
    h("p", {}, h("label", { class: "check" }, single, " Single keys do something")),
    h("p", { class: "soft small" }, "Not a medical device: research software, not for diagnosis or treatment."),
  );

  return { help: () => dialog.showModal() };
}

const off = () => localStorage.getItem(KEPT) === "off";
