// How films come in: dropped, chosen, pasted, or an example. It fills the stage while there is no film.

import * as api from "./api.js";
import { $, h, icon } from "./dom.js";

const PICTURES = ["image/png", "image/jpeg"]; // that a browser shows by itself

export function createWelcome(store, actions, view) {
  const { state } = store;
  const welcome = $("#welcome");
  const input = $("#files");
  const said = h("p", { class: "trouble", role: "status", hidden: true });
  const close = h(
    "button",
    { type: "button", class: "quiet welcome-close", hidden: true, onclick: () => hide() },
    "Back to the film",
  );
  $(".welcome-inner").prepend(said, close);

  /** Open films, the first one as a link wants it seen. */
  function seen(film) {
    const wanted = film && view();
    if (wanted) Object.assign(film, wanted);
    explain("");
    hide();
    return film;
  }

  const openFiles = (files) => files.length && seen(actions.openFiles(files)[0]);
  const openExample = async (example) => {
    const film = await actions.openExample(example);
    return seen(film);
  };

  function explain(sentence) {
    said.hidden = !sentence;
    said.textContent = sentence;
  }

  function open() {
    welcome.classList.add("over");
    close.hidden = !state.films.length;
    $("#choose").focus();
  }

  function hide() {
    const was = welcome.classList.contains("over");
    welcome.classList.remove("over");
    return was;
  }

  $("#choose").addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    openFiles([...input.files]);
    input.value = ""; // the same file may be chosen again
  });

  // Dropping, anywhere on the page

  let depth = 0;
  const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
  const veil = (shown) => ($("#drop").hidden = !shown);
  addEventListener("dragenter", (event) => carriesFiles(event) && veil((depth += 1) > 0));
  addEventListener("dragleave", (event) => carriesFiles(event) && veil((depth = Math.max(0, depth - 1)) > 0));
  addEventListener("dragover", (event) => carriesFiles(event) && event.preventDefault());
  addEventListener("drop", async (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    depth = 0;
    veil(false);
    openFiles(await filesOf(event.dataTransfer));
  });
  addEventListener("paste", (event) => event.clipboardData?.files.length && openFiles([...event.clipboardData.files]));

  // Examples

  store.on(["examples"], () => {
    $("#examples").hidden = !state.examples.length;
    $("#example-list").replaceChildren(
      ...state.examples.map((example) => {
        const picture = h("span", { class: "picture" }, icon("film"));
        if (PICTURES.includes(example.type)) show(example, picture);
        return h(
          "li",
          {},
          h("button", { type: "button", onclick: () => openExample(example) }, picture, h("span", {}, example.title)),
        );
      }),
    );
  });

  /** Fetched, not linked: the server may want a token, which a link doesn't carry. */
  async function show({ id }, picture) {
    const blob = await api.example(id).catch(() => null);
    if (!blob) return; // the icon stays; opening it tells what is wrong
    const address = URL.createObjectURL(blob);
    picture.replaceChildren(h("img", { src: address, alt: "", onload: () => URL.revokeObjectURL(address) }));
  }

  return { open, close: hide, openExample, explain };
}

/** The files that were dropped, folders with all below; hidden files and what a DICOM folder lists itself in are left out. */
async function filesOf({ items, files }) {
  const entries = [...items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some(({ isDirectory }) => isDirectory)) return [...files];
  const found = (await Promise.all(entries.map(filesBelow))).flat();
  return found
    .filter(({ name }) => !name.startsWith(".") && name !== "DICOMDIR")
    .sort((a, b) => a.name.localeCompare(b.name));
}

async function filesBelow(entry) {
  if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
  const reader = entry.createReader();
  const children = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)); // a hundred at a time
    if (!some.length) break;
    children.push(...some);
  }
  return (await Promise.all(children.map(filesBelow))).flat();
}
