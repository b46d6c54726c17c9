/** Boxes and labels over a photo. They are buttons: a box leads to its face in the list. */

import { h } from "./dom.js";
import { similarity } from "./words.js";

/** The layer over a photo of `width`×`height` pixels; `choose(index)` is called when a box is pressed. */
export function overlay(faces, { width, height }, choose) {
  const boxes = faces.map((face, index) => box(face, index, { width, height }, choose));
  const layer = h("div", { class: "overlay" }, boxes);
  // Labels are placed when their sizes are known, and again whenever the photo changes its size.
  new ResizeObserver(() => placeLabels(layer, boxes)).observe(layer);
  return layer;
}

function box(face, index, size, choose) {
  const name = face.match?.identity.name ?? "unknown";
  const value = face.match ? similarity(face.match.similarity) : "";
  const label = h("span", { class: "label" }, h("b", {}, String(index + 1)), h("span", { class: "who" }, name), value && h("span", { class: "value" }, value));
  const button = h(
    "button",
    {
      type: "button",
      class: face.match ? "box named" : "box",
      "data-face": index,
      "aria-label": `Face ${index + 1}: ${name}${value ? `, similarity ${value}` : ""}`,
      onclick: () => choose(index),
    },
    label,
  );
  const { x1, y1, x2, y2 } = face.box;
  button.style.left = `${(100 * x1) / size.width}%`;
  button.style.top = `${(100 * y1) / size.height}%`;
  button.style.width = `${(100 * (x2 - x1)) / size.width}%`;
  button.style.height = `${(100 * (y2 - y1)) / size.height}%`;
  return button;
}

/** Put each label below its box, above it or inside it, where it covers no other label; else only its number. */
function placeLabels(layer, boxes) {
  const room = layer.getBoundingClientRect();
  const taken = [];
  for (const button of boxes) {
    const label = button.firstElementChild;
    label.classList.remove("short");
    if (!place(button, label, room, taken)) {
      label.classList.add("short");
      if (!place(button, label, room, taken)) put(label, 0, 0);
    }
  }
}

function place(button, label, room, taken) {
  const around = button.getBoundingClientRect();
  const { width, height } = label.getBoundingClientRect();
  const left = Math.min(Math.max(around.left + (around.width - width) / 2, room.left), room.right - width);
  for (const top of [around.bottom + 3, around.top - height - 3, around.bottom - height - 3]) {
    const spot = { left, top, right: left + width, bottom: top + height };
    const inside = spot.top >= room.top && spot.bottom <= room.bottom && width <= room.width;
    if (inside && !taken.some((other) => overlap(spot, other))) {
      taken.push(spot);
      put(label, left - around.left, top - around.top);
      return true;
    }
  }
  return false;
}

function put(label, left, top) {
  label.style.left = `${left}px`;
  label.style.top = `${top}px`;
}

function overlap(a, b) {
  return a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
}
