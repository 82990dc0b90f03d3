// Search: photos of the index that are like a text or a photo; look at one, label one or many.

import { api, photoUrl } from "../api.js";
import { classPicker, learned, writeLabels } from "../parts.js";
import {
  baseName, button, count, dialog, el, emptyState, errorBox, filePicker, fill, NONE, photo, sentence, takeDrops,
} from "../ui.js";

const FIRST = 48;
const MOST = 480;

export function create(ctx) {
  return new SearchView(ctx);
}

class SearchView {
  keys = [["/", "type a text"], ["x", "select the photo that has the focus"]];
  hits = [];
  chosen = new Set();
  #asked = null;
  #top = FIRST;
  #abort = null;

  constructor(ctx) {
    this.ctx = ctx;
    this.text = el("input.input", { type: "search", placeholder: "A striped horse, a red truck at night …", maxlength: "500", aria: { label: "Text to search for" } });
    this.label = el("select.input.select", { aria: { label: "Only photos with this label" }, onchange: () => this.#asked && this.ask(this.#asked) });
    this.query = el("div.search-query", { hidden: true });
    this.what = el("p.sub");
    this.results = el("div", { aria: { live: "polite", busy: "false" } });
    this.tools = el("div.select-bar", { hidden: true });
    const bar = el("form.search-bar", { role: "search", onsubmit: (event) => (event.preventDefault(), this.#byText()) },
      this.text, this.label, button("Search", () => this.#byText(), { icon: "search", kind: "primary" }),
      filePicker("By photo", (files) => this.#byFile(files[0]), { multiple: false }));
    this.node = el("section.page.full.search", { aria: { label: "Search" } },
      el("header.page-head", {}, el("h1", {}, "Search"), this.what), bar, this.query, this.results, this.tools);
    takeDrops(this.node, (files) => this.#byFile(files[0]));
    ctx.on("classes", () => this.#drawLabels());
    ctx.on("run", () => {
      this.#drawWhat();
      if (this.hits.length === 0 && !this.#asked) this.#drawEmpty();
    });
    this.#drawLabels();
    this.#drawWhat();
    this.#drawEmpty();
  }

  show(params) {
    if (params?.get("sha256")) this.ask({ sha256: params.get("sha256") });
    else if (params?.get("text")) (this.text.value = params.get("text")), this.#byText();
  }

  key(event) {
    if (event.key === "/") this.text.focus();
    else if (event.key === "Escape" && this.chosen.size) this.#choose([]);
    else if (event.key === "x" && document.activeElement?.dataset.sha256) this.#toggle(document.activeElement.dataset.sha256);
    else return;
    event.preventDefault();
  }

  paste(files) {
    this.#byFile(files[0]);
  }

  /** By the text, or beside a photo that is searched with by both. */
  #byText() {
    const text = this.text.value.trim();
    const { image, sha256 } = this.#asked ?? {};
    if (image || sha256) this.ask({ image, sha256, text: text || null });
    else if (text) this.ask({ text });
    else this.text.focus();
  }

  #byFile(file) {
    if (file) this.ask({ image: file });
  }

  /** What is searched: the index of the run, or an archive, whose labels are not known beforehand. */
  #drawWhat() {
    const archive = this.ctx.run?.archive;
    fill(this.what, `Photos of the ${archive ? `archive “${archive.name}”` : "index"} that are like a text, a photo, or both.`, archive && ` ${sentence(archive.search)}.`);
    this.label.hidden = Boolean(archive);
    if (archive) this.label.value = "";
  }

  async ask(asked, top = FIRST) {
    this.#abort?.abort();
    this.#abort = new AbortController();
    Object.assign(this, { chosen: new Set() });
    this.#asked = asked;
    this.#top = top;
    this.#drawQuery(asked);
    this.results.setAttribute("aria-busy", "true");
    this.results.classList.add("stale");
    const more = { top_k: top, label: this.label.value || null };
    try {
      const byPhoto = asked.image || asked.sha256;
      const answer = byPhoto ? await api.searchPhoto({ ...asked, ...more }, this.#abort.signal) : await api.searchText({ text: asked.text, ...more }, this.#abort.signal);
      this.hits = answer.hits;
      this.#drawHits();
    } catch (error) {
      if (error.name === "AbortError") return;
      this.hits = [];
      fill(this.results, errorBox(error, { onretry: () => this.ask(asked, top) }));
    }
    this.#drawTools();
    this.results.setAttribute("aria-busy", "false");
    this.results.classList.remove("stale");
  }

  #drawQuery({ image, sha256, text }) {
    if (this.url) URL.revokeObjectURL(this.url);
    this.url = image ? URL.createObjectURL(image) : null;
    const src = this.url ?? (sha256 && photoUrl(sha256, 160));
    this.query.hidden = !src;
    if (!src) return;
    this.text.value = text ?? "";
    fill(this.query, photo(src, "The photo that is searched with"), el("span.muted", {}, "Photos like ", image ? el("b.name", {}, image.name) : "this one", text ? [" and “", el("b.name", {}, text), "”"] : null),
      button("", () => this.#reset(), { icon: "close", kind: "ghost small", label: "Search for something else" }));
  }

  #reset() {
    Object.assign(this, { hits: [] });
    this.#asked = null;
    this.query.hidden = true;
    this.#choose([]);
    this.#drawEmpty();
  }

  #drawLabels() {
    const held = this.label.value;
    fill(this.label, el("option", { value: "" }, "All labels"), this.ctx.classes.filter((c) => c.images).map((c) => el("option", { value: c.name }, c.name)));
    this.label.value = held;
  }

  #drawEmpty() {
    const images = this.ctx.run?.archive?.images ?? this.ctx.run?.images ?? 0;
    const examples = this.ctx.classes.slice(0, 40).filter((_, i) => i % 13 === 0).map((c) => c.name);
    fill(this.results, emptyState({
      icon: "search", title: images ? `Search ${count(images, "photo")}` : "Search the index",
      text: "Type what they show, or drop a photo to find others like it. Found photos can be labeled right here, one or many at once.",
      actions: examples.map((name) => button(name, () => ((this.text.value = name), this.#byText()), { kind: "small" })),
    }));
  }

  #drawHits() {
    if (this.hits.length === 0) {
      return fill(this.results, emptyState({ icon: "search", title: "Nothing found", text: this.label.value ? "No photo with this label: try all labels." : "The index has no photos to search: run `hybrid build-index`." }));
    }
    const more = this.hits.length >= this.#top && this.#top < MOST;
    fill(this.results, el("ul.hits", {}, this.hits.map((hit, i) => this.#tile(hit, i))),
      more && el("div.row.center.more", {}, button("Show more", () => this.ask(this.#asked, Math.min(MOST, this.#top * 3)))));
  }

  #tile(hit, index) {
    const known = hit.label ?? "no label";
    const picked = this.chosen.has(hit.sha256);
    const select = el("input", { type: "checkbox", checked: picked, aria: { label: `Select ${baseName(hit.path)}` }, onclick: (e) => this.#clicked(hit, index, e) });
    return el("li.hit", { class: picked ? "picked" : "", data: { hit: hit.sha256 } },
      el("button.hit-open", { type: "button", data: { sha256: hit.sha256 }, title: baseName(hit.path), aria: { label: `${known}, ${baseName(hit.path)}, similarity ${hit.score.toFixed(2)}` }, onclick: () => this.#look(hit) },
        el("span.hit-photo", {}, photo(photoUrl(hit.sha256, 320), ""))),
      el("label.hit-check", {}, select),
      el("span.hit-foot", {}, el("span.dot", { class: hit.label ? this.ctx.kind(hit.label) : "" }),
        el("span.hit-label", { class: hit.label ? "" : "muted", title: known }, hit.itself ? "the photo itself" : known), el("span.muted.num", {}, hit.score.toFixed(2))));
  }

  #clicked(hit, index, event) {
    const from = this.last ?? index;
    if (event.shiftKey) {
      const [low, high] = [Math.min(from, index), Math.max(from, index)];
      for (const one of this.hits.slice(low, high + 1)) this.chosen.add(one.sha256);
      this.#choose([...this.chosen]);
    } else this.#toggle(hit.sha256);
    this.last = index;
  }

  #toggle(sha256) {
    const next = new Set(this.chosen);
    if (!next.delete(sha256)) next.add(sha256);
    this.#choose([...next]);
  }

  #choose(list) {
    this.chosen = new Set(list);
    for (const tile of this.results.querySelectorAll(".hit")) {
      const picked = this.chosen.has(tile.dataset.hit);
      tile.classList.toggle("picked", picked);
      tile.querySelector("input").checked = picked;
    }
    this.#drawTools();
  }

  #drawTools() {
    const n = this.chosen.size;
    this.tools.hidden = n === 0;
    if (n === 0) return fill(this.tools);
    if (this.tools.firstChild) return void (this.tools.querySelector(".chosen-count").textContent = `${n} selected`);
    const readOnly = this.ctx.run?.read_only;
    fill(this.tools, el("b.chosen-count", {}, `${n} selected`),
      readOnly ? el("span.muted", {}, "This server is read-only") : el("div.select-label", {}, classPicker(this.ctx, (label) => this.#label([...this.chosen], label), { label: "Label them as", placeholder: "Label them as …" })),
      !readOnly && button(NONE, () => this.#label([...this.chosen], NONE), { kind: "small" }),
      button("All", () => this.#choose(this.hits.map((h) => h.sha256)), { kind: "ghost small" }),
      button("Clear", () => this.#choose([]), { kind: "ghost small" }));
  }

  async #label(hashes, label) {
    const before = new Map(this.hits.map((h) => [h.sha256, h.label]));
    const put = (of) => {
      for (const hit of this.hits) if (hashes.includes(hit.sha256)) hit.label = of(hit.sha256);
      if (this.hits.length) this.#drawHits();
    };
    const labels = hashes.map((sha256) => ({ sha256, label, was: before.get(sha256) ?? null, why: "search" }));
    if (!(await writeLabels(labels, { onundone: () => put((h) => before.get(h) ?? null), detail: learned(this.ctx, label) }))) return false;
    put(() => label);
    this.#choose([]);
    return true;
  }

  #look(hit) {
    const facts = [["File", baseName(hit.path)], ["Label", hit.label ?? "none yet"], ["Split", hit.split ?? "–"], ["Similarity", hit.score.toFixed(3)], ["Copies", hit.copies?.length ? hit.copies.map(baseName).join(", ") : null]];
    const readOnly = this.ctx.run?.read_only;
    const picker = classPicker(this.ctx, async (label) => (await this.#label([hit.sha256], label)) && box.close(), { label: "Right class", placeholder: "Type the right class" });
    const box = dialog(hit.label ?? baseName(hit.path), el("div.look", {},
      el("div.photo", {}, photo(photoUrl(hit.sha256, 1024), hit.label ?? "Photo", { loading: "eager" })),
      el("div.stack", {},
        el("dl.look-facts", {}, facts.filter(([, v]) => v).map(([k, v]) => [el("dt.muted", {}, k), el("dd.name", {}, v)])),
        !readOnly && el("div.field", {}, el("span.label", {}, "Label"), picker),
        button("Photos like this", () => (box.close(), this.ask({ sha256: hit.sha256 })), { icon: "search" }))), { wide: true });
  }
}
