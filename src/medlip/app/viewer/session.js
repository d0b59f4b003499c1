// What a person does with the page: open films, choose models, show findings, ask, paste a report. It asks the server and keeps
// the answers in the state; how they look is the business of the other files.

import * as api from "./api.js";
import { MOST_SHOWN } from "./colours.js";
import { WHOLE } from "./geometry.js";
import { pyramid } from "./pixels.js";

const AT_ONCE = 2; // films that are read at a time
const LOOK_AGAIN = 1500; // ms before each look whether a server that was gone is back

export const INITIAL = {
  ready: false, // whether the server said what it offers
  models: [],
  model: null,
  second: null, // the model beside it, or null
  limits: {},
  disclaimer: "",
  examples: [],
  films: [],
  current: null,
  texts: [], // asked of every film
  shown: [], // {id, slot}: findings whose maps are drawn, and their colours
  selected: null, // id of the finding that was last looked at
  opacity: 0.75,
  floor: 0.2, // map values below are not drawn, as a share of the scale's top
  stretched: false, // whether a map's own highest value is fully coloured, not 1
  mapsOn: true,
  tool: "window",
  tab: "findings",
  inquiry: null, // {x, y}: a place of the film, or {anatomy}
  notice: null, // a Problem, or {title, detail}, for the whole page
};

export function createSession(store) {
  const { state } = store;
  const queue = []; // films that wait for their turn
  let running = 0;
  let keys = 0;
  let goOn = null; // wakes what waits for the server at the start
  let asking = Promise.resolve(); // texts are asked one after the other: the server refuses a bad one with all beside it

  // Models and examples

  /** Learn what the server offers. What may pass is waited out, so that films and links that came meanwhile are not lost. */
  async function start() {
    while (!state.ready) {
      try {
        const [offer, samples] = await Promise.all([api.models(), api.examples()]);
        const model = offer.models.find(({ id }) => id === offer.preferred) ?? offer.models[0];
        store.set({
          ready: true,
          models: offer.models,
          limits: offer.limits,
          disclaimer: offer.disclaimer,
          examples: samples,
          model,
          notice: null,
        });
      } catch (problem) {
        if (!problem.passing) {
          store.set({ notice: problem });
          throw problem;
        }
        complain(problem);
        await new Promise((resolve) => (goOn = resolve));
      }
    }
    catchUp();
  }

  function chooseModel(model) {
    const second = state.second === model ? null : state.second;
    store.set({ model, second });
    if (state.current) ensureStudy(state.current);
    for (const study of new Set(state.films.map((film) => film.study))) if (study.report) readReport(study, study.report);
  }

  function compareWith(model) {
    store.set({ second: model });
    if (state.current) ensureAll(state.current);
  }

  // Films

  /** Open files as one study: one report belongs to them. */
  function openFiles(files) {
    const study = { report: "", facts: null, problem: null };
    const films = [...files].map((file) => addFilm({ label: file.name, file, study, example: null }));
    if (films.length) select(films[0]);
    return films;
  }

  async function openExample({ id, title, report }) {
    const held = state.films.find((film) => film.example === id);
    if (held) return select(held);
    const film = addFilm({ label: title, file: null, study: { report, facts: null, problem: null }, example: id });
    select(film);
    if (report) readReport(film.study, report);
    return film;
  }

  function addFilm(content) {
    const film = {
      key: ++keys,
      status: "reading",
      problem: null,
      pixels: null,
      levels: null,
      window: null,
      view: WHOLE,
      readings: new Map(),
      ...content,
    };
    film.stop = new AbortController();
    store.set({ films: [...state.films, film] });
    queue.push(film);
    turn();
    return film;
  }

  function turn() {
    while (running < AT_ONCE && queue.length) {
      running += 1;
      load(queue.shift()).finally(() => {
        running -= 1;
        turn();
      });
    }
  }

  async function load(film) {
    film.status = "reading";
    film.problem = null;
    store.touch("films");
    try {
      film.file ??= await api.example(film.example, film.stop.signal);
      refuseTooLarge(film.file);
      film.sendable = true;
      const reading = ensureAll(film);
      film.pixels = await api.pixels(film.file, film.stop.signal);
      film.levels = pyramid(film.pixels);
      film.window ??= film.pixels.window;
      film.status = "ready";
      store.touch("films");
      await reading;
    } catch (problem) {
      if (problem.kind === "cancelled") return;
      Object.assign(film, { status: "failed", problem });
      store.touch("films");
      complain(problem);
    }
  }

  function refuseTooLarge(file) {
    const most = state.limits.upload_bytes;
    if (most && file.size > most) {
      const size = (bytes) => `${(bytes / 2 ** 20).toFixed(bytes < 2 ** 20 ? 2 : 0)} MB`;
      throw new api.Problem(
        "too-large",
        "The file is too large",
        `It has ${size(file.size)}, the server takes ${size(most)}. Save the image with compression, or raise the server's limit.`,
      );
    }
  }

  function select(film) {
    store.set({ current: film, inquiry: null });
    if (film) ensureStudy(film);
    return film;
  }

  function step(by) {
    const at = state.films.indexOf(state.current);
    const next = state.films[at + by];
    if (next) select(next);
  }

  function close(film) {
    film.stop.abort();
    const at = state.films.indexOf(film);
    const films = state.films.filter((other) => other !== film);
    store.set({ films });
    if (state.current === film) select(films[Math.min(at, films.length - 1)] ?? null);
  }

  function retry(film) {
    for (const entry of film.readings.values()) entry.problem = null;
    if (!queue.includes(film)) queue.push(film);
    turn();
  }

  // Readings: each film by each model that is looked at, the current one with every text that was asked

  const activeModels = () => [state.model, state.second].filter(Boolean);

  function ensureAll(film, models = activeModels()) {
    return Promise.all(models.map((model) => ensure(film, model)));
  }

  /** See to it that a film was read, then those that are summed up with it. */
  async function ensureStudy(film) {
    await ensureAll(film);
    for (const other of state.films) if (other !== film && other.study === film.study) await ensureAll(other);
  }

  /** See to it that a model has read a film, and of the current one answered every text; what is under way is waited for. */
  function ensure(film, model) {
    const entry = film.readings.get(model.id) ?? { reading: null, problem: null, busy: Promise.resolve() };
    film.readings.set(model.id, entry);
    entry.busy = entry.busy.then(() => complete(film, model, entry));
    return entry.busy;
  }

  async function complete(film, model, entry) {
    const unanswered = () => {
      const answered = new Set(entry.reading.asked.map(({ id }) => id));
      return model.can.open_text && film === state.current ? state.texts.filter((text) => !answered.has(text)) : [];
    };
    const refused = !entry.reading && entry.problem && !entry.problem.passing; // until it is tried again
    if (!film.sendable || refused || (entry.reading && !unanswered().length)) return;
    Object.assign(entry, { problem: null, pending: true });
    store.touch("films");
    try {
      if (!entry.reading) {
        entry.reading = await api.read(film.file, model, film.stop.signal);
        store.touch("films"); // what it says is shown while texts are asked
      }
      const texts = unanswered();
      const answers = texts.length ? await api.ask(film.file, model, texts, film.stop.signal) : [];
      entry.reading.asked.push(...answers.filter(({ id }) => state.texts.includes(id))); // it may be taken away meanwhile
    } catch (problem) {
      if (problem.kind !== "cancelled") entry.problem = problem;
      complain(problem);
    }
    entry.pending = false;
    store.touch("films");
  }

  // What is shown

  /** Show one finding alone, or none when it is alone already. */
  function showOnly(id) {
    const alone = state.shown.length === 1 && state.shown[0].id === id && state.mapsOn;
    store.set({ shown: alone ? [] : [{ id, slot: 0 }], selected: id, mapsOn: true });
  }

  /** Add a finding to what is shown, or take it away. */
  function toggle(id) {
    const held = state.shown.some((entry) => entry.id === id);
    const free = [...Array(MOST_SHOWN).keys()].find((slot) => !state.shown.some((entry) => entry.slot === slot));
    if (!held && free === undefined) {
      return store.set({
        notice: {
          title: `${MOST_SHOWN} findings are shown at once`,
          detail: "There is a colour for no more: hide one first.",
        },
      });
    }
    const shown = held ? state.shown.filter((entry) => entry.id !== id) : [...state.shown, { id, slot: free }];
    return store.set({ shown, selected: id, mapsOn: true });
  }

  /** Ask a text of every film: each answers when it is looked at. */
  function ask(text) {
    asking = asking.catch(() => {}).then(() => askOne(text));
    return asking;
  }

  async function askOne(text) {
    const most = state.limits.texts ?? 32;
    if (!state.texts.includes(text)) {
      if (state.texts.length >= most)
        throw new api.Problem("refused", `${most} texts were asked already`, "Take one away first.");
      store.set({ texts: [...state.texts, text] });
    }
    store.set({ shown: [{ id: text, slot: 0 }], selected: text, mapsOn: true });
    const film = state.current;
    if (!film) return;
    const models = activeModels(); // others may be chosen meanwhile
    await ensureAll(film, models);
    const entries = models.map((model) => film.readings.get(model.id));
    const failed = entries.find((entry) => entry.problem);
    if (failed && !failed.problem.passing) {
      forget(text);
      const { problem } = failed;
      if (entries.every((entry) => entry.reading)) for (const entry of entries) entry.problem = null;
      throw problem;
    }
  }

  function forget(text) {
    for (const film of state.films) {
      for (const { reading } of film.readings.values()) {
        if (reading) reading.asked = reading.asked.filter(({ id }) => id !== text);
      }
    }
    store.set({ texts: state.texts.filter((other) => other !== text), shown: state.shown.filter(({ id }) => id !== text) });
    store.touch("films");
  }

  // Reports

  async function readReport(study, report) {
    study.report = report;
    const wanted = (study.wanted = {}); // a later text makes this answer worthless
    if (!report.trim()) Object.assign(study, { facts: null, problem: null, pending: false });
    else {
      study.pending = true;
      store.touch("report");
      const outcome = await api.facts(report, state.model).then(
        (answer) => ({ facts: answer, problem: null }),
        (problem) => ({ problem, facts: null }),
      );
      if (study.wanted !== wanted) return;
      Object.assign(study, outcome, { pending: false, factsOf: report });
      if (outcome.problem) complain(outcome.problem);
    }
    store.touch("report");
  }

  // Troubles that concern the whole page

  let waiting = null;

  function complain(problem) {
    if (!problem.passing) return;
    store.set({ notice: problem });
    if (problem.kind === "gone") back();
  }

  /** Wait until the server answers again, then go on. */
  function back() {
    waiting ??= (async () => {
      do await new Promise((resolve) => setTimeout(resolve, LOOK_AGAIN));
      while (!(await api.answers()));
      waiting = null;
      resume();
    })();
  }

  /** Go on where a passing problem stopped it. */
  function resume() {
    store.set({ notice: null });
    if (state.ready) catchUp();
    else goOn?.();
  }

  /** Do what was left undone: by a passing problem, or because films came before the models were known. */
  function catchUp() {
    for (const film of state.films) {
      const entries = [...film.readings.values()];
      if (film.problem?.passing) retry(film);
      else if (!entries.length || entries.some(({ problem }) => problem?.passing)) ensureAll(film);
    }
    for (const study of new Set(state.films.map((film) => film.study)))
      if (study.problem?.passing) readReport(study, study.report);
  }

  function giveToken(token) {
    api.useToken(token);
    resume();
  }

  return {
    start,
    chooseModel,
    compareWith,
    openFiles,
    openExample,
    select,
    step,
    close,
    retry,
    showOnly,
    toggle,
    ensureStudy,
    ask,
    forget,
    readReport,
    resume,
    giveToken,
  };
}

/** Return what a model said of a film so far: {reading, problem, pending}. */
export function entryOf(film, model) {
  return (film && model && film.readings.get(model.id)) ?? { reading: null, problem: null, pending: false };
}

/** Return the findings and the asked texts of a reading. */
export function everything(reading) {
  return reading ? [...reading.asked, ...reading.findings] : [];
}

/** Return one of them, or undefined. */
export function findingOf(reading, id) {
  return everything(reading).find((finding) => finding.id === id);
}
