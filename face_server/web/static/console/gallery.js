/** The collection in use, its people, and their crops. One copy for all views. */

import { change, collectionPath, get, getPages, pathOf } from "./api.js";
import { PictureCache, inTurn } from "./pictures.js";

const COLLECTION_ITEM = "face_server.collection";
const MOST_PEOPLE = 5000;
const MOST_CROPS = 500;

const changes = new EventTarget();
let collections = [];
let chosen = null;
let people = null;
const covers = new Map();
const crops = new PictureCache(MOST_CROPS);

/** Call `listener` after this page has changed the collection in use, or which one is in use. */
export function onChange(listener) {
  changes.addEventListener("change", listener);
}

/** Call `listener` after `refresh` found that somebody else has changed it. */
export function onNews(listener) {
  changes.addEventListener("news", listener);
}

/** Look whether others have enrolled or erased people meanwhile: the command line, another program. */
export async function refresh() {
  const before = collection();
  await loadCollections();
  const after = collection();
  if (before?.identity_count === after?.identity_count && before?.template_count === after?.template_count) return;
  people = null;
  covers.clear();
  changes.dispatchEvent(new Event("news"));
}

/** Read the collections and keep or choose the one in use: the one used before, else `preferred`, else the first. */
export async function loadCollections(preferred) {
  ({ items: collections } = await getPages("/v1/collections", "collections", 1000));
  const wanted = [chosen, sessionStorage.getItem(COLLECTION_ITEM), preferred];
  chosen = wanted.find((name) => collections.some((one) => one.name === name)) ?? collections[0]?.name ?? null;
  return collections;
}

/** The collection in use, or undefined when there is none. */
export function collection() {
  return collections.find((one) => one.name === chosen);
}

/** The names of all collections. */
export function collectionNames() {
  return collections.map((one) => one.name);
}

/** Use another collection. */
export function useCollection(name) {
  chosen = name;
  sessionStorage.setItem(COLLECTION_ITEM, name);
  forget();
  changes.dispatchEvent(new Event("change"));
}

/** Everybody in the collection, by name; at most 5,000 people: `complete` tells whether these are all. */
export function everybody() {
  people ??= readPeople().catch((error) => {
    people = null;
    throw error;
  });
  return people;
}

/** The people of exactly this name. */
export async function namesakes(name) {
  const { items, complete } = await everybody();
  if (complete) return items.filter((one) => one.name === name);
  return (await get(path("identities"), { query: { name } })).identities;
}

/** One person with templates. */
export async function person(id) {
  const found = await get(path("identities", id));
  covers.set(id, coverOf(found));
  return found;
}

/** The id of the template whose crop stands for a person, or null. */
export async function cover(id) {
  if (!covers.has(id)) await inTurn(() => person(id));
  return covers.get(id);
}

/** An address (blob:) of a template's crop. */
export function crop(template) {
  return crops.url(cropPath(template));
}

/** Create a person without templates. */
export function createPerson(name) {
  return changed("POST", path("identities"), { json: { name } });
}

/** Enrol a picture (a Blob): for the person `id`, or for a new person called `name` where `id` is null. */
export function enroll({ id, name, picture, source, override }) {
  const form = new FormData();
  form.append("files", picture, "photo");
  form.append("source", source.slice(0, 200));
  form.append("override", String(Boolean(override)));
  if (id === null) form.append("name", name);
  return changed("POST", id === null ? path("identities") : path("identities", id, "templates"), { body: form });
}

/** Rename a person. */
export function rename(id, name) {
  return changed("PATCH", path("identities", id), { json: { name } });
}

/** Give all templates of a person to another one. */
export function merge(id, into) {
  return changed("POST", path("identities", id, "merge"), { json: { into } });
}

/** Erase a person. */
export function removePerson(id) {
  return changed("DELETE", path("identities", id));
}

/** Erase a template. */
export async function removeTemplate(id) {
  await changed("DELETE", path("templates", id));
  crops.drop(cropPath(id));
}

/** Make a stranger the person `id`, or a new person called `name` where `id` is null. */
export function nameStranger(stranger, { id, name }) {
  const who = id === null ? { name } : { identity_id: id };
  return changed("POST", pathOf("/v1/strangers", stranger, "name"), { json: { collection: chosen, ...who } });
}

async function changed(method, address, options) {
  const answer = await change(method, address, options);
  people = null;
  covers.clear();
  await loadCollections();
  changes.dispatchEvent(new Event("change"));
  return answer;
}

async function readPeople() {
  const { items, complete } = await getPages(path("identities"), "identities", MOST_PEOPLE);
  const order = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
  return { items: items.sort((a, b) => order.compare(a.name, b.name)), complete };
}

function path(...below) {
  return collectionPath(chosen, ...below);
}

function cropPath(template) {
  return path("templates", template, "crop.jpg");
}

function coverOf(found) {
  const [best] = found.templates.filter((one) => one.has_crop).sort((a, b) => b.quality - a.quality);
  return best?.id ?? null;
}

function forget() {
  people = null;
  covers.clear();
  crops.clear();
}
