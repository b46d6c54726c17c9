/** Every camera and how it is, and the one that is opened. */

import { get } from "./api.js";
import { openCamera, showState } from "./camera.js";
import { addCamera } from "./camera_form.js";
import { byId, errorLine, fill, h, setText, whilePressed } from "./dom.js";
import { whileVisible } from "./visible.js";
import * as words from "./words.js";

const EVERY_MS = 2000;

const entries = new Map();
let opened = null;
let panel = null;
let stop = null;

/** Connect the view with the page. */
export function start() {
  const add = byId("add-camera");
  add.addEventListener("click", () =>
    whilePressed(add, async () => {
      const added = await addCamera();
      if (added) location.hash = `#cameras/${encodeURIComponent(added.id)}`;
    }),
  );
}

/** Show the view, with the camera `id` opened if there is one. */
export function open(id) {
  const moved = stop !== null && id !== opened;
  closePanel();
  opened = id;
  columns().classList.toggle("opened", id !== null);
  if (id === null) fill(byId("camera"), h("p", { class: "soft hint" }, "Choose a camera to watch it."));
  if (moved && id === null) byId("main").focus({ preventScroll: true });
  stop?.();
  let focus = moved;
  stop = whileVisible(async (signal) => {
    await refresh(signal, focus);
    focus = false;
  }, EVERY_MS);
}

/** The view is left: nothing is asked any more. */
export function leave() {
  stop?.();
  stop = null;
  closePanel();
}

function closePanel() {
  panel?.close();
  panel = null;
}

async function refresh(signal, focus) {
  try {
    const { streams } = await get("/v1/streams", { signal });
    list(streams);
    if (opened !== null) show(streams.find((one) => one.id === opened), focus);
  } catch (error) {
    if (signal.aborted) return;
    if (error.status === undefined) throw error;
    fill(byId("cameras-told"), errorLine(error));
  }
}

function show(stream, focus) {
  const place = byId("camera");
  if (!stream) {
    closePanel();
    fill(place, h("a", { class: "back", href: "#cameras" }, "← All cameras"), h("p", { class: "soft hint" }, "This camera is not registered any more."));
  } else if (panel) {
    panel.update(stream);
  } else {
    panel = openCamera(place, stream);
    if (focus) place.querySelector("h2").focus({ preventScroll: true });
  }
}

function list(streams) {
  setText(byId("cameras-told"), told(streams));
  byId("no-camera").hidden = streams.length > 0;
  for (const [id, entry] of entries) {
    if (streams.some((one) => one.id === id)) continue;
    entry.item.remove();
    entries.delete(id);
  }
  for (const stream of streams) {
    if (!entries.has(stream.id)) {
      entries.set(stream.id, newEntry(stream.id));
      byId("camera-list").append(entries.get(stream.id).item);
    }
    entries.get(stream.id).update(stream);
  }
}

/** What is said at the top; it is read out when it changes, so it holds no figures that always do. */
function told(streams) {
  if (streams.length === 0) return "No camera yet.";
  const away = streams.filter((one) => one.enabled && !["running", "starting"].includes(one.status.state)).length;
  return `${words.count(streams.length, "camera")}${away ? `, ${away} not running` : ""}.`;
}

function newEntry(id) {
  const name = h("span", { class: "name" });
  const badge = h("span", {});
  const reason = h("span", { class: "small" });
  const pace = h("span", { class: "soft small" });
  const link = h("a", { class: "camera-entry", href: `#cameras/${encodeURIComponent(id)}` }, h("span", { class: "row" }, name, badge), reason, pace);
  const update = (stream) => {
    setText(name, stream.name || stream.id);
    showState(badge, stream.status);
    setText(reason, words.trouble(stream.status));
    setText(pace, words.pace(stream.status));
    if (id === opened) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  };
  return { item: h("li", {}, link), update };
}

function columns() {
  return document.querySelector("#cameras .people");
}
