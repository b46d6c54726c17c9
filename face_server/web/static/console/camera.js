/** One camera: what it shows, how it is, and what can be done with it. */

import { change, pathOf } from "./api.js";
import { settingsForm } from "./camera_form.js";
import { confirm } from "./dialogs.js";
import { errorLine, fill, h, sentence, setText, whilePressed } from "./dom.js";
import { watch } from "./preview.js";
import { regionsEditor } from "./regions.js";
import * as words from "./words.js";

/** Show a camera in `place`. Answers with `update(stream)`, to be called with news of it, and `close()`. */
export function openCamera(place, stream) {
  let latest = stream;
  let stopWatching = null;
  let closed = false;
  const name = h("h2", { class: "name", tabindex: -1 });
  const badge = h("span", {});
  const reason = h("p", { role: "status" });
  const canvas = h("canvas", { role: "img", width: stream.status.width || 640, height: stream.status.height || 360 });
  const told = h("p", { class: "veil", role: "status" }, "Waiting for a picture…");
  const figures = h("dl", { class: "figures small" });
  const trouble = h("div", {});
  const pauseButton = h("button", { type: "button", onclick: () => act(pauseButton, () => patch({ enabled: !latest.enabled })) });
  const restart = h("button", { type: "button", onclick: () => act(restart, () => change("POST", path("restart"))) }, "Restart");
  const remove = h("button", { type: "button", class: "danger", onclick: () => act(remove, removed) }, "Remove this camera…");

  const path = (...below) => pathOf("/v1/streams", stream.id, ...below);
  const patch = (json) => change("PATCH", path(), { json });
  const act = (button, work) =>
    whilePressed(button, async () => {
      fill(trouble);
      try {
        const answer = await work();
        if (answer) update(answer);
      } catch (error) {
        fill(trouble, errorLine(error));
      }
    });
  const removed = async () => {
    const title = `Remove ${latest.name || latest.id}?`;
    const text = "It is not watched any more, and its address and settings are erased. Its events stay.";
    if (!(await confirm({ title, text, action: "Remove", danger: true }))) return;
    await change("DELETE", path());
    location.hash = "#cameras";
  };
  const update = (news) => {
    if (closed) return;
    latest = news;
    setText(name, news.name || news.id);
    canvas.setAttribute("aria-label", `What ${news.name || news.id} shows now`);
    showState(badge, news.status);
    setText(reason, words.trouble(news.status));
    reason.hidden = !reason.textContent;
    setText(pauseButton, news.enabled ? "Pause" : "Resume");
    restart.disabled = !news.enabled;
    showFigures(figures, words.figures(news));
    if (news.enabled) stopWatching ??= watch(canvas, news.id, tell);
    else endWatching("Paused: nobody is looked for.");
  };
  const saved = async (json) => {
    const answer = await patch(json);
    update(answer);
    return answer;
  };
  const tell = (text) => {
    setText(told, text && sentence(text));
    told.hidden = !text;
  };
  const endWatching = (why) => {
    stopWatching?.();
    stopWatching = null;
    tell(why);
  };

  const settings = h("details", {}, h("summary", {}, "Settings"), settingsForm(stream, saved));
  fill(
    place,
    h("a", { class: "back", href: "#cameras" }, "← All cameras"),
    h("header", {}, h("div", { class: "row" }, name, badge), reason),
    h("div", { class: "screen" }, canvas, told),
    figures,
    h("div", { class: "actions" }, pauseButton, restart),
    trouble,
    settings,
    regionsEditor(stream, (rules) => saved({ rules })),
    h("div", { class: "row ending" }, remove),
  );
  update(stream);
  const close = () => {
    closed = true;
    endWatching("");
  };
  return { update, close };
}

/** Make `badge` tell the state of a camera. */
export function showState(badge, status) {
  badge.className = `badge ${status.state}`;
  setText(badge, words.state(status.state));
}

/** Write pairs of name and value; what stays the same stays marked, if somebody wants to copy it. */
function showFigures(list, pairs) {
  const names = [...list.querySelectorAll("dt")].map((one) => one.textContent);
  if (names.join() !== pairs.map(([name]) => name).join()) fill(list, pairs.map(([name]) => h("div", {}, h("dt", {}, name), h("dd", {}))));
  for (const [index, place] of list.querySelectorAll("dd").entries()) setText(place, pairs[index][1]);
}
