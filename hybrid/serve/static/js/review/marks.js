// Small signs that several parts of the view show.

import { el } from "../ui.js";

const WHY =
  "Every fifth photo is drawn at random from all of them, whether or not the classifier doubts it. Doubtful photos are " +
  "harder than the rest, so only these show how often its answers are right. Decide on them as on any other.";

let made = 0;

/** "Random", with the reason on hover and focus. */
export function drawnMark() {
  const id = `drawn-${(made += 1)}`;
  return el(
    "span.drawn",
    {},
    el("span.tag", { tabindex: "0", aria: { describedby: id } }, "drawn at random"),
    el("span.drawn-why", { role: "tooltip", id }, WHY),
  );
}
