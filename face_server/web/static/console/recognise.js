/** A photo, the faces in it, and who they are. */

import { call, collectionPath } from "./api.js";
import { byId, errorLine, fill, h } from "./dom.js";
import { faceCard } from "./facecard.js";
import * as gallery from "./gallery.js";
import { overlay } from "./overlay.js";
import { openPicture, redrawn } from "./picture.js";
import * as words from "./words.js";

const SMALL_FACES_PX = 1920;

let shown = null;
let turn = new AbortController();

/** Connect the view with the page. */
export function start() {
  const file = byId("file");
  file.addEventListener("change", () => {
    if (file.files.length) open([...file.files]);
    file.value = "";
  });
  byId("open").addEventListener("submit", (event) => {
    event.preventDefault();
    const address = byId("address").value.trim();
    if (address) open([address]);
  });
  byId("small").addEventListener("change", again);
  for (const kind of ["dragover", "dragleave", "drop"]) document.addEventListener(kind, dragged);
  document.addEventListener("paste", pasted);
  gallery.onChange(again);
  invite();
}

/** Show what there is to do before there is a photo. */
function invite() {
  fill(
    byId("stage"),
    h(
      "label",
      { class: "drop", for: "file" },
      h("span", { class: "big" }, "Drop a photo here"),
      h("span", { class: "soft" }, "or press to choose one, paste it, or open its address above."),
      h("span", { class: "soft small" }, "The photo is analysed by this server and not kept."),
    ),
  );
  steps();
}

function steps() {
  const nobody = gallery.collection()?.identity_count === 0;
  const advice = nobody
    ? ["Nobody is enrolled yet. Open a photo of somebody you know.", "Press “Remember as…” beside the face and type the name.", "Open another photo: the face has its name."]
    : ["Open a photo.", "Each face gets its name, or “unknown”.", "Press “Remember as…” beside an unknown face to give it a name."];
  say("How it works");
  fill(byId("faces"), advice.map((text) => h("li", { class: "step" }, text)));
}

async function open(sources) {
  const signal = nextTurn();
  location.hash = "#recognise";
  say("Opening the photo…");
  fill(byId("faces"));
  byId("rule").textContent = "";
  byId("stage").setAttribute("aria-busy", "true");
  try {
    const picture = await openPicture(sources[0], signal);
    if (signal.aborted) return picture.close();
    shown?.picture.close();
    shown = { picture, more: sources.length - 1 };
    draw([]);
    await identify(signal);
  } catch (error) {
    if (signal.aborted) return;
    shown?.picture.close();
    shown = null;
    invite();
    fail(error);
  } finally {
    if (!signal.aborted) byId("stage").removeAttribute("aria-busy");
  }
}

/** Ask again about the photo that is shown: the people, the collection or the options have changed. */
async function again() {
  if (!shown) return steps();
  const signal = nextTurn();
  try {
    await identify(signal);
  } catch (error) {
    if (!signal.aborted) fail(error);
  }
}

async function identify(signal) {
  if (!shown.answer) say("Looking for faces…");
  const small = byId("small").checked ? { max_size: SMALL_FACES_PX } : {};
  const collection = gallery.collection();
  if (!collection) throw new Error("There is no collection on this server. Create one with PUT /v1/collections/default.");
  const asked = call("POST", `${collectionPath(collection.name)}/identify`, {
    query: { quality: true, limit: 3, ...small },
    body: shown.picture.blob,
    signal,
  });
  const [reply] = await Promise.all([asked, gallery.refresh()]);
  const answer = await reply.json();
  const [found] = answer.images;
  if (found.width !== shown.picture.width || found.height !== shown.picture.height) {
    const upright = await redrawn(shown.picture, signal);
    shown.picture.close();
    shown.picture = upright;
  }
  if (signal.aborted) return;
  shown.answer = answer;
  draw(inReadingOrder(found.faces));
  list(found.faces, answer);
}

function draw(faces) {
  const { picture } = shown;
  picture.image.alt = picture.name;
  fill(byId("stage"), h("div", { class: "frame" }, picture.image, overlay(faces, picture, light)));
}

function list(faces, answer) {
  const { picture, more } = shown;
  const ordered = inReadingOrder(faces);
  const held = byId("faces").contains(document.activeElement) && document.activeElement.closest(".face");
  const place = held ? [...byId("faces").children].indexOf(held) : -1;
  const others = (face) => ordered.filter((one) => one !== face).map((one) => one.box);
  fill(
    byId("faces"),
    ordered.map((face, index) => faceCard({ face, index, answer, picture, others: others(face), light: hover })),
    faces.length === 0 && h("li", { class: "step" }, "Try a photo in which faces are larger, or tick “Find small faces”."),
  );
  byId("faces").children[place]?.querySelector("h3")?.focus({ preventScroll: true });
  byId("rule").textContent = faces.length ? words.rule(answer.threshold, gallery.collection()) : "";
  say(words.summary(ordered) + (more > 0 ? ` Shown is the first of ${more + 1} photos.` : ""));
}

/** Faces as people name them in a photo: from left to right. */
function inReadingOrder(faces) {
  return [...faces].sort((a, b) => a.box.x1 + a.box.x2 - b.box.x1 - b.box.x2);
}

/** Lead from a box to its face in the list. */
function light(index) {
  const card = byId("faces").children[index];
  hover(index, true);
  card.scrollIntoView({ block: "nearest", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
  card.querySelector("h3").focus({ preventScroll: true });
}

/** Show which box belongs to which face of the list. */
function hover(index, lit) {
  for (const element of document.querySelectorAll("[data-face]")) {
    element.classList.toggle("lit", lit && element.dataset.face === String(index));
  }
}

function say(text) {
  const summary = byId("summary");
  if (summary.textContent !== text) summary.textContent = text;
}

function fail(error) {
  say("That did not work.");
  byId("rule").textContent = "";
  fill(byId("faces"), h("li", {}, errorLine(error)));
}

function nextTurn() {
  turn.abort();
  turn = new AbortController();
  return turn.signal;
}

function dragged(event) {
  if (byId("recognise").hidden || !event.dataTransfer?.types.includes("Files")) return;
  event.preventDefault();
  byId("stage").classList.toggle("over", event.type === "dragover");
  if (event.type === "drop" && event.dataTransfer.files.length) open([...event.dataTransfer.files]);
}

function pasted(event) {
  if (byId("recognise").hidden || event.target.closest?.("input, dialog")) return;
  const files = [...event.clipboardData.files].filter((file) => file.type.startsWith("image/"));
  const text = event.clipboardData.getData("text").trim();
  if (files.length) open(files);
  else if (/^https?:\/\//.test(text)) open([text]);
}
