/** One person: name, templates, and what can be done with them. */

import { askName, choosePerson, confirm } from "./dialogs.js";
import { errorLine, fill, h, sentence, whilePressed } from "./dom.js";
import * as gallery from "./gallery.js";
import { count, day } from "./words.js";

// What became of the photos added last, kept while the same person is shown.
let report = { id: null, list: null };
let turn = 0;

/** Show the person `id` (null: nobody) in `place`; `focus` moves the keyboard there. */
export async function showPerson(place, id, focus) {
  const mine = (turn += 1);
  if (id === null) {
    fill(place, h("p", { class: "soft hint" }, "Choose somebody to see the templates that they are recognised by."));
    return;
  }
  if (report.id !== id) report = { id, list: h("ul", { class: "report", "aria-live": "polite" }) };
  try {
    const found = await gallery.person(id);
    if (mine !== turn) return;
    fill(place, back(), heading(place, found), templates(found), adding(found), report.list, ending(place, found));
  } catch (error) {
    if (mine !== turn) return;
    fill(place, back(), error.code === "not_found" ? h("p", { class: "soft hint" }, "This person is not enrolled any more.") : errorLine(error));
  }
  if (focus) place.querySelector("h2")?.focus({ preventScroll: true });
}

function back() {
  return h("a", { class: "back", href: "#people" }, "← All people");
}

function heading(place, found) {
  const rename = h("button", { type: "button", class: "plain", onclick: () => whilePressed(rename, renamed) }, "Rename…");
  const renamed = async () => {
    const name = await askName({ title: "Rename", value: found.name, action: "Rename" });
    if (name !== null && name !== found.name) await attempt(place, () => gallery.rename(found.id, name));
  };
  const told = `${count(found.templates.length, "template")} · enrolled ${day(found.created_at)} · id ${found.id}`;
  const facts = Object.entries(found.metadata).map(([key, value]) => [h("dt", {}, key), h("dd", {}, value)]);
  return h(
    "header",
    {},
    h("div", { class: "row" }, h("h2", { class: "name", tabindex: -1 }, found.name), rename),
    h("p", { class: "soft small" }, told),
    facts.length > 0 && h("dl", { class: "small" }, facts),
  );
}

function templates(found) {
  if (found.templates.length === 0) {
    return h("p", { class: "notice" }, `${found.name} cannot be recognised yet: add one or more photos that show this person alone.`);
  }
  return h("ul", { class: "templates", "aria-label": "Templates" }, found.templates.map((one) => template(found, one)));
}

function template(found, one) {
  const crop = h("div", { class: "crop" }, one.has_crop ? null : h("span", { class: "soft small" }, "no crop kept"));
  if (one.has_crop) {
    gallery.crop(one.id).then(
      (url) => fill(crop, h("img", { src: url, alt: `Template of ${found.name}` })),
      () => fill(crop, h("span", { class: "soft small" }, "the crop could not be loaded")),
    );
  }
  const remove = h("button", { type: "button", class: "plain", "aria-label": `Delete the template ${one.id}`, onclick: () => whilePressed(remove, removed) }, "Delete");
  const item = h(
    "li",
    {},
    crop,
    one.source && h("p", { class: "small name", title: one.source }, one.source),
    h("p", { class: "soft small" }, one.quality > 0 ? `quality ${one.quality.toFixed(2)}` : "from an embedding", h("br"), day(one.created_at)),
    remove,
  );
  const removed = async () => {
    const text = `${found.name} is no longer recognised by it. Its crop is erased at once.`;
    if (await confirm({ title: "Delete this template?", text, action: "Delete", danger: true })) await attempt(item, () => gallery.removeTemplate(one.id));
  };
  return item;
}

function adding(found) {
  const files = h("input", { type: "file", class: "unseen", accept: "image/*,.tif,.tiff", multiple: true });
  files.addEventListener("change", async () => {
    const chosen = [...files.files];
    files.disabled = true;
    await addPhotos(found, chosen);
  });
  const drop = h("label", { class: "drop small" }, h("span", {}, "Add photos"), h("span", { class: "soft" }, "Drop them here or press to choose. Each shows this person alone."), files);
  for (const kind of ["dragover", "dragleave", "drop"]) {
    drop.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", kind === "dragover");
      if (kind === "drop") addPhotos(found, [...event.dataTransfer.files]);
    });
  }
  return drop;
}

/** Enrol photos one after the other; each has its own line in the report. */
async function addPhotos(found, files) {
  const { list } = report;
  const lines = files.map((file) => h("li", {}, h("span", { class: "name" }, file.name), h("span", { class: "soft" }, "waiting…")));
  fill(list, lines);
  for (const [index, file] of files.entries()) await addPhoto(found, file, lines[index], false);
}

async function addPhoto(found, file, line, override) {
  const tell = (kind, text, ...more) => fill(line, h("span", { class: "name" }, file.name), h("span", { class: kind }, text), ...more);
  tell("soft", "analysing…");
  try {
    await gallery.enroll({ id: found.id, picture: file, source: file.name, override });
    tell("good", "Added.");
  } catch (error) {
    const anyway = h("button", { type: "button", onclick: () => whilePressed(anyway, () => addPhoto(found, file, line, true)) }, "Add anyway");
    tell("bad", sentence(error.message), error.overridable && anyway);
  }
}

function ending(place, found) {
  const merge = h("button", { type: "button", onclick: () => whilePressed(merge, merged) }, "Merge into another person…");
  const remove = h("button", { type: "button", class: "danger", onclick: () => whilePressed(remove, removed) }, "Delete this person…");
  const merged = () =>
    attempt(place, async () => {
      const people = (await gallery.everybody()).items.filter((one) => one.id !== found.id);
      const text = `All templates of ${found.name} go to the other person, and ${found.name} is erased.`;
      const into = await choosePerson({ title: `Merge ${found.name} into…`, text, people, action: "Merge" });
      if (into === null) return;
      await gallery.merge(found.id, into.id);
      location.hash = `#people/${encodeURIComponent(into.id)}`;
    });
  const removed = async () => {
    const text = `Erases ${found.name} with ${count(found.templates.length, "template")} and crops, at once and for good.`;
    if (!(await confirm({ title: `Delete ${found.name}?`, text, action: "Delete", danger: true }))) return;
    await attempt(place, async () => {
      await gallery.removePerson(found.id);
      location.hash = "#people";
    });
  };
  return h("div", { class: "row ending" }, merge, remove);
}

/** Do it, or say at the end of `place` why it could not be done. */
async function attempt(place, work) {
  place.querySelector(":scope > .notice.bad")?.remove();
  try {
    await work();
  } catch (error) {
    place.append(errorLine(error));
  }
}
