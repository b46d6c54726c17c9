/** The moving picture of a camera. An <img> would send no API key, so the parts of the MJPEG are read here. */

import { call, pathOf } from "./api.js";
import { whileVisible } from "./visible.js";

const AGAIN_MS = 2000;
const END_OF_HEAD = [13, 10, 13, 10];

/**
 * Paint what the camera shows on `canvas`, annotated, for as long as the page is seen. `tell(sentence)`
 * says why nothing comes, or "" when something does. Answers with a function that ends it.
 */
export function watch(canvas, stream_id, tell) {
  return whileVisible(async (signal) => {
    try {
      const reply = await call("GET", pathOf("/v1/streams", stream_id, "preview.mjpeg"), { signal });
      for await (const jpeg of pictures(reply.body)) {
        await paint(canvas, jpeg);
        tell("");
      }
      tell("the picture ended; asking for it again…");
    } catch (error) {
      if (signal.aborted) return;
      tell(error.status === undefined ? "the connection to the server was lost" : error.message);
    }
  }, AGAIN_MS);
}

async function paint(canvas, jpeg) {
  const bitmap = await createImageBitmap(new Blob([jpeg], { type: "image/jpeg" }));
  if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) Object.assign(canvas, { width: bitmap.width, height: bitmap.height });
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  bitmap.close();
}

/** The newest whole JPEG each time some have come. Reads no further while one is painted. */
async function* pictures(body) {
  const reader = body.getReader();
  let rest = new Uint8Array();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      rest = joined(rest, value);
      let newest = null;
      for (let part = partOf(rest); part; part = partOf(rest)) {
        newest = part.jpeg;
        rest = part.rest;
      }
      if (newest) yield newest;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** The first part that is whole, and what follows it; null where there is none yet. */
function partOf(bytes) {
  const head = bytes.findIndex((_, at) => END_OF_HEAD.every((byte, index) => bytes[at + index] === byte));
  if (head < 0) return null;
  const fields = new TextDecoder("latin1").decode(bytes.subarray(0, head));
  const start = head + END_OF_HEAD.length;
  const end = start + Number(/content-length: *(\d+)/i.exec(fields)?.[1] ?? 0);
  return bytes.length < end ? null : { jpeg: bytes.subarray(start, end), rest: bytes.subarray(end) };
}

function joined(one, other) {
  const both = new Uint8Array(one.length + other.length);
  both.set(one);
  both.set(other, one.length);
  return both;
}
