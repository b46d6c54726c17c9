/** What is said of a camera: when it is added, and later. */

import { change } from "./api.js";
import { ask } from "./dialogs.js";
import { errorLine, fill, h, whilePressed } from "./dom.js";
import * as gallery from "./gallery.js";
import * as words from "./words.js";

const NUMBERS = [
  ["max_fps", "Frames analysed a second, at most", "0: as many as there is time for."],
  ["min_face_px", "Smallest face, in pixels", "The shorter side of the face in the camera's picture."],
  ["detection_size_px", "Detection size, in pixels", "The long side at which faces are looked for: more finds smaller faces and takes longer."],
  ["realert_s", "Seconds until somebody is announced again", "However often they come back meanwhile."],
];
const CHOICES = [
  ["realert_on_return", "Announce everybody who comes back at once"],
  ["strangers", "Remember and announce strangers"],
];

let fields = 0;

/** Ask for a new camera and register it; resolves to it, or to null. */
export function addCamera() {
  const name = textInput("", { maxlength: 200, placeholder: "Entrance" });
  const address = addressField("");
  const collections = collectionChoice([gallery.collection()?.name]);
  const strangers = checkbox(CHOICES[1][1], true);
  const body = [field("Name", name), address.node, collections.node, strangers.node];
  const go = h("button", { type: "submit", class: "primary" }, "Add");
  return ask("Add a camera", body, go, () =>
    change("POST", "/v1/streams", {
      json: { name: name.value.trim(), url: address.value(), collections: collections.value(), rules: { strangers: strangers.value() } },
    }),
  );
}

/** A form for the settings of a camera; `save(changes)` sends what was changed and resolves to the camera. */
export function settingsForm(stream, save) {
  let known = stream;
  const name = textInput(stream.name, { maxlength: 200 });
  const address = addressField(stream.url);
  const numbers = NUMBERS.map(([rule, label, hint]) => numberField(rule, label, hint, stream.rules[rule]));
  const choices = CHOICES.map(([rule, label]) => ({ rule, ...checkbox(label, stream.rules[rule]) }));
  const collections = collectionChoice(stream.collections);
  const told = h("div", { role: "status" });
  const submit = h("button", { type: "submit", class: "primary" }, "Save");
  const changes = () => {
    const changed = differing(known, { name: name.value.trim(), url: address.value(), collections: collections.value() });
    const rules = differing(known.rules, Object.fromEntries([...numbers, ...choices].map((one) => [one.rule, one.value()])));
    return { ...changed, ...(Object.keys(rules).length > 0 && { rules }) };
  };
  const store = async () => {
    fill(told);
    try {
      known = await save(changes());
      // A password that was typed is shown no longer.
      address.set(known.url);
      fill(told, h("p", { class: "good" }, "Saved."));
    } catch (error) {
      fill(told, errorLine(error));
    }
  };
  const onsubmit = (event) => {
    event.preventDefault();
    whilePressed(submit, store);
  };
  // What is wrong with a number is said by the server, as all other errors are.
  return h(
    "form",
    { class: "settings", novalidate: true, onsubmit },
    h("div", { class: "pair" }, field("Name", name), address.node),
    h("div", { class: "pair" }, numbers.map((one) => one.node)),
    collections.node,
    choices.map((one) => one.node),
    h("div", { class: "row" }, submit),
    told,
  );
}

/** The address of a camera, with a button that tries it. */
function addressField(value) {
  const id = newId("address");
  const input = textInput(value, { id, maxlength: 2048, required: true, placeholder: "rtsp://user:password@192.168.1.20/stream2" });
  const told = h("div", { class: "small", role: "status" });
  const attempt = async () => {
    fill(told, h("p", { class: "soft" }, "Trying…"));
    try {
      const found = await change("POST", "/v1/streams/probe", { json: { url: input.value.trim() } });
      const rate = found.fps ? `${Number(found.fps.toFixed(2))} frames a second` : "an unstated frame rate";
      fill(told, h("p", { class: "good" }, `It shows ${words.size(found)} pixels at ${rate}, ${found.codec}.`));
    } catch (error) {
      fill(told, errorLine(error));
    }
  };
  const button = h("button", { type: "button", onclick: () => whilePressed(button, attempt) }, "Try");
  const node = h("div", { class: "field" }, h("label", { for: id }, "Address"), h("div", { class: "joined" }, input, button), told);
  return { node, value: () => input.value.trim(), set: (text) => (input.value = text) };
}

/** Which collections are recognised: those there are, and those that were chosen. */
function collectionChoice(chosen) {
  const names = [...new Set([...chosen.filter(Boolean), ...gallery.collectionNames()])].sort();
  const boxes = names.map((name) => ({ name, ...checkbox(name, chosen.includes(name)) }));
  const node = h("fieldset", {}, h("legend", {}, "Recognises the people of"), boxes.map((one) => one.node));
  return { node, value: () => boxes.filter((one) => one.value()).map((one) => one.name) };
}

function numberField(rule, label, hint, value) {
  const id = newId(rule);
  const input = h("input", { id, type: "number", step: "any", "aria-describedby": `${id}-hint` });
  input.value = value;
  const node = h("div", { class: "field" }, h("label", { for: id }, label), input, h("p", { id: `${id}-hint`, class: "soft small" }, hint));
  return { rule, node, value: () => (Number.isNaN(input.valueAsNumber) ? null : input.valueAsNumber) };
}

function textInput(value, attributes) {
  const input = h("input", { type: "text", autocomplete: "off", spellcheck: "false", ...attributes });
  input.value = value;
  return input;
}

function checkbox(label, checked) {
  const input = h("input", { type: "checkbox" });
  input.checked = checked;
  return { node: h("label", { class: "check" }, input, h("span", { class: "name" }, label)), value: () => input.checked };
}

function field(label, input) {
  return h("label", { class: "field" }, label, input);
}

function newId(what) {
  return `camera-${what}-${(fields += 1)}`;
}

/** The members of `after` that are not as in `before`. */
function differing(before, after) {
  return Object.fromEntries(Object.entries(after).filter(([key, value]) => JSON.stringify(before[key]) !== JSON.stringify(value)));
}
