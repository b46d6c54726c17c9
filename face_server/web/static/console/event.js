/** One event: the frame with everybody marked, who it was and why. */

import { get, pathOf } from "./api.js";
import { errorLine, fill, h } from "./dom.js";
import * as gallery from "./gallery.js";
import { PictureCache } from "./pictures.js";
import * as words from "./words.js";

const MOST_PICTURES = 600;
const SIGNS = { stream_lost: "✕", stream_recovered: "✓" };

const pictures = new PictureCache(MOST_PICTURES);
const visible = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) continue;
    visible.unobserve(target);
    load(target);
  }
});
let turn = 0;

/** What happened, in a few words: who, or what became of a camera. */
export function eventTitle(event, camera) {
  if (!event.who) return event.kind === "stream_lost" ? `${camera} gives no more pictures` : `${camera} is back`;
  return event.kind.endsWith("_left") ? `${event.who.name} left` : event.who.name;
}

/** The best shot, loaded when it comes into view. */
export function thumb(event) {
  const place = h("span", { class: "portrait", "aria-hidden": "true", "data-path": event.picture ?? "" }, SIGNS[event.kind]);
  if (event.picture) visible.observe(place);
  return place;
}

/** Show the event `id` (null: none) in `place`; `focus` moves the keyboard there, `camera(event)` names the camera. */
export async function showEvent(place, id, { focus, camera }) {
  const mine = (turn += 1);
  if (id === null) {
    fill(place, h("p", { class: "soft hint" }, "Choose an event to see the frame."));
    return;
  }
  try {
    const event = await get(pathOf("/v1/events", id));
    if (mine !== turn) return;
    fill(
      place,
      back(),
      h("h2", { class: "name", tabindex: -1 }, event.who ? event.who.name : eventTitle(event, camera(event))),
      h("p", {}, `${event.message}.`),
      event.frame_picture && frame(event),
      h("dl", { class: "figures small" }, words.eventFacts(event, camera(event)).map(([key, value]) => h("div", {}, h("dt", {}, key), h("dd", {}, value)))),
      event.who && h("div", { class: "actions" }, whoLink(event.who)),
      event.faces.length > 1 && others(event),
    );
  } catch (error) {
    if (mine !== turn) return;
    fill(place, back(), error.code === "not_found" ? h("p", { class: "soft hint" }, "This event is not kept any more.") : errorLine(error));
  }
  if (focus) place.querySelector("h2")?.focus({ preventScroll: true });
}

function back() {
  return h("a", { class: "back", href: "#events" }, "← All events");
}

function frame(event) {
  const place = h("div", { class: "screen" });
  pictures.url(event.frame_picture).then(
    (url) => fill(place, h("img", { src: url, alt: `The frame: ${words.count(event.faces.length, "face")}`, width: event.frame_width, height: event.frame_height })),
    (error) => fill(place, errorLine(error)),
  );
  return place;
}

function whoLink(who) {
  if (who.stranger_id) return h("a", { href: `#strangers/${encodeURIComponent(who.stranger_id)}` }, "Give this stranger a name");
  const choose = () => {
    if (gallery.collection()?.name !== who.collection) gallery.useCollection(who.collection);
  };
  return h("a", { href: `#people/${encodeURIComponent(who.identity_id)}`, onclick: choose }, `Open ${who.name}`);
}

function others(event) {
  const items = event.faces.map((face) => {
    const shot = h("span", { class: "portrait", "aria-hidden": "true", "data-path": face.picture ?? "" });
    if (face.picture) visible.observe(shot);
    const likeness = face.who ? words.likeness(face.who) : "";
    return h("li", { class: "entry" }, shot, h("span", { class: face.who ? "name" : "name soft" }, face.who?.name ?? "Nobody known"), h("span", { class: "soft small" }, likeness));
  });
  return [h("h3", {}, "On this frame"), h("ul", { class: "list" }, items)];
}

/** Put the picture in its place. One that cannot be had leaves it empty. */
async function load(place) {
  try {
    fill(place, h("img", { src: await pictures.url(place.dataset.path), alt: "" }));
  } catch {
    place.classList.add("missing");
  }
}
