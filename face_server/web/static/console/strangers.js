/** Unknown people who are remembered: to be named, merged or forgotten. */

import { change, getPages, pathOf } from "./api.js";
import { choosePerson, confirm } from "./dialogs.js";
import { byId, errorLine, fill, h, setText, whilePressed } from "./dom.js";
import * as gallery from "./gallery.js";
import { PictureCache } from "./pictures.js";
import { rememberForm } from "./remember.js";
import { whileVisible } from "./visible.js";
import * as words from "./words.js";

const EVERY_MS = 3000;
const PAGE = 100;
const MOST = 10_000;

const pictures = new PictureCache(500);
const cards = new Map();
let strangers = [];
let limit = PAGE;
let stop = null;
let wanted = null;

/** Connect the view with the page. */
export function start() {
  byId("more-strangers").addEventListener("click", () => {
    limit += PAGE;
    list();
  });
}

/** Show the view, with the keyboard on the stranger `id` if there is one. */
export function open(id) {
  wanted = id;
  stop?.();
  stop = whileVisible(read, EVERY_MS);
}

/** The view is left: nothing is asked any more. */
export function leave() {
  stop?.();
  stop = null;
}

/** Read who there is. */
async function read(signal) {
  try {
    const { items } = await getPages("/v1/strangers", "strangers", MOST);
    if (signal?.aborted) return;
    strangers = items.sort((a, b) => b.last_seen_at.localeCompare(a.last_seen_at));
    const gone = wanted !== null && !strangers.some((one) => one.id === wanted);
    fill(byId("strangers-trouble"), gone && h("p", { class: "notice" }, "This stranger has a name by now, was merged or is forgotten."));
    list();
  } catch (error) {
    if (error.status === undefined) throw error;
    fill(byId("strangers-trouble"), errorLine(error));
  }
}

/** Show them, those seen last first. A card that is being filled in stays as it is. */
function list() {
  const place = byId("stranger-list");
  setText(byId("strangers-told"), strangers.length > 0 ? `${words.count(strangers.length, "stranger")}.` : "");
  const first = wanted === null ? [] : strangers.filter((one) => one.id === wanted);
  const shown = [...first, ...strangers.filter((one) => one.id !== wanted)].slice(0, limit);
  for (const [id, card] of cards) {
    if (shown.some((one) => one.id === id)) continue;
    card.item.remove();
    cards.delete(id);
    pictures.drop(card.path);
  }
  byId("more-strangers").hidden = strangers.length <= limit;
  setText(byId("more-strangers"), `Show ${Math.min(PAGE, strangers.length - limit)} more`);
  byId("no-stranger").hidden = strangers.length > 0;
  for (const [index, one] of shown.entries()) {
    if (!cards.has(one.id)) cards.set(one.id, newCard(one));
    const card = cards.get(one.id);
    card.update(one);
    // Moving an element takes the keyboard away from it.
    if (place.children[index] !== card.item && !card.item.contains(document.activeElement)) place.insertBefore(card.item, place.children[index] ?? null);
  }
  if (first.length > 0) {
    cards.get(wanted).item.querySelector("h2").focus();
    wanted = null;
  }
}

function newCard(stranger) {
  const { id, picture: path } = stranger;
  const name = h("h2", { class: "name", tabindex: -1 });
  const seen = h("p", { class: "soft small" });
  const shot = h("div", { class: "crop" });
  const trouble = h("div", {});
  const actions = h("div", { class: "actions" });
  let latest = stranger;
  const update = (news) => {
    if (news.sightings !== latest.sightings || shot.children.length === 0) draw();
    latest = news;
    setText(name, news.name);
    setText(seen, `Last seen ${words.moment(news.last_seen_at)} · ${words.count(news.sightings, "visit")}`);
  };
  const draw = () => {
    pictures.drop(path);
    pictures.url(path).then(
      (url) => fill(shot, h("img", { src: url, alt: `Best shot of ${latest.name}` })),
      () => fill(shot, h("span", { class: "soft small" }, "the picture could not be loaded")),
    );
  };
  const act = (button, work) =>
    whilePressed(button, async () => {
      fill(trouble);
      try {
        if (await work()) await read();
      } catch (error) {
        fill(trouble, errorLine(error));
      }
    });
  const offer = () => {
    const named = h("button", { type: "button", onclick: () => ask() }, "Name…");
    const merge = h("button", { type: "button", class: "plain", onclick: () => act(merge, () => merged(latest)) }, "Merge…");
    const forget = h("button", { type: "button", class: "plain danger", onclick: () => act(forget, () => forgotten(latest)) }, "Forget…");
    fill(actions, named, merge, forget);
    return named;
  };
  const ask = () => {
    const label = `Who is this? Enrolled in ${gallery.collection()?.name}`;
    const store = async (who) => {
      await gallery.nameStranger(id, who);
      await read();
    };
    fill(actions, rememberForm({ label, store, cancel: () => offer().focus() }));
    actions.querySelector("input").focus();
  };
  offer();
  return { path, update, item: h("li", { class: "stranger" }, shot, h("div", { class: "about" }, name, seen, actions, trouble)) };
}

async function merged(stranger) {
  const people = strangers.filter((one) => one.id !== stranger.id).map((one) => ({ ...one, picture: small(one) }));
  const text = `They are the same person: the shots and events of ${stranger.name} go to the other stranger.`;
  const into = await choosePerson({ title: `Merge ${stranger.name} into…`, text, people, action: "Merge" });
  if (into === null) return false;
  await change("POST", pathOf("/v1/strangers", stranger.id, "merge"), { json: { into: into.id } });
  return true;
}

async function forgotten(stranger) {
  const text = "Erases their shots and templates, at once and for good. Past events stay. If they come again, they are a new stranger.";
  if (!(await confirm({ title: `Forget ${stranger.name}?`, text, action: "Forget", danger: true }))) return false;
  await change("DELETE", pathOf("/v1/strangers", stranger.id));
  return true;
}

function small(one) {
  const place = h("span", { class: "portrait", "aria-hidden": "true" });
  pictures.url(one.picture).then(
    (url) => fill(place, h("img", { src: url, alt: "" })),
    () => {},
  );
  return place;
}
