// Puts the page together: the state, the session with the server, and the parts that show it.
//
//   state      store.js, session.js (what a person does), link.js (the view as a link)
//   server     api.js
//   film       stage.js, gestures.js, renderer.js, pixels.js, geometry.js
//   maps       layers.js, maps.js, places.js, colours.js, scales.js
//   panels     findings.js + study.js, matrix.js, report.js + verdicts.js, about.js, inquiry.js (what is said here), strip.js
//   page       keyboard.js, export.js, welcome.js, theme.js, first.js

import { createAbout } from "./about.js";
import { $, announce, h } from "./dom.js";
import { createExport } from "./export.js";
import { createFindings } from "./findings.js";
import { WHOLE, zoomAt } from "./geometry.js";
import { createInquiry } from "./inquiry.js";
import { createKeyboard } from "./keyboard.js";
import { fromFragment, toFragment } from "./link.js";
import { createMatrix } from "./matrix.js";
import { createNotice } from "./notice.js";
import { createReport } from "./report.js";
import { createScales } from "./scales.js";
import { INITIAL, createSession } from "./session.js";
import { createStage } from "./stage.js";
import { createStore } from "./store.js";
import { createStrip } from "./strip.js";
import { toggleTheme } from "./theme.js";
import { createToolbar } from "./toolbar.js";
import { createWelcome } from "./welcome.js";

const TABS = ["findings", "matrix", "report", "about"];

const store = createStore({ ...INITIAL });
const { state } = store;
const session = createSession(store);

const changeFilm = (change) => {
  const film = state.current;
  if (!film?.pixels) return;
  Object.assign(film, change(film));
  store.touch("view");
};
const setView = (view) => changeFilm(() => ({ view }));

const actions = {
  ...session,
  setView,
  setWindow: (window) => changeFilm(() => ({ window })),
  point: ({ x, y }, { model }) => {
    const outside = x < 0 || y < 0 || x > 1 || y > 1;
    store.set({ inquiry: outside ? null : { x, y, model: model.id } });
  },
  inquire: (inquiry) => store.set({ inquiry }),
  showPair: (pathology, anatomy) => {
    store.set({ shown: [{ id: pathology, slot: 0 }], selected: pathology, mapsOn: true, inquiry: { anatomy } });
  },
  showOn: (film, id) => {
    session.select(film);
    actions.show(id);
  },
  show: (id) => store.set({ shown: [{ id, slot: 0 }], selected: id, mapsOn: true }),
  nextFinding: (by) => {
    const id = findings.next(by);
    if (id) actions.show(id);
  },
  nthFinding: (n) => {
    const id = findings.nth(n);
    if (id) session.toggle(id);
  },
  toggleMaps: () => store.set({ mapsOn: !state.mapsOn }),
  toggleStretch: () => store.set({ stretched: !state.stretched }),
  changeBy: (key, by) => {
    store.set({ [key]: Math.min(1, Math.max(0, Number((state[key] + by).toFixed(2)))) });
    announce(`${key === "floor" ? "threshold" : key} ${Math.round(state[key] * 100)} %`);
  },
  focusAsk: () => {
    store.set({ tab: "findings" });
    queueMicrotask(findings.focusAsk);
  },
  nextTab: () => {
    store.set({ tab: TABS[(TABS.indexOf(state.tab) + 1) % TABS.length] });
    queueMicrotask(() => $(`#tab-${state.tab}`).focus());
  },
  tool: (tool) => store.set({ tool }),
  zoom: (factor) =>
    changeFilm(({ pixels, view: before }) => {
      const { clientWidth: width, clientHeight: height } = $(".pane");
      return { view: zoomAt(pixels, before, factor, width / 2, height / 2, width, height) };
    }),
  invert: () => changeFilm(({ view }) => ({ view: { ...view, invert: !view.invert } })),
  flip: () => changeFilm(({ view }) => ({ view: { ...view, flip: !view.flip } })),
  showWhole: () => {
    actions.reset();
    store.set({ inquiry: null }); // the first of the two clicks asked for a place
  },
  reset: () => changeFilm(({ pixels }) => ({ view: WHOLE, window: pixels.window })),
  compare: () => {
    const others = [...state.models.filter((model) => model !== state.model), null];
    session.compareWith(others[(others.indexOf(state.second) + 1) % others.length]);
  },
  choose: () => $("#files").click(),
  open: () => welcome.open(),
  export: () => exports.open(),
  theme: toggleTheme,
  help: () => keyboard.help(),
  escape: () => {
    if (!welcome.close()) store.set({ inquiry: null });
  },
};

const stage = createStage(store, actions);
createScales(store);
createToolbar(store, actions);
const findings = createFindings(store, actions);
createMatrix(store, actions);
createReport(store, actions);
createAbout(store);
createInquiry(store, actions);
createStrip(store, actions);
createNotice(store, actions);
const welcome = createWelcome(store, actions, view);
const exports = createExport(store, stage);
const keyboard = createKeyboard(actions);

// The bar above

for (const [id, choose] of [
  ["model", session.chooseModel],
  ["second", session.compareWith],
]) {
  $(`#${id}`).addEventListener("change", (event) =>
    choose(state.models.find((model) => model.id === event.target.value) ?? null),
  );
}
store.on(["ready", "models", "model", "second"], () => {
  const option = (model) => h("option", { value: model.id }, model.name);
  $("#model").replaceChildren(...state.models.map(option));
  $("#model").value = state.model?.id ?? "";
  $("#second").replaceChildren(
    h("option", { value: "" }, "none"),
    ...state.models.filter((model) => model !== state.model).map(option),
  );
  $("#second").value = state.second?.id ?? "";
  $("#second-pick").hidden = state.models.length < 2;
  if (state.disclaimer) $("#disclaimer").textContent = state.disclaimer;
});
$("#open").addEventListener("click", actions.open);
$("#export").addEventListener("click", actions.export);
$("#theme").addEventListener("click", actions.theme);
$("#help").addEventListener("click", actions.help);
store.on(["films", "current"], () => {
  $("#export").disabled = !state.current?.pixels;
});

// The tabs of the panel

store.on(["tab"], () => {
  for (const name of TABS) {
    const chosen = name === state.tab;
    $(`#tab-${name}`).setAttribute("aria-selected", String(chosen));
    $(`#tab-${name}`).tabIndex = chosen ? 0 : -1;
    $(`#panel-${name}`).hidden = !chosen;
  }
  $("#desk").dataset.tab = state.tab;
});
for (const name of TABS) $(`#tab-${name}`).addEventListener("click", () => store.set({ tab: name }));
$("[role=tablist]").addEventListener("keydown", (event) => {
  const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!by) return;
  store.set({ tab: TABS[(TABS.indexOf(state.tab) + by + TABS.length) % TABS.length] });
  queueMicrotask(() => $(`#tab-${state.tab}`).focus());
});

// The view as a link: followed when the page opens and when it changes, kept while one works

let linked = null; // how a film was seen that the link doesn't hold: for the next one that is opened

/** How a film that is opened first is to be seen, as the link says. */
function view() {
  const wanted = linked;
  linked = null;
  return wanted;
}

async function follow(fragment) {
  if (!fragment) return;
  const { example, model, second, patch, film } = fromFragment(fragment);
  const byHash = (hash) => state.models.find((one) => one.hash === hash);
  if (model && !byHash(model)) {
    store.set({
      notice: {
        title: "The link was made with another model",
        detail: `This server doesn't have it (${model.slice(0, 8)}): what you see is from ${state.model.name}.`,
      },
    });
  }
  store.set({ ...patch, model: byHash(model) ?? state.model, second: byHash(second) ?? null });
  linked = film;
  if (state.current) session.ensureStudy(state.current);
  const known = state.examples.find(({ id }) => id === example);
  if (known) {
    await welcome.openExample(known);
    store.set({ inquiry: patch.inquiry ?? null });
  } else if (film)
    welcome.explain("This link shows a film that isn't on this server. Drop the same file, and you see it as it was seen.");
}

let timer = 0;
store.on(
  [
    "current",
    "films",
    "model",
    "second",
    "texts",
    "shown",
    "opacity",
    "floor",
    "stretched",
    "mapsOn",
    "tab",
    "inquiry",
    "view",
  ],
  () => {
    clearTimeout(timer);
    if (state.current) timer = setTimeout(() => history.replaceState(null, "", `#${toFragment(state)}`), 300);
  },
);
addEventListener("hashchange", () => follow(location.hash.slice(1)));

const fragment = location.hash.slice(1);
session.start().then(
  () => follow(fragment),
  () => {},
); // what went wrong stands in the notice
