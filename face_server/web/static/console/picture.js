/** A photo as the browser shows it and the server sees it: upright, in the same pixels. */

import { call } from "./api.js";

// Formats that browsers draw as the server decodes them. Others come back from the server as JPEG.
const SHOWN = new Set(["image/jpeg", "image/png", "image/webp", "image/bmp"]);

/** Open a photo: a File or Blob, or its address as text, which the server downloads. */
export async function openPicture(source, signal) {
  if (typeof source === "string") {
    return loaded(await asJpeg({ json: { url: source } }, signal), nameOf(source));
  }
  if (SHOWN.has(source.type)) {
    try {
      return await loaded(source, source.name ?? "pasted photo");
    } catch {
      // The server says what is wrong with it, in a sentence, or can read what the browser cannot.
    }
  }
  return loaded(await asJpeg({ body: source }, signal), source.name ?? "pasted photo");
}

/** The same photo, drawn by the server: for when the browser turned it another way. */
export async function redrawn(picture, signal) {
  return loaded(await asJpeg({ body: picture.blob }, signal), picture.name);
}

/** A canvas of `side` pixels that shows a face with some room around it. */
export function thumbnail(picture, box, side) {
  const { x, y, size } = square(box, 1.45);
  const canvas = Object.assign(document.createElement("canvas"), { width: side, height: side });
  canvas.getContext("2d").drawImage(picture.image, x, y, size, size, 0, 0, side, side);
  return canvas;
}

/**
 * The part of the photo around one face, for enrolment, as a JPEG Blob in the photo's own pixels.
 * Faces of others in it are covered: a template is made of one face.
 */
export async function cutFace(picture, box, others) {
  const { x, y, size } = square(box, 2.2);
  const left = Math.max(0, Math.floor(x));
  const top = Math.max(0, Math.floor(y));
  const width = Math.min(picture.width, Math.ceil(x + size)) - left;
  const height = Math.min(picture.height, Math.ceil(y + size)) - top;
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const brush = canvas.getContext("2d");
  brush.drawImage(picture.image, left, top, width, height, 0, 0, width, height);
  brush.translate(-left, -top);
  const clear = new Path2D();
  clear.rect(left, top, width, height);
  clear.rect(...grown(box, 0.05));
  brush.clip(clear, "evenodd");
  brush.fillStyle = "#808080";
  for (const other of others) brush.fillRect(...grown(other, 0.1));
  return new Promise((done, fail) => {
    canvas.toBlob((blob) => (blob ? done(blob) : fail(new Error("The face could not be cut out of the photo."))), "image/jpeg", 0.95);
  });
}

async function loaded(blob, name) {
  const url = URL.createObjectURL(blob);
  const image = new Image();
  image.src = url;
  try {
    await image.decode();
  } catch (error) {
    URL.revokeObjectURL(url);
    throw error;
  }
  return { blob, name, image, width: image.naturalWidth, height: image.naturalHeight, close: () => URL.revokeObjectURL(url) };
}

async function asJpeg(content, signal) {
  return (await call("POST", "/console/picture", { ...content, signal })).blob();
}

function nameOf(address) {
  try {
    return decodeURIComponent(new URL(address).pathname.split("/").pop()) || "photo";
  } catch {
    return "photo";
  }
}

function square(box, factor) {
  const size = Math.max(box.x2 - box.x1, box.y2 - box.y1) * factor;
  return { x: (box.x1 + box.x2 - size) / 2, y: (box.y1 + box.y2 - size) / 2, size };
}

function grown(box, share) {
  const [dx, dy] = [(box.x2 - box.x1) * share, (box.y2 - box.y1) * share];
  return [box.x1 - dx, box.y1 - dy, box.x2 - box.x1 + 2 * dx, box.y2 - box.y1 + 2 * dy];
}
