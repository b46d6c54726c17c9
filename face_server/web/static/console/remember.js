/** The form that gives a face a name. */

import { errorLine, fill, h, whilePressed } from "./dom.js";
import * as gallery from "./gallery.js";
import { count } from "./words.js";

// No id of a person contains a space.
const NEW = "a new person";

let forms = 0;

/**
 * A form that asks who somebody is. `store({id, name, override})` keeps the answer: the person `id`, or a new one
 * of that name where `id` is null. `cancel()` is called when the user thinks better of it.
 */
export function rememberForm({ label, store, cancel }) {
  const id = `remember-${(forms += 1)}`;
  const input = h("input", { id, type: "text", list: `${id}-names`, required: true, maxlength: 200, autocomplete: "off", spellcheck: "false", placeholder: "Name" });
  const names = h("datalist", { id: `${id}-names` });
  const who = h("select", { "aria-label": "Which person of this name", hidden: true });
  const trouble = h("div", {});
  const submit = h("button", { type: "submit", class: "primary" }, "Remember");
  const hint = h("p", { class: "small", role: "status", hidden: true }, "Somebody of this name is enrolled already.");
  const show = (several) => {
    who.hidden = hint.hidden = !several;
    who.required = several;
  };
  let asked = "";
  const ask = async () => {
    const name = input.value.trim();
    if (name === asked) return;
    const known = await namesakes(name);
    if (name !== input.value.trim()) return;
    asked = name;
    fill(who, h("option", { value: "" }, "Who is this?"), known.map(enrolled), h("option", { value: NEW }, "A new person of this name"));
    show(known.length > 0);
  };
  const keep = async (override) => {
    trouble.replaceChildren();
    const name = input.value.trim();
    try {
      await ask();
      if (who.required && !who.value) {
        who.focus();
        return;
      }
      await store({ id: who.required && who.value !== NEW ? who.value : null, name, override });
    } catch (error) {
      trouble.append(refusal(error, () => keep(true)));
    }
  };
  input.addEventListener("input", () => {
    show(false);
    asked = "";
  });
  input.addEventListener("change", ask);
  suggest(names);
  return h(
    "form",
    {
      class: "remember",
      onsubmit: (event) => {
        event.preventDefault();
        if (input.value.trim()) whilePressed(submit, () => keep(false));
      },
      onkeydown: (event) => {
        if (event.key === "Escape") cancel();
      },
    },
    h("label", { for: id }, label),
    h("div", { class: "joined" }, input, submit),
    names,
    hint,
    who,
    trouble,
    h("button", { type: "button", class: "plain", onclick: cancel }, "Cancel"),
  );
}

/** The server's sentence, and a way to take the picture all the same where there is one. */
export function refusal(error, anyway) {
  if (!error.overridable) return errorLine(error);
  const button = h("button", { type: "button", onclick: () => whilePressed(button, anyway) }, "Remember anyway");
  return errorLine(error, " ", button);
}

async function suggest(names) {
  const { items } = await gallery.everybody().catch(() => ({ items: [] }));
  names.replaceChildren(...[...new Set(items.map((one) => one.name))].slice(0, 500).map((name) => h("option", { value: name })));
}

/** Who is enrolled under this name already; nobody where the list cannot be had: enrolment then says why. */
async function namesakes(name) {
  return name ? gallery.namesakes(name).catch(() => []) : [];
}

function enrolled(one) {
  return h("option", { value: one.id }, `${one.name}, with ${count(one.template_count, "template")}`);
}
