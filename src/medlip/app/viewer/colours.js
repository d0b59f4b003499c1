// Colours of maps: both scales can be told apart by people with any kind of colour vision.

// Matplotlib's inferno from a quarter up: even in lightness, so more is always brighter. `Reading.overlay` paints with the same.
const HEAT = [
  [87, 16, 110],
  [106, 23, 110],
  [127, 30, 108],
  [147, 38, 103],
  [168, 46, 95],
  [188, 55, 84],
  [204, 66, 72],
  [221, 81, 58],
  [234, 99, 42],
  [243, 120, 25],
  [249, 142, 9],
  [252, 165, 10],
  [251, 190, 35],
  [246, 215, 70],
  [241, 239, 117],
  [252, 255, 164],
];

// Okabe and Ito's set without its black, the ones first that differ most on grey.
const TINTS = [
  [86, 180, 233],
  [230, 159, 0],
  [0, 190, 140],
  [240, 228, 66],
  [226, 110, 60],
  [214, 134, 178],
  [90, 150, 225],
];

/** How many findings have a colour of their own at once. */
export const MOST_SHOWN = TINTS.length;

/** Return the colour of a value in [0, 1] on the heat scale. */
export function heatColour(unit) {
  const at = Math.min(1, Math.max(0, unit)) * (HEAT.length - 1);
  const low = Math.min(HEAT.length - 2, Math.floor(at));
  return HEAT[low].map((value, channel) => value + (HEAT[low + 1][channel] - value) * (at - low));
}

/** Return the colour of the finding that was shown as the nth, from 0. */
export function tint(slot) {
  return TINTS[slot % TINTS.length];
}

/** Write a colour for a style sheet. */
export function css([red, green, blue], opacity = 1) {
  return `rgb(${Math.round(red)} ${Math.round(green)} ${Math.round(blue)} / ${opacity})`;
}

/** The heat scale as a gradient from the left, or from below. */
export function heatGradient(direction) {
  return `linear-gradient(${direction}, ${HEAT.map((colour) => css(colour)).join(", ")})`;
}
