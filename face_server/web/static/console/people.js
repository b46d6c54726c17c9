/** Everybody in the collection, to search and to open. */

import { askName } from "./dialogs.js";
import { byId, errorLine, fill, h, whilePressed } from "./dom.js";
import * as gallery from "./gallery.js";
import { showPerson } from "./person.js";
import { count } from "./words.js";

const PAGE = 100;
const SEARCH_AFTER_MS = 250;

let limit = PAGE;
let opened;
let stale = true;
let typing = 0;

const visible = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) continue;
    visible.unobserve(target);
    face(target);
  }
});

/** Connect the view with the page. */
export function start() {
  byId("search").addEventListener("input", () => {
    limit = PAGE;
    clearTimeout(typing);
    typing = setTimeout(list, SEARCH_AFTER_MS);
  });
  const add = byId("add-person");
  add.addEventListener("click", () => whilePressed(add, addPerson));
  gallery.onNews(() => {
    stale = true;
  });
  gallery.onChange(() => {
    stale = true;
    if (!byId("people").hidden) refresh();
  });
}

/** Show the view, with the person `id` opened if there is one. */
export async function open(id) {
  const moved = opened !== id && opened !== undefined;
  opened = id;
  columns().classList.toggle("opened", id !== null);
  await gallery.refresh().catch(() => {});
  if (stale || moved) await refresh(moved);
  if (moved && id === null) byId("main").focus({ preventScroll: true });
}

async function refresh(moved = false) {
  stale = false;
  await Promise.all([list(), showPerson(byId("person"), opened, moved)]);
}

async function addPerson() {
  const name = await askName({ title: "Add a person", action: "Add" });
  if (name === null) return;
  try {
    const { identity } = await gallery.createPerson(name);
    location.hash = `#people/${encodeURIComponent(identity.id)}`;
  } catch (error) {
    fill(byId("person"), errorLine(error));
    columns().classList.add("opened");
  }
}

async function list() {
  const wanted = byId("search").value.trim();
  try {
    const { items, complete } = await gallery.everybody();
    let found = items.filter((one) => plain(one.name).includes(plain(wanted)));
    if (!complete && wanted) {
      const known = new Set(found.map((one) => one.id));
      found = [...(await gallery.namesakes(wanted)).filter((one) => !known.has(one.id)), ...found];
    }
    if (byId("search").value.trim() !== wanted) return;
    byId("found").textContent = told(wanted, found.length, items.length, complete);
    const more = found.length > limit && h("li", {}, h("button", { type: "button", class: "plain", onclick: showMore }, `Show ${Math.min(PAGE, found.length - limit)} more`));
    fill(byId("list"), found.slice(0, limit).map(entry), more);
  } catch (error) {
    byId("found").textContent = "";
    fill(byId("list"), h("li", {}, errorLine(error)));
  }
}

function told(wanted, found, all, complete) {
  if (all === 0) return "Nobody yet. Add a person, or open a photo and press “Remember as…” beside a face.";
  const rest = complete ? "" : ` Only the first ${all.toLocaleString("en")} people are listed; others are found by their exact name.`;
  if (wanted) return `${found === 0 ? "Nobody of that name." : count(found, "person", "people") + " found."}${rest}`;
  return `${count(all, "person", "people")}.${rest}`;
}

function showMore() {
  limit += PAGE;
  list();
}

function entry(one) {
  const portrait = h("span", { class: "portrait", "aria-hidden": "true", "data-id": one.id }, initial(one.name));
  if (one.template_count > 0) visible.observe(portrait);
  return h(
    "li",
    {},
    h(
      "a",
      { class: "entry", href: `#people/${encodeURIComponent(one.id)}`, "aria-current": one.id === opened ? "true" : null },
      portrait,
      h("span", { class: "name" }, one.name),
      h("span", { class: "soft small" }, one.template_count ? count(one.template_count, "template") : "no templates"),
    ),
  );
}

/** Replace the initial with the person's crop. One that cannot be had leaves the initial. */
async function face(portrait) {
  try {
    const template = await gallery.cover(portrait.dataset.id);
    if (template) fill(portrait, h("img", { src: await gallery.crop(template), alt: "" }));
  } catch {
    portrait.classList.add("missing");
  }
}

function columns() {
  return document.querySelector("#people .people");
}

function initial(name) {
  return [...name.trim()][0]?.toLocaleUpperCase() ?? "?";
}

/** Text as it is searched: without case and accents. */
function plain(text) {
  return text.normalize("NFKD").replace(/\p{M}/gu, "").toLocaleLowerCase();
}
