// What can be taken away: the view as a picture, the reading as JSON, the view as a link. The first two say in themselves that
// this is no medical device, and name neither file nor patient.

import { css, heatColour, tint } from "./colours.js";
import { $, announce, download, h } from "./dom.js";
import { probability, value } from "./format.js";
import { drawn, topOf, unitOf } from "./layers.js";
import { toFragment } from "./link.js";
import { entryOf, findingOf } from "./session.js";
import { compare } from "./verdicts.js";

const LINE = 22; // pixels of the page between two lines of a picture's caption

export function createExport(store, stage) {
  const { state } = store;
  const dialog = $("#export-dialog");
  const said = h("p", { class: "soft small", role: "status" });
  const link = h("input", { type: "text", readonly: true, id: "link", "aria-label": "Link to this view" });
  const choice = (id, title, detail, act) =>
    h(
      "button",
      { type: "button", class: "choice", id, onclick: act },
      h("b", {}, title),
      h("span", { class: "soft small" }, detail),
    );
  dialog.append(
    h(
      "header",
      {},
      h("h2", { id: "export-title" }, "Export and share"),
      h("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, "Close"),
    ),
    choice(
      "export-png",
      "Picture (PNG)",
      "The film as it is shown, with its maps, what they mean, and which model read it",
      savePicture,
    ),
    choice(
      "export-json",
      "Reading (JSON)",
      "Findings, places, matrix and report of this film, as the server gave them",
      saveReading,
    ),
    choice(
      "export-link",
      "Copy a link to this view",
      "Model, findings, window and zoom. A film of your own is not in it",
      copyLink,
    ),
    link,
    said,
    h(
      "p",
      { class: "soft small" },
      state.disclaimer || "Research software. Not a medical device: not for diagnosis or treatment.",
    ),
  );

  function open() {
    if (!state.current) return;
    said.textContent = "";
    link.value = address();
    dialog.showModal();
  }

  const address = () => `${location.origin}${location.pathname}#${toFragment(state)}`;

  async function copyLink() {
    link.select();
    const copied = await navigator.clipboard?.writeText(link.value).then(
      () => true,
      () => false,
    );
    said.textContent = copied ? "The link is copied." : "Copy the link from the box: it is selected.";
    if (!state.current.example) said.textContent += " Whoever opens it must have the film, and drops it there.";
  }

  async function savePicture() {
    if (!state.current.pixels) return;
    const blob = await new Promise((resolve) => compose().toBlob(resolve, "image/png"));
    download(blob, `medlip-view-${state.current.key}.png`);
    said.textContent = "The picture is saved.";
    announce(said.textContent);
  }

  /** Draw the panes side by side, and below them what a person must know who sees the picture alone. */
  function compose() {
    const panes = stage.panes();
    const density = panes[0].renderer.density;
    const gap = 2;
    const boxes = panes.map(({ element }) => ({ width: element.clientWidth, height: element.clientHeight }));
    const lines = panes.map(captionOf);
    const most = Math.max(...lines.map(({ length }) => length));
    const height = boxes[0].height;
    const total = boxes.reduce((sum, { width }) => sum + width + gap, -gap);
    const canvas = document.createElement("canvas");
    canvas.width = Math.round(total * density);
    canvas.height = Math.round((height + LINE * (most + 2)) * density);
    const context = canvas.getContext("2d");
    context.scale(density, density);
    context.fillStyle = "#000";
    context.fillRect(0, 0, total, canvas.height);
    let left = 0;
    panes.forEach(({ element }, k) => {
      const { width } = boxes[k];
      for (const drawing of element.querySelectorAll("canvas")) context.drawImage(drawing, left, 0, width, height);
      writeMarkers(context, left, width, height);
      lines[k].forEach(({ text, colour }, line) =>
        write(context, text, left + 14, height + LINE * (line + 1), width - 28, colour),
      );
      left += width + gap;
    });
    write(context, state.disclaimer, 14, height + LINE * (most + 1.3), total - 28, "#ffb27a", 600);
    return canvas;
  }

  function captionOf({ model }) {
    const film = state.current;
    const { reading } = entryOf(film, model);
    const { name, version, hash } = model;
    const scale = ({ map }) => `scale 0 to ${value(topOf(map, state.stretched))}, ${unitOf(map)}`;
    const alone = state.shown.length === 1;
    return [
      {
        text: `${name} ${version} (${hash.slice(0, 8)})   window ${value(film.window.width)}, level ${value(film.window.center)}`,
        colour: "#b9c2c9",
      },
      ...(reading?.doubts ?? []).map((doubt) => ({ text: `! May mean little: ${doubt}`, colour: "#f49a90" })),
      ...drawn(state, reading).map(({ finding, slot }) => ({
        text: `■ ${finding.label} ${probability(finding.probability)}${reading.calibrated ? "" : ", not calibrated"}; ${scale(finding)}`,
        colour: css(alone ? heatColour(0.7) : tint(slot)),
      })),
    ];
  }

  function writeMarkers(context, left, width, height) {
    const [first, second] = state.current.view.flip ? ["L", "R"] : ["R", "L"];
    write(context, first, left + 16, height / 2, 40, "#e7eaed", 600, 20);
    write(context, second, left + width - 30, height / 2, 40, "#e7eaed", 600, 20);
  }

  function write(context, text, x, y, width, colour, weight = 400, size = 14) {
    context.font = `${weight} ${size}px system-ui, sans-serif`;
    context.fillStyle = colour;
    context.fillText(text, x, y, width);
  }

  async function saveReading() {
    const film = state.current;
    const readings = [state.model, state.second]
      .filter(Boolean)
      .map((model) => entryOf(film, model).reading)
      .filter(Boolean);
    const { study } = film;
    const content = {
      disclaimer: state.disclaimer,
      film: {
        example: film.example,
        sha256: await digest(film.file),
        height: film.pixels?.height,
        width: film.pixels?.width,
      },
      readings: readings.map(({ answer, asked }) => ({
        ...answer,
        asked: asked.map(({ id, probability: p }) => ({ text: id, probability: p })),
      })),
      report: study.facts && {
        text: study.factsOf,
        facts: study.facts.facts,
        compared: readings.length ? compare(study.facts.facts, readings[0]).map(plain) : [],
      },
      view: {
        link: address(),
        window: film.window,
        shown: state.shown.map(({ id }) => findingOf(readings[0], id)?.label ?? id),
      },
    };
    download(new Blob([JSON.stringify(content, null, 2)], { type: "application/json" }), `medlip-reading-${film.key}.json`);
    said.textContent = "The reading is saved.";
    announce(said.textContent);
  }

  const plain = ({ kind, pathology, anatomies, presence, finding }) => ({
    verdict: kind,
    pathology,
    anatomies,
    report: presence || null,
    image: finding?.probability ?? null,
  });

  return { open };
}

/** Tell which file was read without naming it; null where the browser can't (a page without TLS that isn't of this machine). */
async function digest(file) {
  if (!file || !globalThis.crypto?.subtle) return null;
  const bytes = new Uint8Array(await crypto.subtle.digest("SHA-256", await file.arrayBuffer()));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
