/** What happened on the cameras: as it happens, and before. */

import { get } from "./api.js";
import { byId, errorLine, fill, h, sentence, setText, whilePressed } from "./dom.js";
import { eventTitle, showEvent, thumb } from "./event.js";
import { follow } from "./follow.js";
import * as words from "./words.js";

const PAGE = 50;
const MOST = 500;
const KINDS = {
  "No departures": ["person_seen", "stranger_seen", "stream_lost", "stream_recovered"],
  "Known people": ["person_seen"],
  Strangers: ["stranger_seen"],
  Cameras: ["stream_lost", "stream_recovered"],
  Everything: [],
};

let opened = null;
let stop = null;
let oldest = null;
let turn = 0;
let names = new Map();
const asked = new Set();

/** Connect the view with the page. */
export function start() {
  fill(byId("event-kind"), Object.keys(KINDS).map((name) => h("option", {}, name)));
  fill(byId("event-camera"), h("option", { value: "" }, "All cameras"));
  for (const id of ["event-kind", "event-camera"]) byId(id).addEventListener("change", begin);
  const older = byId("older-events");
  older.addEventListener("click", () => whilePressed(older, showOlder));
}

/** Show the view, with the event `id` opened if there is one. */
export async function open(id) {
  const entered = stop === null;
  const moved = !entered && id !== opened;
  opened = id;
  columns().classList.toggle("opened", id !== null);
  for (const link of byId("event-list").querySelectorAll("a")) mark(link);
  if (entered) await begin();
  // Another one may have been opened while the list was read.
  if (id !== opened) return;
  await showEvent(byId("event"), id, { focus: moved, camera });
  if (moved && id === null) byId("main").focus({ preventScroll: true });
}

/** The view is left: nothing is listened to any more. */
export function leave() {
  turn += 1;
  stop?.();
  stop = null;
}

/** Read the newest events that are wanted, and follow from there. */
async function begin() {
  leave();
  const mine = turn;
  stop = () => {};
  const wanted = filter();
  fill(byId("events-told"));
  tell("Connecting…", false);
  try {
    await readCameras();
    const { events, next_cursor } = await get("/v1/events", { query: [...wanted, ["limit", PAGE]] });
    if (mine !== turn) return;
    fill(byId("event-list"), events.map(entry));
    oldest = next_cursor;
    shown();
    stop = follow(wanted, events[0]?.cursor ?? 0, { take, tell: (why) => tell(why ? `Not connected: ${sentence(why)}` : "Live", !why) });
  } catch (error) {
    if (mine !== turn) return;
    stop = null;
    tell("Not connected", false);
    const again = h("button", { type: "button", onclick: begin }, "Try again");
    fill(byId("events-told"), errorLine(error, " ", again));
  }
}

/** Read what the cameras are called; those that are gone or new are shown by their id until then. */
async function readCameras() {
  const { streams } = await get("/v1/streams");
  names = new Map(streams.map((one) => [one.id, one.name || one.id]));
  const select = byId("event-camera");
  const chosen = select.value;
  fill(select, h("option", { value: "" }, "All cameras"), [...names].map(([id, name]) => h("option", { value: id, selected: id === chosen }, name)));
  for (const place of byId("event-list").querySelectorAll("[data-stream]")) setText(place, names.get(place.dataset.stream) ?? place.dataset.stream);
}

async function showOlder() {
  const mine = turn;
  try {
    const { events, next_cursor } = await get("/v1/events", { query: [...filter(), ["limit", PAGE], ["before", oldest]] });
    if (mine !== turn) return;
    const items = events.map(entry);
    byId("event-list").append(...items);
    oldest = next_cursor;
    shown();
    items[0]?.querySelector("a").focus();
  } catch (error) {
    fill(byId("events-told"), errorLine(error));
  }
}

/** Something happened just now. Of a long list the oldest are left to be read again. */
function take(event) {
  const list = byId("event-list");
  if (list.querySelector(`[data-cursor="${event.cursor}"]`)) return;
  list.prepend(entry(event));
  if (!names.has(event.stream_id) && !asked.has(event.stream_id)) {
    asked.add(event.stream_id);
    readCameras().catch(() => {});
  }
  setText(byId("newest-event"), event.message);
  while (list.children.length > MOST) {
    list.lastElementChild.remove();
    oldest = list.lastElementChild.dataset.cursor;
  }
  shown();
}

function shown() {
  byId("older-events").hidden = oldest === null;
  const empty = byId("event-list").children.length === 0;
  if (!empty) fill(byId("events-told"));
  else if (names.size > 0) fill(byId("events-told"), h("p", { class: "notice" }, "Nothing yet. It appears here as soon as it happens."));
  else fill(byId("events-told"), h("p", { class: "notice" }, "Nothing yet. ", h("a", { href: "#cameras" }, "Add a camera"), ", or play a video as if it were one: ", h("code", {}, "face-server demo video.mp4")));
}

function entry(event) {
  const name = h("span", { class: "name" }, eventTitle(event, camera(event)));
  const time = h("time", { class: "soft small", datetime: event.at }, words.moment(event.at));
  const where = event.who && h("span", { class: "soft small" }, h("span", { "data-stream": event.stream_id }, camera(event)), ` · ${words.likeness(event.who)}`);
  const about = h("span", { class: "about" }, h("span", { class: "row" }, name, time), where);
  const link = h("a", { class: `entry event ${event.kind}`, href: `#events/${encodeURIComponent(event.id)}` }, thumb(event), about);
  mark(link);
  return h("li", { "data-cursor": event.cursor }, link);
}

function mark(link) {
  if (opened !== null && link.hash === `#events/${encodeURIComponent(opened)}`) link.setAttribute("aria-current", "true");
  else link.removeAttribute("aria-current");
}

function filter() {
  const stream = byId("event-camera").value;
  return [...(stream ? [["stream", stream]] : []), ...KINDS[byId("event-kind").value].map((kind) => ["kind", kind])];
}

function camera(event) {
  return names.get(event.stream_id) ?? event.stream_id;
}

function tell(text, live) {
  const place = byId("events-live");
  setText(place, text);
  place.classList.toggle("good", live);
}

function columns() {
  return document.querySelector("#events .people");
}
