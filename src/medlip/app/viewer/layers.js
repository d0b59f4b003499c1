// Which maps are drawn of a reading, in which colours and on which scale.

import { tint } from "./colours.js";
import { highest } from "./maps.js";
import { findingOf } from "./session.js";

/** The findings of a reading that are shown and have a map, in the order in which they were chosen: [{finding, slot}]. */
export function drawn(state, reading) {
  if (!reading || !state.mapsOn) return [];
  return state.shown
    .map(({ id, slot }) => ({ finding: findingOf(reading, id), slot }))
    .filter(({ finding }) => finding?.map);
}

/** What the renderer draws of a reading. One finding alone is drawn on the heat scale, several in colours of their own. */
export function layersOf(state, reading) {
  const alone = state.shown.length === 1;
  return drawn(state, reading).map(({ finding, slot }) => {
    const top = topOf(finding.map, state.stretched);
    return { map: finding.map, colour: alone ? null : tint(slot), top, floor: state.floor * top, outlined: state.floor > 0 };
  });
}

/** The value of a map that is fully coloured: 1, or its own highest one. */
export function topOf(map, stretched) {
  return stretched ? Math.max(0.01, highest(map)) : 1;
}

/** What the numbers of a map are. */
export function unitOf(map) {
  return map.absolute ? "probability" : "own scale";
}
