// The report beside the image: paste or type it, and see where both agree and where they don't, each with its sentence.

import { $, h } from "./dom.js";
import { counted, display, probability } from "./format.js";
import { entryOf } from "./session.js";
import { KINDS, compare, isPresent, offset } from "./verdicts.js";

const PAUSE = 700; // ms after the last key that the report is read

const SAID = {
  contradicts: { title: "Contradicts", mark: "≠", counted: "contradiction" },
  side: { title: "Other side", mark: "⇄", counted: "other side" },
  image: { title: "Only the image", mark: "+", counted: "only in the image" },
  agrees: { title: "Agrees", mark: "✓", counted: "agreement" },
  hedged: { title: "Left open", mark: "?", counted: "left open" },
  apart: { title: "Not compared", mark: "–", counted: "not compared" },
};

export function createReport(store, actions) {
  const { state } = store;
  const text = h("textarea", {
    id: "report",
    rows: 7,
    spellcheck: "false",
    placeholder: "Paste or type the report. It is read when you pause.",
  });
  const results = h("div", { class: "verdicts", "aria-live": "polite" });
  const clear = h(
    "button",
    {
      type: "button",
      class: "quiet",
      onclick: () => {
        text.value = "";
        read();
        text.focus();
      },
    },
    "Clear",
  );
  let timer = 0;
  let study = null;
  $("#panel-report").append(
    h("div", { class: "sheet-head" }, h("label", { for: "report" }, "Report"), clear),
    text,
    results,
  );

  function read() {
    clearTimeout(timer);
    if (study) actions.readReport(study, text.value);
  }
  text.addEventListener("input", () => {
    clearTimeout(timer);
    if (study) study.report = text.value; // kept with its study, whatever is looked at next
    timer = setTimeout(read, PAUSE);
  });
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) read();
  });
  text.addEventListener("blur", () => study && study.report !== (study.factsOf ?? "") && read());

  function draw() {
    const film = state.current;
    if (film?.study !== study) {
      clearTimeout(timer);
      study = film?.study ?? null;
      text.value = study?.report ?? "";
    }
    text.disabled = !study || !state.ready;
    clear.hidden = !text.value;
    const { reading } = entryOf(film, state.model);
    results.replaceChildren(...outcome(reading).filter(Boolean));
  }

  function outcome(reading) {
    if (!study) return [h("p", { class: "soft" }, "Open a film first: its report is compared with it here.")];
    if (study.problem) return [h("p", { class: "trouble" }, h("b", {}, `${study.problem.title}. `), study.problem.detail)];
    if (!study.facts)
      return [
        h(
          "p",
          { class: "soft" },
          study.pending ? "Reading the report …" : "Facts of the report appear here beside those of the image.",
        ),
      ];
    const notes = study.facts.notes.map((note) => h("p", { class: "soft small" }, note));
    if (!reading) return [h("p", { class: "soft" }, "The image is still being read."), ...notes];
    if (!study.facts.facts.length)
      return [h("p", { class: "soft" }, "The report states nothing that this model knows."), ...notes];
    const verdicts = compare(study.facts.facts, reading);
    const cards = (chosen) => h("ul", { class: "cards" }, ...chosen.map((verdict) => cardOf(verdict, reading)));
    const apart = verdicts.filter(({ kind }) => kind === "apart");
    const films = state.films.filter((film) => film.study === study).length;
    return [
      summary(verdicts),
      films > 1 && h("p", { class: "soft small" }, `Compared with this film alone, one of ${films} of the study.`),
      cards(verdicts.filter(({ kind }) => kind !== "apart")),
      apart.length
        ? h(
            "details",
            { class: "apart" },
            h(
              "summary",
              {},
              `${counted(apart.length, "statement")} not compared: the model doesn't answer them by themselves`,
            ),
            cards(apart),
          )
        : "",
      ...notes,
    ];
  }

  function summary(verdicts) {
    const number = (kind) => verdicts.filter((verdict) => verdict.kind === kind).length;
    const phrase = (kind) =>
      ["contradicts", "agrees"].includes(kind)
        ? counted(number(kind), SAID[kind].counted)
        : `${number(kind)} ${SAID[kind].counted}`;
    return h(
      "p",
      { class: "summary" },
      ...KINDS.filter(number).map((kind) =>
        h("span", { class: "badge", "data-kind": kind }, h("i", { "aria-hidden": "true" }, SAID[kind].mark), phrase(kind)),
      ),
    );
  }

  function cardOf({ kind, pathology, anatomies, presence, facts, finding }, reading) {
    const { model } = reading;
    const where = anatomies.map((anatomy) => display(model.anatomies, anatomy)).join(", ");
    const name = display(model.pathologies, pathology);
    const head = [
      h("span", { class: "badge", "data-kind": kind }, h("i", { "aria-hidden": "true" }, SAID[kind].mark), SAID[kind].title),
      h("b", {}, name),
      where && h("span", { class: "soft" }, where),
    ];
    return h(
      "li",
      { class: "verdict", "data-kind": kind, "data-pathology": pathology },
      h(
        "button",
        {
          type: "button",
          class: "verdict-head",
          title: "Show it on the film and in the report",
          onclick: () => look(pathology, finding, facts),
        },
        ...head,
      ),
      facts.length ? h("blockquote", {}, ...marked(facts)) : "",
      h("p", { class: "soft small" }, imageSays(finding, presence, model, reading)),
    );
  }

  function imageSays(finding, presence, model, reading) {
    const said = presence ? `Report: ${presence}. ` : "Not in the report. ";
    if (!finding) return `${said}The model doesn't answer it by itself.`;
    const seen = finding.places[0] ? `, ${display(model.anatomies, finding.places[0].anatomy)}` : "";
    return `${said}Image: ${isPresent(finding) ? `present${seen}` : "below its threshold"} (${probability(finding.probability)}${reading.calibrated ? "" : ", not calibrated"}; threshold ${probability(finding.threshold)}).`;
  }

  /** The sentence of a statement with the words marked that say it. */
  function marked([fact]) {
    const report = study.factsOf;
    const { sentence, start, end, sentence_start: from, sentence_end: to } = fact;
    if (from < 0 || start < from || end > to) return [sentence];
    const slice = (a, b) => report.slice(offset(report, a), offset(report, b));
    return [slice(from, start), h("mark", {}, slice(start, end)), slice(end, to)];
  }

  /** Show what a statement is about: its map, and its words in the report. */
  function look(pathology, finding, [fact]) {
    if (finding) actions.show(pathology);
    if (!fact || fact.sentence_start < 0) return;
    const [from, to] = [fact.sentence_start, fact.sentence_end].map((at) => offset(study.factsOf, at));
    text.focus({ preventScroll: true });
    text.setSelectionRange(from, to);
    text.scrollTop = (text.scrollHeight - text.clientHeight) * (from / Math.max(1, text.value.length));
  }

  store.on(["report", "films", "current", "model", "ready"], draw);
  draw();
}
