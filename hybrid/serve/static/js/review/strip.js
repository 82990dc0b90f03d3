// The queue as a strip of small photos; only those in sight are in the page.

import { baseName, el, photo } from "../ui.js";
import { photoUrl } from "../api.js";
import { span } from "./windowing.js";

const SIZE = 60;

export class Strip {
  /** @param {import("./queue.js").Queue} queue @param {(sha256: string) => void} onchoose */
  constructor(queue, onchoose) {
    this.queue = queue;
    this.onchoose = onchoose;
    this.rail = el("div.strip-rail");
    this.node = el("div.strip", { role: "group", tabindex: "-1", aria: { label: "The queue" } }, this.rail);
    /** @type {Map<string, HTMLElement>} */
    this.cells = new Map();
    this.node.addEventListener("scroll", () => this.draw(), { passive: true });
  }

  /** Bring the current photo into sight, and draw. */
  follow() {
    const middle = this.queue.position * SIZE - (this.node.clientWidth - SIZE) / 2;
    this.rail.style.setProperty("width", `${this.queue.items.length * SIZE}px`);
    this.node.scrollLeft = Math.max(0, middle);
    this.draw();
  }

  draw() {
    const { items } = this.queue;
    const [first, end] = span(this.node.scrollLeft, this.node.clientWidth, SIZE, items.length);
    const seen = new Set();
    for (let i = first; i < end; i += 1) {
      seen.add(items[i].sha256);
      this.#place(items[i], i);
    }
    for (const [sha256, cell] of this.cells) {
      if (seen.has(sha256)) continue;
      cell.remove();
      this.cells.delete(sha256);
    }
  }

  #place(item, index) {
    let cell = this.cells.get(item.sha256);
    if (!cell) {
      cell = el(
        "button.strip-cell",
        { type: "button", tabindex: "-1", onclick: () => this.onchoose(item.sha256) },
        photo(photoUrl(item.sha256, 320), "", { loading: "eager" }),
      );
      this.cells.set(item.sha256, cell);
      this.rail.append(cell);
    }
    const label = this.queue.given.get(item.sha256);
    const state = label ? "given" : this.queue.skipped.has(item.sha256) ? "skipped" : "open";
    cell.style.setProperty("left", `${index * SIZE}px`);
    cell.dataset.state = state;
    cell.toggleAttribute("aria-current", index === this.queue.position);
    const said = { given: `labeled ${label}`, skipped: "skipped", open: "open" }[state];
    cell.setAttribute("aria-label", `Photo ${index + 1}, ${baseName(item.path)}: ${said}`);
  }
}
