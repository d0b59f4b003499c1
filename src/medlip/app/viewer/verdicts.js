// A report beside a reading: what both say, and where they differ. Nothing here knows the page.

/**
 * @typedef {object} Verdict one statement of the report, or one finding of the image that the report doesn't mention
 * @property {"contradicts" | "side" | "image" | "agrees" | "hedged" | "apart"} kind
 *   contradicts: one says present, the other absent; side: both say present, on other sides; image: the image alone says it;
 *   agrees; hedged: the report leaves it open; apart: the model doesn't answer it by itself, so there is nothing to compare
 * @property {string} pathology
 * @property {string[]} anatomies where the report says it, or for "image" where the image does
 * @property {string} presence what the report says; "" for "image"
 * @property {object[]} facts of the report, with their sentences
 * @property {object | null} finding of the reading
 */

export const KINDS = ["contradicts", "side", "image", "agrees", "hedged", "apart"];

/**
 * Compare the facts of a report with a reading, the differences first.
 *
 * @param {object[]} facts as the server gives them; only those that settle their (pathology, anatomy) count
 * @param reading of the image
 * @returns {Verdict[]}
 */
export function compare(facts, reading) {
  const found = new Map(reading.findings.map((finding) => [finding.id, finding]));
  const statements = grouped(facts.filter(({ settles }) => settles));
  const verdicts = statements.map((statement) => judge(statement, found.get(statement.pathology) ?? null, reading));
  const mentioned = new Set(statements.map(({ pathology }) => pathology));
  for (const finding of reading.findings) {
    if (isPresent(finding) && !mentioned.has(finding.id)) {
      const anatomies = finding.places.slice(0, 1).map(({ anatomy }) => anatomy);
      verdicts.push({ kind: "image", pathology: finding.id, anatomies, presence: "", facts: [], finding });
    }
  }
  return verdicts.sort((a, b) => KINDS.indexOf(a.kind) - KINDS.indexOf(b.kind));
}

/** Put facts of one pathology that are said alike in one sentence together. */
function grouped(facts) {
  const groups = new Map();
  for (const fact of facts) {
    const key = [fact.pathology, fact.presence, fact.sentence_start].join();
    const group = groups.get(key) ?? { pathology: fact.pathology, presence: fact.presence, anatomies: [], facts: [] };
    if (!group.anatomies.includes(fact.anatomy)) group.anatomies.push(fact.anatomy);
    group.facts.push(fact);
    groups.set(key, group);
  }
  return [...groups.values()];
}

function judge(statement, finding, reading) {
  return { ...statement, finding, kind: kindOf(statement, finding, reading) };
}

function kindOf({ presence, anatomies }, finding, reading) {
  if (!finding || finding.threshold === null) return "apart";
  if (presence === "uncertain") return "hedged";
  const present = isPresent(finding);
  const elsewhere = present && onOtherSide(anatomies, finding, reading);
  if (presence === "absent") return present && !elsewhere ? "contradicts" : "agrees";
  if (!present) return "contradicts";
  return elsewhere ? "side" : "agrees";
}

/** Whether the report names one side, and the image's likeliest place with a side lies on the other. */
function onOtherSide(anatomies, finding, reading) {
  const side = (anatomy) => reading.model.anatomies.get(anatomy)?.side ?? "";
  const said = new Set(anatomies.map(side));
  const seen = finding.places.map(({ anatomy }) => side(anatomy)).find(Boolean);
  return said.size === 1 && !said.has("") && seen !== undefined && !said.has(seen);
}

/** Whether a finding counts as present. */
export function isPresent({ probability, threshold }) {
  return threshold !== null && probability >= threshold;
}

/** Turn an offset in code points, as the server counts, into one of a JavaScript string. */
export function offset(text, codePoints) {
  let at = 0;
  for (let k = 0; k < codePoints && at < text.length; k++) at += text.codePointAt(at) > 0xffff ? 2 : 1;
  return at;
}
