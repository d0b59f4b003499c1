// What concerns the whole page: the server is gone or busy, wants a token, or something can't be done.

import { $, h } from "./dom.js";

export function createNotice(store, actions) {
  const { state } = store;
  const bar = $("#notice");
  const dialog = $("#token-dialog");
  const token = h("input", { type: "password", id: "token", autocomplete: "off", required: true });
  dialog.append(
    h(
      "form",
      { method: "dialog", onsubmit: () => actions.giveToken(token.value.trim()) },
      h("h2", { id: "token-title" }, "This server asks for its token"),
      h("p", {}, "It was printed when the server was started. It is kept for this tab alone."),
      h("label", { for: "token" }, "Token"),
      token,
      h("p", { class: "choices" }, h("button", { type: "submit", class: "main" }, "Go on")),
    ),
  );

  function draw() {
    const { notice } = state;
    bar.hidden = !notice;
    if (!notice) return;
    const again = notice.kind === "gone" || notice.kind === "busy";
    const button = (label, act) => h("button", { type: "button", class: "quiet", onclick: act }, label);
    bar.replaceChildren(
      h("p", {}, h("b", {}, `${notice.title}. `), notice.detail),
      h(
        "span",
        { class: "choices" },
        notice.kind === "token" && button("Give the token", () => dialog.showModal()),
        again && button("Try again", actions.resume),
        button("Hide", () => store.set({ notice: null })),
      ),
    );
    if (notice.kind === "token" && !dialog.open) dialog.showModal();
  }

  store.on(["notice"], draw);
}
