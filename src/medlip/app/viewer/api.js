// The server's answers as the page uses them. No other file knows paths, fields or headers.

const TOKEN = "medlip-token"; // kept for this tab alone
const PATIENCE = 30; // seconds at most that a busy server is waited for before its second chance

/** What went wrong, in sentences for people. `kind`: "gone", "busy", "token", "cancelled", "too-large" or "refused". */
export class Problem extends Error {
  constructor(kind, title, detail) {
    super(`${title}. ${detail}`);
    Object.assign(this, { kind, title, detail });
  }

  /** Whether the same request may succeed later. */
  get passing() {
    return this.kind === "gone" || this.kind === "busy" || this.kind === "token";
  }
}

const gone = () =>
  new Problem(
    "gone",
    "The server doesn't answer",
    "Start it again with “medlip serve”. Nothing here is lost: it goes on when the server is back.",
  );

/** What it means that no whole answer came: nobody wanted it any more, or the server is gone. */
const brokenOff = (error) => (error.name === "AbortError" ? new Problem("cancelled", "Cancelled", "") : gone());

/** Ask the server; throw a `Problem` for any answer but a good one. A busy server gets a second chance after a while. */
async function request(path, { body, json, signal, retry = true } = {}) {
  const headers = {};
  const token = sessionStorage.getItem(TOKEN);
  if (token) headers.Authorization = `Bearer ${token}`;
  if (json !== undefined) headers["Content-Type"] = "application/json";
  const sent = json === undefined ? body : JSON.stringify(json);
  let response;
  try {
    response = await fetch(path, { method: sent === undefined ? "GET" : "POST", body: sent, headers, signal });
  } catch (error) {
    throw brokenOff(error);
  }
  if (response.ok) return response;
  if (response.status === 503 && retry) {
    await wait(Math.min(PATIENCE, Number(response.headers.get("Retry-After")) || 1), signal);
    return request(path, { body, json, signal, retry: false });
  }
  throw await problemOf(response);
}

async function problemOf(response) {
  const said = await response.json().catch(() => ({}));
  const title = (said.title ?? `The server answered ${response.status}`).replace(/\.$/, "");
  const kind = { 401: "token", 413: "too-large", 503: "busy" }[response.status] ?? "refused";
  return new Problem(kind, title, said.detail ?? "Try again; if it stays so, look at the server's log.");
}

function wait(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new Problem("cancelled", "Cancelled", ""));
    });
  });
}

/** Read a body that may break off: a server that dies in the middle of an answer is gone. */
async function whole(response, read) {
  try {
    return await response[read]();
  } catch (error) {
    throw brokenOff(error);
  }
}

const json = async (path, options) => whole(await request(path, options), "json");

/** Keep the token that the server asks for, for this tab. */
export function useToken(token) {
  sessionStorage.setItem(TOKEN, token);
}

/** Whether the server answers at all. */
export async function answers() {
  return fetch("/health").then(
    (response) => response.ok,
    () => false,
  );
}

/** @returns {{models: Model[], preferred: string, limits: object, disclaimer: string}} what the server offers */
export async function models() {
  const { models: all, default: preferred, limits, disclaimer } = await json("/v1/models");
  return { models: all.map(modelOf), preferred, limits, disclaimer };
}

function modelOf(model) {
  const named = (concepts) => new Map(concepts.map((concept) => [concept.name, concept]));
  return { ...model, pathologies: named(model.pathologies), anatomies: named(model.anatomies) };
}

/** @returns {{id: string, title: string, report: string}[]} X-rays that the server has to try it with */
export async function examples() {
  return (await json("/v1/examples")).examples;
}

/** @returns {Blob} the file of an example */
export async function example(id, signal) {
  return whole(await request(`/v1/examples/${encodeURIComponent(id)}`, { signal }), "blob");
}

/** @returns {import("./pixels.js").Film} all the bits that a file has, upright, with what reading it left out or turned */
export async function pixels(file, signal) {
  const response = await request("/v1/pixels", { body: form({ file }), signal });
  const number = (name) => Number(response.headers.get(name));
  const values = new Uint16Array(await whole(response, "arrayBuffer"));
  return {
    width: number("X-Image-Width"),
    height: number("X-Image-Height"),
    bits: number("X-Image-Bits"),
    top: 2 ** number("X-Image-Bits") - 1,
    window: { center: number("X-Window-Center"), width: number("X-Window-Width") },
    values,
    notes: JSON.parse(response.headers.get("X-Image-Notes") || "[]"),
  };
}

/** @returns {Reading} what a model sees in a file */
export async function read(file, model, signal) {
  const body = form({ file, model: model.id, maps: "all" });
  return readingOf(await json("/v1/read", { body, signal }), model);
}

/** @returns {Finding[]} what a model answers to texts, and where it sees them */
export async function ask(file, model, texts, signal) {
  const body = form({ file, model: model.id, ask: texts, maps: "all" });
  const answer = await json("/v1/ask", { body, signal });
  return asked(answer, mapsOf(answer.maps));
}

/** @returns {{facts: Fact[], notes: string[]}} what a report says, with offsets in code points */
export async function facts(report, model) {
  return json("/v1/facts", { json: { report, model: model.id } });
}

function form(fields) {
  const data = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    if (value instanceof Blob)
      data.append(name, value, "image"); // what the file is called is nobody's business
    else for (const one of [value].flat()) data.append(name, one);
  }
  return data;
}

/**
 * @typedef {object} Finding something that a model was asked for
 * @property {string} id its name in the vocabulary, or the text that was asked
 * @property {string} label for people
 * @property {number} probability in [0, 1]
 * @property {number | null} threshold from which on it counts as present; null for a text
 * @property {{anatomy: string, probability: number}[]} places likeliest first
 * @property {boolean} asked whether it is a text
 * @property {object | null} map {width, height, values, absolute}
 */
function readingOf(answer, model) {
  const maps = mapsOf(answer.maps);
  const found = answer.findings.map((finding) => ({
    id: finding.pathology,
    label: model.pathologies.get(finding.pathology)?.display ?? finding.pathology,
    probability: finding.probability,
    threshold: answer.thresholds?.[finding.pathology] ?? null,
    places: finding.anatomies,
    asked: false,
    map: maps.get(finding.pathology) ?? null,
  }));
  return {
    model,
    findings: found,
    asked: [], // answers to texts, as they come
    matrix: answer.matrix,
    doubts: answer.doubts,
    notes: answer.notes,
    calibrated: answer.calibrated,
    thresholdsFrom: answer.thresholds_from,
    disclaimer: answer.disclaimer,
    answer: { ...answer, maps: undefined }, // as it came, for the export
  };
}

function asked(answer, maps) {
  return answer.asked.map(({ text, probability }) => ({
    id: text,
    label: text,
    probability,
    threshold: null,
    places: [],
    asked: true,
    map: maps.get(text) ?? null,
  }));
}

function mapsOf(maps) {
  return new Map(Object.entries(maps ?? {}).map(([text, map]) => [text, mapOf(map)]));
}

/** A map's values are probabilities where it is absolute; any other is scaled by its own minimum and maximum. */
function mapOf({ height, width, absolute, data }) {
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  const values = new Float32Array(bytes.buffer);
  if (!absolute) {
    const low = values.reduce((least, value) => Math.min(least, value), Infinity);
    const range = Math.max(1e-12, values.reduce((most, value) => Math.max(most, value), -Infinity) - low);
    for (let k = 0; k < values.length; k++) values[k] = (values[k] - low) / range;
  }
  return { width, height, absolute, values };
}
