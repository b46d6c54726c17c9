/** The console: it starts here. Views are addressed by the part after "#". */

import { call, get, onKeyNeeded } from "./api.js";
import { askKey } from "./dialogs.js";
import { byId, fill, h, sentence } from "./dom.js";
import * as gallery from "./gallery.js";
import * as people from "./people.js";
import * as recognise from "./recognise.js";

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
  recognise.start();
  people.start();
  addEventListener("hashchange", route);
  route();
} catch (error) {
  const retry = h("button", { type: "button", onclick: () => location.reload() }, "Try again");
  fill(byId("trouble"), sentence(error.message), " ", retry);
  byId("trouble").hidden = false;
}

function route() {
  const [view, id] = location.hash.slice(1).split("/");
  const inPeople = view === "people";
  byId("recognise").hidden = inPeople;
  byId("people").hidden = !inPeople;
  for (const link of document.querySelectorAll("[data-view]")) {
    if ((link.dataset.view === "people") === inPeople) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${inPeople ? "People" : "Recognise"} · face_server`;
  if (inPeople) people.open(id ? decodeURIComponent(id) : null);
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
