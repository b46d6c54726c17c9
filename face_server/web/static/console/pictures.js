/** Pictures of the API as addresses for <img>, which sends no API key by itself. */

import { call } from "./api.js";

// Browsers open six connections to a server; answers without an end hold some of them.
const AT_ONCE = 4;

let running = 0;
const waiting = [];

/** Keeps up to `most` pictures; the one that was loaded first goes first. */
export class PictureCache {
  #most;
  #urls = new Map();

  constructor(most) {
    this.#most = most;
  }

  /** An address (blob:) of the picture at `path`. */
  url(path) {
    if (!this.#urls.has(path)) {
      if (this.#urls.size >= this.#most) this.drop(this.#urls.keys().next().value);
      const loading = inTurn(async () => URL.createObjectURL(await (await call("GET", path)).blob()));
      loading.catch(() => this.#urls.delete(path));
      this.#urls.set(path, loading);
    }
    return this.#urls.get(path);
  }

  /** Forget a picture. */
  drop(path) {
    this.#urls.get(path)?.then(URL.revokeObjectURL, () => {});
    this.#urls.delete(path);
  }

  /** Forget all pictures. */
  clear() {
    for (const path of [...this.#urls.keys()]) this.drop(path);
  }
}

/** Run `work` when fewer than AT_ONCE others run: a long list must not ask for everything at once. */
export async function inTurn(work) {
  if (running >= AT_ONCE) await new Promise((resume) => waiting.push(resume));
  running += 1;
  try {
    return await work();
  } finally {
    running -= 1;
    waiting.shift()?.();
  }
}
