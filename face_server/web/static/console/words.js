/** What the numbers and codes of the API mean, in words. */

import { sentence } from "./dom.js";

const REASONS = {
  small_face: "too small",
  low_sharpness: "blurred",
  low_brightness: "too dark",
  high_brightness: "overexposed",
  extreme_pose: "turned too far away",
  low_score: "perhaps no face",
};

/** "1 face", "2 faces". */
export function count(number, one, many = `${one}s`) {
  return `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
}

/** A similarity, always with two decimals. */
export function similarity(value) {
  return value.toFixed(2).replace("-", "−");
}

/** The decision for a face, in one sentence. */
export function verdict(face, threshold, margin) {
  const [first, second] = face.candidates;
  switch (face.verdict) {
    case "match":
      return `Match: ${similarity(first.similarity)}, needs ${similarity(threshold)}.`;
    case "below_threshold":
      return `Below threshold: ${similarity(first.similarity)}, needs ${similarity(threshold)}.`;
    case "within_margin":
      return `Within margin: ${first.identity.name} leads ${second.identity.name} by less than ${similarity(margin)}.`;
    default:
      return "Nobody to compare with: the collection is empty.";
  }
}

/** What stands against enrolling a face, in one phrase. */
export function fitness(quality) {
  if (quality.reasons.length === 0) return "Good enough to remember.";
  return `Poor to remember: ${quality.reasons.map((reason) => REASONS[reason] ?? reason).join(", ")}.`;
}

/** The measures of a face, as pairs of name and value. */
export function measures(face) {
  const { quality } = face;
  const degrees = (value) => `${Math.round(value)}°`.replace("-", "−");
  const share = (value) => value.toFixed(2);
  return [
    ["Size", `${Math.round(quality.size_px)} px`],
    ["Sharpness", share(quality.sharpness)],
    ["Brightness", share(quality.brightness)],
    ["Turn, nod, tilt", [quality.pose.yaw, quality.pose.pitch, quality.pose.roll].map(degrees).join(", ")],
    ["Detection score", share(face.score)],
  ];
}

/** What a match needs in a collection, and why. */
export function rule(threshold, collection) {
  const needs = `A match needs a similarity of ${similarity(threshold)}`;
  if (!collection?.identity_count) return `${needs}.`;
  if (collection.threshold !== null) return `${needs}, pinned for this collection.`;
  const strangers = Number((collection.target_fpir * 100).toPrecision(2));
  return `${needs}: with ${count(collection.identity_count, "person", "people")} enrolled, about ${strangers} % of strangers would reach it.`;
}

/** "3 faces: Ada, 2 unknown." */
export function summary(faces) {
  if (faces.length === 0) return "No face found.";
  const names = faces.filter((face) => face.match).map((face) => face.match.identity.name);
  const unknown = faces.length - names.length;
  return `${count(faces.length, "face")}: ${[...names, ...(unknown ? [`${unknown} unknown`] : [])].join(", ")}.`;
}

/** A point in time, as the reader's country writes it. */
export function day(timestamp) {
  return new Date(timestamp).toLocaleDateString(undefined, { year: "numeric", month: "short", day: "numeric" });
}

/** A moment, to the second: the time today, with the day otherwise. */
export function moment(timestamp) {
  const then = new Date(timestamp);
  const time = then.toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
  if (then.toDateString() === new Date().toDateString()) return time;
  const year = then.getFullYear() === new Date().getFullYear() ? undefined : "numeric";
  return `${then.toLocaleDateString(undefined, { year, month: "short", day: "numeric" })}, ${time}`;
}

/** A stretch of time: "0.3 s", "12 s", "4 min", "3 h", "2 days". */
export function span(seconds) {
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172_800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86_400)} days`;
}

/** The state of a camera. */
export function state(name) {
  return name.replace("_", " ");
}

/** Why a camera is not as it should be, in a sentence; "" while it is. */
export function trouble(status) {
  return status.state === "stopped" || !status.reason ? "" : sentence(status.reason);
}

/** What a camera gives and how much of it is looked at: "5.0 of 25.0 frames a second, 640 × 360". */
export function pace(status) {
  if (!status.connected && status.last_frame_age_s === null) return "no frame yet";
  return `${status.analysed_fps.toFixed(1)} of ${status.source_fps.toFixed(1)} frames a second · ${size(status)}`;
}

/** "640 × 360" */
export function size({ width, height }) {
  return `${width} × ${height}`;
}

/** How a camera is, as pairs of name and value. */
export function figures({ status, id, url }) {
  const age = status.last_frame_age_s;
  return [
    ["Analysed", `${status.analysed_fps.toFixed(1)} of ${status.source_fps.toFixed(1)} frames a second`],
    ["Picture", status.width ? [size(status), status.codec].filter(Boolean).join(", ") : "none yet"],
    ["Latency", status.latency_s === null ? "none yet" : `${latency(status.latency_s)}; 95 % within ${latency(status.latency_p95_s)}`],
    ["Last frame", age === null ? "none yet" : `${span(age)} ago`],
    ["Passed over", `${status.dropped.toLocaleString("en")} for newer frames, ${status.stale.toLocaleString("en")} too old`],
    ["Reconnected", count(status.reconnects, "time")],
    ...(status.last_error ? [["Last error", sentence(status.last_error)]] : []),
    ...(status.publishing ? [["Publishing", sentence(status.publishing)]] : []),
    ["Address", url],
    ["Id", id],
  ];
}

function latency(seconds) {
  return `${seconds.toFixed(2)} s`;
}

/** How like somebody was to whom they are taken for. */
export function likeness(who) {
  // A stranger is exactly like the shot that they were first remembered by.
  if (who.stranger_id && who.similarity > 0.9999) return "new";
  return similarity(who.similarity);
}

/** An event, as pairs of name and value. */
export function eventFacts(event, camera) {
  const { who } = event;
  const seconds = (new Date(event.ended_at) - new Date(event.started_at)) / 1000;
  const left = event.kind.endsWith("_left");
  return [
    ["Camera", camera],
    ["When", moment(event.at)],
    ...(left ? [["Stayed", span(seconds)]] : []),
    ...(who ? [["Similarity", likeness(who) === "new" ? "seen for the first time" : `${similarity(who.similarity)}, needs ${similarity(who.threshold)}`]] : []),
    ...(who?.collection ? [["Collection", who.collection]] : []),
    ["Id", event.id],
  ];
}
