/** Where on a camera's picture faces count, and where not: areas drawn on a snapshot. */

import { call, pathOf } from "./api.js";
import { errorLine, fill, h, whilePressed } from "./dom.js";
import { count } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const STEP = 0.02;
const NEAR_PX = 12;
const KINDS = { regions: "Faces count in", ignore: "Faces are ignored in" };
const MOVES = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };

/** A part of the page that edits the areas of a camera; `save({regions, ignore})` stores them. */
export function regionsEditor(stream, save) {
  const areas = { regions: [...stream.rules.regions], ignore: [...stream.rules.ignore] };
  let corners = [];
  let cross = [0.5, 0.5];
  let kind = "regions";

  const image = h("img", { alt: "" });
  const layer = svg("svg", { viewBox: "0 0 1 1", preserveAspectRatio: "none", tabindex: 0, role: "application", "aria-label": "Areas on the picture" });
  const frame = h("div", { class: "frame", hidden: true }, image, layer);
  const told = h("div", { role: "status" });
  const kept = h("ul", { class: "areas" });
  const finish = h("button", { type: "button", onclick: () => close() }, "Close the area");
  const back = h("button", { type: "button", onclick: () => draw((corners = corners.slice(0, -1))) }, "Take back a corner");
  const store = h("button", { type: "button", class: "primary", onclick: () => whilePressed(store, stored) }, "Save the areas");

  const draw = () => {
    const shapes = Object.keys(KINDS).flatMap((one) => areas[one].map((area) => svg("polygon", { points: area.join(" "), class: one })));
    const line = corners.length > 0 && svg("polyline", { points: corners.join(" "), class: kind });
    const dots = corners.map(([x, y]) => svg("path", { d: `M${x} ${y}h0`, class: "corner" }));
    const [x, y] = cross;
    fill(layer, shapes, line, dots, svg("path", { d: `M${x} 0V1M0 ${y}H1`, class: "cross" }));
    finish.disabled = corners.length < 3;
    back.disabled = corners.length === 0;
    fill(kept, Object.keys(KINDS).flatMap((one) => areas[one].map((area, index) => row(one, area, index))));
  };
  const row = (one, area, index) => {
    const label = `${KINDS[one]} area ${index + 1}`;
    const drop = () => {
      areas[one].splice(index, 1);
      draw();
      layer.focus();
    };
    const button = h("button", { type: "button", class: "plain", "aria-label": `Delete: ${label}`, onclick: drop }, "Delete");
    return h("li", {}, h("span", { class: one }, label), h("span", { class: "soft small" }, count(area.length, "corner")), button);
  };
  const close = () => {
    if (corners.length < 3) return;
    areas[kind].push(corners);
    corners = [];
    fill(told, h("p", { class: "soft" }, "Not saved yet."));
    draw();
  };
  const put = (point) => {
    corners = [...corners, point.map((value) => Number(Math.min(1, Math.max(0, value)).toFixed(4)))];
    draw();
  };
  const stored = async () => {
    try {
      await save(areas);
      fill(told, h("p", { class: "good" }, "Saved."));
    } catch (error) {
      fill(told, errorLine(error));
    }
  };
  const load = async () => {
    try {
      const reply = await call("GET", pathOf("/v1/streams", stream.id, "snapshot.jpg"), { query: { annotated: false } });
      URL.revokeObjectURL(image.src);
      image.src = URL.createObjectURL(await reply.blob());
      frame.hidden = false;
      fill(told);
    } catch (error) {
      fill(told, errorLine(error));
    }
  };

  layer.addEventListener("click", (event) => {
    const { left, top, width, height } = layer.getBoundingClientRect();
    const point = [(event.clientX - left) / width, (event.clientY - top) / height];
    const [first] = corners;
    const near = first && Math.hypot((point[0] - first[0]) * width, (point[1] - first[1]) * height) < NEAR_PX;
    if (near && corners.length > 2) close();
    else put(point);
  });
  layer.addEventListener("keydown", (event) => {
    const move = MOVES[event.key];
    if (move) cross = cross.map((value, axis) => Math.min(1, Math.max(0, value + move[axis])));
    else if (event.key === " ") put(cross);
    else if (event.key === "Enter") close();
    else if (event.key === "Backspace") corners = corners.slice(0, -1);
    else return;
    event.preventDefault();
    draw();
  });

  const choice = Object.entries(KINDS).map(([one, label]) => {
    const radio = h("input", { type: "radio", name: "area-kind", onchange: () => draw((kind = one)) });
    radio.checked = one === kind;
    return h("label", { class: "check" }, radio, h("span", {}, `${label} new areas`));
  });
  const hint =
    "Press on the picture to set the corners of an area; press the first corner again to close it. With the keyboard: arrows move the cross, space sets a corner, Enter closes the area.";
  draw();
  return h(
    "details",
    { ontoggle: (event) => event.target.open && load() },
    h("summary", {}, "Areas"),
    h("div", { class: "settings" }, h("p", { class: "soft small" }, hint), choice, frame, h("div", { class: "actions" }, finish, back), kept, h("div", { class: "row" }, store), told),
  );
}

function svg(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}
