// The view as a link: everything that it takes to see the same again stands behind the "#", which browsers don't send to the
// server. A film of one's own is not in it, nor its name, nor the report.

/** Write the state as what stands behind the "#". */
export function toFragment(state) {
  const film = state.current;
  const fragment = new URLSearchParams();
  const put = (name, value) => value !== null && value !== undefined && value !== "" && fragment.set(name, value);
  put("example", film?.example);
  put("model", state.model?.hash);
  put("second", state.second?.hash);
  for (const text of state.texts) fragment.append("ask", text);
  for (const { id, slot } of state.shown) fragment.append("show", `${slot}:${id}`);
  put("opacity", state.opacity);
  put("floor", state.floor);
  put("stretched", state.stretched ? 1 : null);
  put("maps", state.mapsOn ? null : "off");
  put("tab", state.tab);
  if (state.inquiry?.anatomy) put("place", state.inquiry.anatomy);
  else if (state.inquiry) put("at", [state.inquiry.x, state.inquiry.y].map(short).join());
  if (film?.pixels) {
    const { zoom, x, y, flip, invert } = film.view;
    put("window", [film.window.center, film.window.width].map(short).join());
    put("view", [zoom, x, y].map(short).join());
    put("flip", flip ? 1 : null);
    put("invert", invert ? 1 : null);
  }
  return fragment.toString();
}

const short = (number) => Number(number.toFixed(4));

/**
 * Read a link's fragment; what is missing or makes no sense is left out.
 *
 * @returns {{example, model, second, patch: object, film: {window, view} | null}} patch: of the state, film: how the film was seen
 */
export function fromFragment(text) {
  const fragment = new URLSearchParams(text);
  const numbers = (name, count) => {
    const values = (fragment.get(name) ?? "").split(",").map(Number);
    return fragment.has(name) && values.length === count && values.every(Number.isFinite) ? values : null;
  };
  const unit = (name) => numbers(name, 1)?.map((value) => Math.min(1, Math.max(0, value)))[0];
  const patch = {
    texts: fragment.getAll("ask"),
    shown: fragment.getAll("show").flatMap((entry) => {
      const [, slot, id] = /^([0-6]):(.+)$/s.exec(entry) ?? [];
      return id ? [{ id, slot: Number(slot) }] : [];
    }),
    stretched: fragment.get("stretched") === "1",
    mapsOn: fragment.get("maps") !== "off",
  };
  if (patch.shown.length) patch.selected = patch.shown.at(-1).id;
  if (unit("opacity") !== undefined) patch.opacity = unit("opacity");
  if (unit("floor") !== undefined) patch.floor = unit("floor");
  if (["findings", "matrix", "report", "about"].includes(fragment.get("tab"))) patch.tab = fragment.get("tab");
  const at = numbers("at", 2);
  if (fragment.has("place")) patch.inquiry = { anatomy: fragment.get("place") };
  else if (at) patch.inquiry = { x: at[0], y: at[1] };
  const [center, width] = numbers("window", 2) ?? [];
  const [zoom, x, y] = numbers("view", 3) ?? [];
  const film =
    width > 0 && zoom > 0
      ? {
          window: { center, width },
          view: { zoom, x, y, flip: fragment.get("flip") === "1", invert: fragment.get("invert") === "1" },
        }
      : null;
  return { example: fragment.get("example"), model: fragment.get("model"), second: fragment.get("second"), patch, film };
}
