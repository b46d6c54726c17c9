/** Questions that must be answered before anything goes on. */

import { errorLine, fill, h, whilePressed } from "./dom.js";

/** Ask whether to go on; resolves to true or false. */
export function confirm({ title, text, action, danger = false }) {
  const go = h("button", { type: "submit", class: danger ? "danger" : "primary" }, action);
  return ask(title, [h("p", {}, text)], go, () => true);
}

/** Ask for a name; resolves to the name or null. */
export function askName({ title, value = "", action }) {
  const input = h("input", { type: "text", required: true, maxlength: 200, autocomplete: "off", spellcheck: "false" });
  input.value = value;
  return ask(title, [h("label", { class: "field" }, "Name", input)], h("button", { type: "submit", class: "primary" }, action), () => input.value.trim() || null);
}

/** Ask for the API key; resolves to the key or null. It is kept for this tab only. */
export function askKey(why) {
  const input = h("input", { type: "password", required: true, autocomplete: "off", spellcheck: "false" });
  const text = why || "This server asks for an API key. It is kept in this tab until you close it.";
  const hint = h("p", { class: "soft small" }, "Keys are made with ", h("code", {}, "face-server keys create"), ".");
  const body = [h("p", {}, text), h("label", { class: "field" }, "API key", input), hint];
  return ask("API key", body, h("button", { type: "submit", class: "primary" }, "Continue"), () => input.value.trim() || null);
}

/** Choose one of `people` ({id, name}); resolves to it or null. Where there is a `picture`, an element, it is shown instead of the id. */
export function choosePerson({ title, text, people, action }) {
  const search = h("input", { type: "search", placeholder: "Search by name", "aria-label": "Search by name", autocomplete: "off" });
  const options = h("div", { class: "options" });
  let picked = null;
  const go = h("button", { type: "submit", class: "primary", disabled: true }, action);
  const pick = (one) => {
    picked = one;
    go.disabled = false;
  };
  const list = () => {
    const wanted = search.value.trim().toLocaleLowerCase();
    const shown = people.filter((one) => one.name.toLocaleLowerCase().includes(wanted)).slice(0, 50);
    fill(options, shown.length ? shown.map((one) => option(one, one === picked, pick)) : h("p", { class: "soft small" }, "Nobody of that name."));
  };
  search.addEventListener("input", list);
  list();
  return ask(title, [h("p", {}, text), search, options], go, () => picked);
}

function option(one, checked, pick) {
  const radio = h("input", { type: "radio", name: "person", onchange: () => pick(one) });
  radio.checked = checked;
  return h("label", {}, radio, one.picture, h("span", {}, one.name), !one.picture && h("span", { class: "soft small" }, one.id));
}

/**
 * Ask with the form elements `body` and the button `go`; resolves to what `answer()` gives, or null where the
 * user leaves. An error of `answer` is told, and the question stays.
 */
export function ask(title, body, go, answer) {
  const heading = h("h2", { id: "dialog-title" }, title);
  const cancel = h("button", { type: "button", onclick: () => dialog.close() }, "Cancel");
  const trouble = h("div", {});
  const form = h("form", { method: "dialog" }, heading, body, trouble, h("div", { class: "row end" }, cancel, go));
  const dialog = h("dialog", { "aria-labelledby": "dialog-title" }, form);
  document.body.append(dialog);
  return new Promise((resolve) => {
    let result = null;
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      fill(trouble);
      try {
        result = await whilePressed(go, async () => answer());
        dialog.close();
      } catch (error) {
        fill(trouble, errorLine(error));
      }
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(result);
    });
    dialog.showModal();
  });
}
