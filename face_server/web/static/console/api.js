/** The HTTP API of this server. Every request of the console goes through `call`. */

const KEY_ITEM = "face_server.key";

/** What the server refused, in its own sentence (RFC 9457). */
export class Problem extends Error {
  constructor(status, members) {
    super(members.detail || `The server answered with status ${status}.`);
    this.status = status;
    this.code = members.code ?? "";
    this.reasons = members.reasons ?? [];
  }

  /** Whether `override` would take the picture all the same. */
  get overridable() {
    return this.reasons.length > 0 && !this.reasons.includes("no_face");
  }
}

let askForKey = async () => null;
let asking = null;

/** `ask(sentence)` gets an API key from the user, or null. It is called once however many requests wait for it. */
export function onKeyNeeded(ask) {
  askForKey = ask;
}

/** Send a request. Options: `query`, `accept`, and one of `json` or `body` (a Blob or FormData). Answers with the Response. */
export async function call(method, path, { query, accept, json, body, signal } = {}) {
  const address = path + (query ? `?${new URLSearchParams(query)}` : "");
  for (;;) {
    const key = sessionStorage.getItem(KEY_ITEM);
    const reply = await send(address, { method, signal, ...content(json, body) }, { accept, "x-api-key": key });
    if (reply.ok) return reply;
    const problem = await problemOf(reply);
    if (reply.status !== 401) throw problem;
    // Another request may have got a new key meanwhile.
    if (sessionStorage.getItem(KEY_ITEM) === key && !(await newKey(key ? problem.message : ""))) throw problem;
  }
}

/** As `call`, with the answer's JSON (null where there is none). */
export async function get(path, options) {
  return (await call("GET", path, options)).json();
}

/** As `get`, for other methods. */
export async function change(method, path, options) {
  const reply = await call(method, path, options);
  return reply.status === 204 ? null : reply.json();
}

/** All items of a paged list, up to `most`; `complete` tells whether these are all. */
export async function getPages(path, member, most) {
  const items = [];
  let cursor = null;
  do {
    const query = cursor === null ? { limit: 1000 } : { limit: 1000, cursor };
    const page = await get(path, { query });
    items.push(...page[member]);
    cursor = page.next_cursor;
  } while (cursor !== null && items.length < most);
  return { items, complete: cursor === null };
}

/** The path of a collection, and of what is below it. */
export function collectionPath(collection, ...below) {
  return pathOf("/v1/collections", collection, ...below);
}

/** `base` with more parts, whatever they contain. */
export function pathOf(base, ...below) {
  return [base, ...below.map(encodeURIComponent)].join("/");
}

function content(json, body) {
  if (json !== undefined) return { body: JSON.stringify(json), headers: { "content-type": "application/json" } };
  if (body instanceof FormData) return { body };
  if (body) return { body, headers: { "content-type": body.type.startsWith("image/") ? body.type : "application/octet-stream" } };
  return {};
}

async function send(address, options, more) {
  const headers = { ...options.headers, ...Object.fromEntries(Object.entries(more).filter(([, value]) => value)) };
  try {
    return await fetch(address, { ...options, headers, credentials: "omit", cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { detail: "The server does not answer. Is it still running?", code: "unreachable" });
  }
}

async function problemOf(reply) {
  try {
    return new Problem(reply.status, await reply.json());
  } catch {
    return new Problem(reply.status, {});
  }
}

async function newKey(why) {
  asking ??= askForKey(why).finally(() => {
    asking = null;
  });
  const key = await asking;
  if (key) sessionStorage.setItem(KEY_ITEM, key);
  return Boolean(key);
}
