/** One face of a photo in the list beside it. */

import { fill, h, whilePressed } from "./dom.js";
import * as gallery from "./gallery.js";
import { cutFace, thumbnail } from "./picture.js";
import { refusal, rememberForm } from "./remember.js";
import * as words from "./words.js";

const THUMBNAIL_PX = 144;

/** A list item: the crop, who it is and why, how good the face is, and what can be done. */
export function faceCard({ face, index, answer, picture, others, light }) {
  const name = face.match?.identity.name;
  const actions = h("div", { class: "actions" });
  const enrol = { cut: () => cutFace(picture, face.box, others), source: picture.name };
  offerActions(actions, face, enrol);
  const crop = thumbnail(picture, face.box, THUMBNAIL_PX);
  crop.setAttribute("aria-hidden", "true");
  return h(
    "li",
    { class: "face", "data-face": index, onpointerenter: () => light(index, true), onpointerleave: () => light(index, false) },
    h("div", { class: "crop" }, crop),
    h(
      "div",
      { class: "about" },
      h("h3", { tabindex: -1, class: name ? "" : "nobody" }, h("span", { class: "number" }, String(index + 1)), h("span", { class: "name" }, name ?? "Unknown")),
      h("p", { class: name ? "verdict good" : "verdict" }, words.verdict(face, answer.threshold, answer.margin)),
      candidates(face, answer.threshold),
      h("details", { class: "small" }, h("summary", { class: face.quality.reasons.length ? "warn" : "" }, words.fitness(face.quality)), h("dl", {}, words.measures(face).map(([key, value]) => [h("dt", {}, key), h("dd", {}, value)]))),
      actions,
    ),
  );
}

function candidates(face, threshold) {
  if (face.candidates.length === 0) return null;
  return h("ul", { class: "candidates", "aria-label": "Nearest people" }, face.candidates.map((one) => candidate(one, threshold)));
}

function candidate({ identity, similarity }, threshold) {
  const reached = similarity >= threshold;
  const meter = h("span", { class: "meter", "aria-hidden": "true" }, h("i", { class: reached ? "reached" : "" }), h("u", {}));
  meter.firstElementChild.style.width = `${100 * clamp(similarity)}%`;
  meter.lastElementChild.style.left = `${100 * clamp(threshold)}%`;
  return h(
    "li",
    {},
    h("a", { class: "name", href: `#people/${encodeURIComponent(identity.id)}` }, identity.name),
    meter,
    h("span", { class: "value" }, words.similarity(similarity)),
  );
}

function clamp(value) {
  return Math.min(1, Math.max(0, value));
}

function offerActions(actions, face, enrol) {
  const match = face.match?.identity;
  const trouble = h("div", {});
  const form = () => {
    fill(actions, rememberForm({ label: "Remember this face as", store: keep, cancel: () => offerActions(actions, face, enrol) }));
    actions.querySelector("input").focus();
  };
  const keep = async (who) => gallery.enroll({ ...who, picture: await enrol.cut(), source: enrol.source });
  const add = async (override) => {
    fill(trouble);
    try {
      await keep({ id: match.id, override });
    } catch (error) {
      fill(trouble, refusal(error, () => add(true)));
    }
  };
  const learn = match && h("button", { type: "button", class: "plain", title: `Recognise ${match.name} by this picture too`, onclick: () => whilePressed(learn, () => add(false)) }, "Add template");
  const remember = h("button", { type: "button", class: match ? "plain" : "", onclick: form }, match ? "Somebody else…" : "Remember as…");
  fill(actions, learn, remember, trouble);
}
