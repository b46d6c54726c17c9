/** What the numbers and codes of the API mean, in words. */

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
