// Numbers for people.

/** A probability with two digits; one that isn't 0 or 1 is never written as if it was. */
export function probability(p) {
  if (p > 0 && p < 0.005) return "< 0.01";
  if (p < 1 && p > 0.995) return "> 0.99";
  return p.toFixed(2);
}

/** A value of a scale or a window, without digits that say nothing. */
export function value(number) {
  return Math.abs(number) >= 10 ? String(Math.round(number)) : String(Number(number.toPrecision(2)));
}

/** The name of an anatomy or pathology in a model's vocabulary, for people. */
export function display(concepts, name) {
  return concepts.get(name)?.display ?? name.replaceAll("_", " ");
}

/** A word with its number: "1 finding", "3 findings". */
export function counted(number, word) {
  return `${number} ${word}${number === 1 ? "" : "s"}`;
}
