/** Events as they happen. EventSource would send no API key, so the stream of server-sent events is read here. */

import { call } from "./api.js";
import { pause } from "./visible.js";

const AGAIN_MS = 2000;
// The server says every 15 s that it is still there.
const SILENCE_MS = 40_000;

/**
 * Call `take(event)` for each event that matches `query` (pairs) after the cursor `after`, the old ones first.
 * `tell(sentence)` says why nothing can come now, or "" when all is well. A lost connection is made again
 * and goes on where it was. Answers with a function that ends it.
 */
export function follow(query, after, { take, tell }) {
  const end = new AbortController();
  listen(query, after, { take, tell }, end.signal);
  return () => end.abort();
}

async function listen(query, after, { take, tell }, end) {
  let cursor = after;
  while (!end.aborted) {
    const connection = new AbortController();
    const stop = () => connection.abort();
    end.addEventListener("abort", stop, { signal: connection.signal });
    let silence = setTimeout(stop, SILENCE_MS);
    let reason = "the connection to the server was lost";
    try {
      const reply = await call("GET", "/v1/events", { query: [...query, ["after", cursor]], accept: "text/event-stream", signal: connection.signal });
      for await (const line of lines(reply.body)) {
        clearTimeout(silence);
        silence = setTimeout(stop, SILENCE_MS);
        tell("");
        if (!line.startsWith("data: ")) continue;
        const event = JSON.parse(line.slice("data: ".length));
        cursor = event.cursor;
        // On its own: an error in it is no lost connection.
        queueMicrotask(() => take(event));
      }
    } catch (error) {
      if (error.status !== undefined) reason = error.message;
    }
    clearTimeout(silence);
    stop();
    if (end.aborted) return;
    tell(reason);
    await pause(AGAIN_MS, end);
  }
}

async function* lines(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const found = (rest + value).split("\n");
    rest = found.pop();
    yield* found;
  }
}
