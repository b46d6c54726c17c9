/** The console: it starts here. Views are addressed by the part after "#". */

import { call, get, onKeyNeeded } from "./api.js";
import * as cameras from "./cameras.js";
import { askKey } from "./dialogs.js";
import { byId, fill, h, sentence } from "./dom.js";
import * as events from "./events.js";
import * as gallery from "./gallery.js";
import * as people from "./people.js";
import * as recognise from "./recognise.js";
import * as strangers from "./strangers.js";

const VIEWS = { recognise, people, cameras, events, strangers };
let shown = "recognise";

onKeyNeeded(askKey);
// A photo dropped beside the mark must not replace the page.
for (const kind of ["dragover", "drop"]) addEventListener(kind, (event) => event.preventDefault());
try {
  const info = await get("/v1/info");
  about(info);
  await gallery.loadCollections(info.defaults.collection);
  choice();
  gallery.onChange(choice);
  gallery.onNews(choice);
  for (const view of Object.values(VIEWS)) view.start();
  addEventListener("hashchange", route);
  route();
} catch (error) {
  const retry = h("button", { type: "button", onclick: () => location.reload() }, "Try again");
  fill(byId("trouble"), sentence(error.message), " ", retry);
  byId("trouble").hidden = false;
}

function route() {
  const [asked, id] = location.hash.slice(1).split("/");
  const name = Object.hasOwn(VIEWS, asked) ? asked : "recognise";
  if (name !== shown) VIEWS[shown].leave?.();
  shown = name;
  for (const view of Object.keys(VIEWS)) byId(view).hidden = view !== name;
  for (const link of document.querySelectorAll("[data-view]")) {
    if (link.dataset.view === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${name.charAt(0).toUpperCase()}${name.slice(1)} · face_server`;
  VIEWS[name].open?.(id ? decodeURIComponent(id) : null);
}

/** Fill the choice of collections, and the number of people beside the link. */
function choice() {
  const select = byId("collection");
  const used = gallery.collection();
  fill(select, gallery.collectionNames().map((name) => h("option", { value: name, selected: name === used?.name }, name)));
  byId("people-count").textContent = used ? used.identity_count.toLocaleString("en") : "";
}

byId("collection").addEventListener("change", (event) => {
  if (location.hash.startsWith("#people/")) location.hash = "#people";
  gallery.useCollection(event.target.value);
});

function about(info) {
  const model = (one, does) => [`${one.name} ${does} (${one.licence}`, !one.commercial_use && h("strong", { class: "warn" }, ", not for commercial use"), ")"];
  fill(
    byId("about"),
    `face_server ${info.version} · `,
    model(info.detector, "finds faces"),
    " · ",
    model(info.embedder, "compares them"),
    ` · ${info.backend}`,
  );
  if (info.keys_required) byId("metrics").addEventListener("click", metricsWithKey);
}

/** A link sends no API key: fetch the metrics with it and show what came. */
async function metricsWithKey(event) {
  event.preventDefault();
  const text = await (await call("GET", "/metrics")).text();
  location.assign(URL.createObjectURL(new Blob([text], { type: "text/plain;charset=utf-8" })));
}
