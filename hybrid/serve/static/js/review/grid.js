// Many photos that are alike, labeled at once; only the rows in sight are in the page.

import { NONE, baseName, button, count, el, fill, icon, percent, photo, typeahead } from "../ui.js";
import { photoUrl } from "../api.js";
import { layOut, range, visible } from "./windowing.js";

const GAP = 8;
const CAPTION = 22;
const HEADING = 46;
const MARGIN = 300;

export class Grid {
  /**
   * @param {object} does
   * @param {(hashes: string[], label: string) => void} does.decide
   * @param {() => object[]} does.names
   * @param {(name: string) => string} does.kind
   * @param {(sha256: string) => ?string} does.labelOf
   * @param {() => void} does.close  Leave the photos that are alike.
   */
  constructor(does) {
    this.does = does;
    this.groups = [];
    this.shown = [];
    this.order = [];
    this.byHash = new Map();
    this.rows = [];
    this.columns = 1;
    /** @type {Set<string>} */
    this.selected = new Set();
    this.anchor = null;
    this.focus = null;
    /** @type {Map<string, HTMLElement>} */
    this.drawn = new Map();
    this.locked = false;
    this.sheet = el("div.grid-sheet");
    this.scroller = el("div.grid-scroll", { role: "listbox", aria: { multiselectable: "true", label: "Photos to label" } }, this.sheet);
    this.scroller.addEventListener("scroll", () => this.#drawRows(), { passive: true });
    this.scroller.addEventListener("keydown", (event) => this.#keyInside(event));
    this.choices = el("div.grid-choices");
    this.said = el("span.grid-count.num", { role: "status" });
    this.box = typeahead({
      names: does.names, onchoose: (name) => (this.box.input.blur(), this.decide(name)), placeholder: "Another class, or a new one",
      label: "Label the selection as: type a class", allowNew: "New class", oncancel: () => this.box.input.blur(),
    });
    this.bar = el(
      "div.grid-bar.card",
      { role: "group", aria: { label: "The selection" } },
      this.said,
      this.choices,
      this.box,
      button("None of these", () => this.decide(NONE), { key: "n", id: "grid-none" }),
      button("Clear", () => this.clear(), { key: "Esc", kind: "ghost", id: "grid-clear" }),
    );
    this.node = el("div.grid", {}, this.scroller, this.bar);
    new ResizeObserver(() => this.layOut()).observe(this.scroller);
  }

  /** Draw these, unless they are what is drawn. @param {{name: string, items: object[], alike?: boolean}[]} groups */
  show(groups, { locked }) {
    this.locked = locked;
    const shown = groups.flatMap(({ name, items }) => [name, ...items.map(({ sha256 }) => `${sha256} ${this.does.labelOf(sha256)}`)]);
    if (shown.length === this.shown.length && shown.every((one, i) => one === this.shown[i])) return this.#drawBar();
    Object.assign(this, { groups, shown });
    this.order = groups.flatMap((group) => group.items.map((item) => item.sha256));
    this.byHash = new Map(groups.flatMap((group) => group.items.map((item) => [item.sha256, item])));
    for (const sha256 of this.selected) if (!this.byHash.has(sha256)) this.selected.delete(sha256);
    if (!this.byHash.has(this.focus)) this.focus = this.order[0] ?? null;
    this.width = 0;
    this.layOut();
    this.#drawBar();
  }

  toTop() {
    this.scroller.scrollTop = 0;
  }

  /** Lay the rows out anew where the width is another one. */
  layOut() {
    const width = this.scroller.clientWidth - 2 * GAP;
    if (width <= 0) return;
    if (width === this.width) return this.#drawRows();
    this.width = width;
    this.columns = Math.max(2, Math.floor((width + GAP) / ((width < 480 ? 96 : 132) + GAP)));
    const side = Math.floor((width + GAP) / this.columns) - GAP;
    const { rows, height } = layOut(this.groups, { columns: this.columns, tile: side + CAPTION + GAP, heading: HEADING });
    this.rows = rows;
    this.sheet.style.setProperty("height", `${height}px`);
    this.sheet.style.setProperty("--side", `${side}px`);
    for (const node of this.drawn.values()) node.remove();
    this.drawn.clear();
    this.#drawRows();
  }

  /** Label what is selected. */
  decide(label) {
    if (this.locked || this.selected.size === 0) return;
    const hashes = this.order.filter((sha256) => this.selected.has(sha256));
    const next = this.order.find((sha256, i) => i > this.order.indexOf(hashes.at(-1)) && !this.selected.has(sha256));
    const inside = this.scroller.contains(document.activeElement) || document.activeElement === document.body;
    this.selected.clear();
    this.anchor = null;
    this.focus = next ?? this.focus;
    this.does.decide(hashes, label);
    if (inside) this.#focusOn(this.focus);
  }

  choose(number) {
    const label = this.#likely()[number - 1];
    if (label) this.decide(label);
  }

  clear() {
    this.selected.clear();
    this.#refresh();
  }

  selectGroup(group) {
    const all = group.items.every((item) => this.selected.has(item.sha256));
    for (const { sha256 } of group.items) {
      if (all) this.selected.delete(sha256);
      else this.selected.add(sha256);
    }
    this.#refresh();
  }

  #click(event, sha256) {
    if (event.shiftKey && this.anchor) for (const one of range(this.order, this.anchor, sha256)) this.selected.add(one);
    else {
      if (!this.selected.delete(sha256)) this.selected.add(sha256);
      this.anchor = sha256;
    }
    this.focus = sha256;
    this.#refresh();
  }

  #keyInside(event) {
    const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.columns, ArrowDown: this.columns, Home: -Infinity, End: Infinity };
    if (event.target.getAttribute("role") !== "option") return;
    if (event.key in moves) {
      event.preventDefault();
      const at = Math.max(0, Math.min(this.order.length - 1, this.order.indexOf(this.focus) + moves[event.key]));
      if (event.shiftKey) for (const one of range(this.order, this.anchor ?? this.focus, this.order[at])) this.selected.add(one);
      if (event.shiftKey) this.anchor ??= this.focus;
      this.#focusOn(this.order[at]);
      if (event.shiftKey) this.#refresh();
    } else if (event.key === " ") {
      event.preventDefault();
      this.#click(event, this.focus);
      this.#focusOn(this.focus);
    } else if (event.key === "a" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      this.selectGroup(this.groups.find((group) => group.items.some((item) => item.sha256 === this.focus)));
    }
  }

  #focusOn(sha256) {
    if (sha256 === null || sha256 === undefined) return;
    this.focus = sha256;
    const row = this.rows.find(({ items }) => items?.some((item) => item.sha256 === sha256));
    if (!row) return;
    const { scrollTop, clientHeight } = this.scroller;
    if (row.top < scrollTop) this.scroller.scrollTop = row.top - HEADING;
    else if (row.top + row.height > scrollTop + clientHeight) this.scroller.scrollTop = row.top + row.height - clientHeight;
    this.#drawRows();
    this.#mark();
    this.scroller.querySelector(`[data-sha256="${CSS.escape(sha256)}"]`)?.focus({ preventScroll: true });
  }

  #refresh() {
    this.#mark();
    this.#drawBar();
  }

  #drawRows() {
    const { scrollTop, clientHeight } = this.scroller;
    const rows = visible(this.rows, scrollTop, clientHeight, MARGIN);
    const wanted = new Set(rows.map((row) => row.key));
    for (const [key, node] of this.drawn) {
      if (wanted.has(key)) continue;
      node.remove();
      this.drawn.delete(key);
    }
    for (const row of rows) {
      if (this.drawn.has(row.key)) continue;
      const node = row.kind === "heading" ? this.#heading(row) : el("div.grid-row", { role: "presentation" }, row.items.map((item) => this.#tile(item)));
      node.style.setProperty("top", `${row.top}px`);
      node.style.setProperty("height", `${row.height}px`);
      this.drawn.set(row.key, node);
      this.sheet.append(node);
    }
    this.#mark();
  }

  #heading({ group }) {
    return el(
      "div.grid-heading",
      { role: "presentation" },
      group.alike ? icon("search") : el("span.dot", { class: this.does.kind(group.name), aria: { hidden: "true" } }),
      el("h3.name", {}, group.name),
      el("span.muted.num", {}, group.items.length.toLocaleString("en")),
      button("Select all", () => this.selectGroup(group), { kind: "small grid-all", label: `Select all of ${group.name}` }),
      group.alike && button("Back", () => this.does.close(), { kind: "ghost small", id: "grid-back", title: "Back to groups of one answer" }),
    );
  }

  #tile(item) {
    const label = this.does.labelOf(item.sha256);
    const said = label ?? (item.drawn === "search" ? item.prediction.label : percent(item.prediction.probability));
    return el(
      "div.tile",
      {
        role: "option", tabindex: "-1", data: { sha256: item.sha256 }, title: item.path, onclick: (event) => this.#click(event, item.sha256),
        onmousedown: (event) => event.shiftKey && event.preventDefault(),
        aria: { label: `${baseName(item.path)}, answer ${item.prediction.label}${label ? `, label ${label}` : ""}`, selected: "false" },
      },
      el("span.tile-photo", {}, photo(photoUrl(item.sha256, 320), ""), el("span.tile-check", { aria: { hidden: "true" } }, icon("check"))),
      el("span.tile-text", { class: label ? "labeled" : "" }, said),
    );
  }

  #mark() {
    for (const tile of this.sheet.querySelectorAll(".tile")) {
      const { sha256 } = tile.dataset;
      tile.setAttribute("aria-selected", String(this.selected.has(sha256)));
      tile.tabIndex = sha256 === this.focus ? 0 : -1;
    }
  }

  /** The classes that the answers give the selection, most probable first. */
  #likely() {
    const sums = new Map();
    for (const sha256 of this.selected) {
      for (const { label, probability } of this.byHash.get(sha256).prediction.top) sums.set(label, (sums.get(label) ?? 0) + probability);
    }
    return [...sums].sort(([, a], [, b]) => b - a).slice(0, 5).map(([label]) => label);
  }

  #drawBar() {
    const n = this.selected.size;
    this.bar.classList.toggle("idle", n === 0);
    this.said.textContent = n ? `${count(n, "photo")} selected` : "Select photos: click, Shift+click for a range, or a whole group";
    fill(this.choices, n ? this.#likely().map((label, i) => button(label, () => this.decide(label), { key: String(i + 1), kind: "grid-choice", title: label })) : []);
    for (const node of this.bar.querySelectorAll("button, input")) node.disabled = n === 0 || this.locked;
  }
}
