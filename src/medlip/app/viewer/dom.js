// Elements made by script. Text stays text: nothing here parses HTML, so no file name or report can become markup.

/** Find one element of the page. */
export const $ = (selector, root = document) => root.querySelector(selector);

/**
 * Make an element: h("button", {class: "row", onclick: act, vars: {"--share": 0.3}}, "text", child).
 * `on…` are listeners, `vars` are custom properties, true and false say whether an attribute is there;
 * null, false and "" among the children are left out.
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "vars") setVars(element, value);
    else setAttribute(element, name, value);
  }
  element.append(
    ...children.flat().filter((child) => child !== null && child !== undefined && child !== false && child !== ""),
  );
  return element;
}

/** Set an attribute, or take it away: null and undefined are none; true and false are words in aria-… and data-…, a switch elsewhere. */
export function setAttribute(element, name, value) {
  const words = /^(aria|data)-/.test(name);
  if (value === null || value === undefined || (value === false && !words)) element.removeAttribute(name);
  else element.setAttribute(name, value === true && !words ? "" : String(value));
}

/** Set custom properties: a style attribute would be refused by the page's content policy, this is not. */
export function setVars(element, values) {
  for (const [name, value] of Object.entries(values)) element.style.setProperty(name, String(value));
}

/** An icon of the sprite in index.html; what it means stands in the label of its button. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

/** Say something to people who hear the page instead of seeing it. */
export function announce(sentence) {
  const region = $("#announcer");
  region.textContent = "";
  setTimeout(() => (region.textContent = sentence), 50); // a change of the text is what is read out
}

/** Hand a blob to the browser as a download. */
export function download(blob, name) {
  const url = URL.createObjectURL(blob);
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
