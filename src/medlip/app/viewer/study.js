// Several films of one study, summed up: of each finding the film that shows it most.

import { entryOf } from "./session.js";

/**
 * Sum up what a model read from the films of a study.
 *
 * @returns {{findings: {film, finding}[], doubted: object[], unread: object[]}} each finding as the film has it that gives it the
 *   highest probability, likeliest first; films that don't count, for there are doubts about them; films without a reading
 */
export function sumUp(films, model) {
  const best = new Map();
  const doubted = [];
  const unread = [];
  for (const film of films) {
    const { reading } = entryOf(film, model);
    if (!reading) unread.push(film);
    else if (reading.doubts.length) doubted.push(film);
    else {
      for (const finding of reading.findings)
        if (!(finding.probability <= best.get(finding.id)?.finding.probability)) best.set(finding.id, { film, finding });
    }
  }
  const findings = [...best.values()].sort((a, b) => b.finding.probability - a.finding.probability);
  return { findings, doubted, unread };
}
