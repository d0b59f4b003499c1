// In which anatomies findings lie, and what that says of a place of the film.

import { highest, sample } from "./maps.js";

export const LEAST = 0.05; // of a map or a pair that is worth naming

/** The probability of a finding in each anatomy, by its name: a row of the matrix, or its likeliest places where there is none. */
export function anatomiesOf({ matrix }, { id, places }) {
  const row = matrix?.probabilities[matrix.pathologies.indexOf(id)];
  if (row) return new Map(matrix.anatomies.map((anatomy, k) => [anatomy, row[k]]));
  return new Map(places.map(({ anatomy, probability }) => [anatomy, probability]));
}

/**
 * Name the anatomies at a place of the film, likeliest first; none where nothing is seen.
 *
 * Models don't map anatomies. They say in which ones a finding lies, and its map says how much of it is seen here: an anatomy is
 * as likely here as one of the findings in it, times the height of its map, 1 being its highest place.
 *
 * @returns {{anatomy: string, probability: number}[]}
 */
export function anatomiesAt(reading, x, y) {
  const likely = new Map();
  for (const finding of reading?.findings ?? []) {
    const height = finding.map ? sample(finding.map, x, y) / Math.max(1e-9, highest(finding.map)) : 0;
    if (height < LEAST) continue; // no pair is above 1: asked at every move of the pointer, most findings end here
    for (const [anatomy, pair] of anatomiesOf(reading, finding))
      likely.set(anatomy, Math.max(likely.get(anatomy) ?? 0, height * pair));
  }
  return [...likely]
    .map(([anatomy, probability]) => ({ anatomy, probability }))
    .filter(({ probability }) => probability >= LEAST)
    .sort((a, b) => b.probability - a.probability);
}
