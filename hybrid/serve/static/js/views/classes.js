// Classes: how each is known; add by name, by photos, or both; remove.

import { api } from "../api.js";
import {
  button, confirm, count, dialog, el, emptyState, errorBox, filePicker, fill, takeDrops, toast, toastError,
} from "../ui.js";
import { chipBox } from "../parts.js";

const KINDS = {
  trained: ["seen", "trained", "The head was trained on it."],
  support: ["support", "examples", "Known by a few labeled photos, and by its name where it has one."],
  prompted: ["unseen", "by name", "Known by its name alone."],
};
const COLUMNS = [
  ["name", "Class", (c) => c.name.toLowerCase()],
  ["kind", "Known", (c) => ["trained", "support", "prompted"].indexOf(c.kind)],
  ["images", "Photos", (c) => -c.images],
  ["confusions", "Confused with", (c) => -(c.confusions ?? []).reduce((sum, one) => sum + one.count, 0)],
];

export function create(ctx) {
  return new ClassesView(ctx);
}

class ClassesView {
  keys = [["a", "add a class"], ["/", "filter"]];
  #sort = "kind";
  #down = false;

  constructor(ctx) {
    this.ctx = ctx;
    this.filter = el("input.input", { type: "search", placeholder: "Filter classes", aria: { label: "Filter classes" }, oninput: () => this.draw() });
    this.add = button("Add class", () => this.openAdd(), { icon: "plus", kind: "primary", key: "A" });
    this.table = el("div.card.table-card");
    this.sub = el("p.sub");
    this.node = el("section.page", { aria: { label: "Classes" } },
      el("header.page-head", {}, el("h1", {}, "Classes"), el("div.filter", {}, this.filter), this.add, this.sub), this.table);
    takeDrops(this.node, (files) => this.openAdd(files));
    ctx.on("classes", () => this.draw());
    this.draw();
  }

  show() {
    this.draw();
  }

  key(event) {
    if (event.key === "a" && !this.add.disabled) this.openAdd();
    else if (event.key === "/") this.filter.focus();
    else return;
    event.preventDefault();
  }

  draw() {
    const { run, classes, error } = this.ctx;
    this.add.disabled = Boolean(run?.read_only);
    this.add.title = run?.read_only ? "This server is read-only" : "";
    if (error && classes.length === 0) return fill(this.table, errorBox(error, { onretry: () => this.ctx.refresh() }));
    if (!run) return fill(this.table, el("div.pad.muted", {}, "Reading the run …"));
    const of = (kind) => classes.filter((c) => c.kind === kind).length;
    this.sub.textContent = [of("trained") && `${of("trained")} trained`, of("support") && `${of("support")} by examples`, of("prompted") && `${of("prompted")} by name`].filter(Boolean).join(" · ");
    if (classes.length === 0) {
      return fill(this.table, emptyState({ icon: "classes", title: "No classes yet", text: "Add one by its name: CLIP may know it. A few photos of it make it surer.", actions: [button("Add class", () => this.openAdd(), { icon: "plus", kind: "primary" })] }));
    }
    const rows = this.#rows(classes);
    fill(this.table,
      el("table.table", {}, el("caption.visually-hidden", {}, "Classes of this run"), this.#head(), el("tbody", {}, rows.map((c) => this.#row(c)))),
      rows.length === 0 && el("p.pad.muted", {}, "No class has that in its name."));
  }

  #rows(classes) {
    const wanted = this.filter.value.trim().toLowerCase();
    const hit = (c) => [c.name, ...(c.synonyms ?? [])].some((n) => n.toLowerCase().includes(wanted));
    const by = COLUMNS.find(([id]) => id === this.#sort)[2];
    const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
    // What was added comes first: that is what one came to look at.
    const place = this.#sort === "kind" ? (c) => -by(c) : by;
    const sorted = classes.filter(hit).sort((a, b) => compare(place(a), place(b)) || compare(a.name.toLowerCase(), b.name.toLowerCase()));
    return this.#down ? sorted.reverse() : sorted;
  }

  #head() {
    return el("thead", {}, el("tr", {},
      COLUMNS.map(([id, name]) => el("th", { scope: "col", class: `col-${id}`, aria: { sort: this.#sort === id ? (this.#down ? "descending" : "ascending") : null } },
        el("button", { type: "button", onclick: () => this.#sortBy(id) }, name))),
      el("th.col-tools", {}, el("span.visually-hidden", {}, "Tools"))));
  }

  #sortBy(id) {
    this.#down = this.#sort === id && !this.#down;
    this.#sort = id;
    this.draw();
    this.table.querySelector(`.col-${id} button`)?.focus();
  }

  #row(c) {
    const [color, word, meaning] = KINDS[c.kind] ?? ["none", c.kind, null];
    const confused = (c.confusions ?? []).slice(0, 3);
    const readOnly = this.ctx.run?.read_only;
    return el("tr", {},
      el("th", { scope: "row" }, el("span.name", {}, c.name), c.synonyms?.length ? el("span.muted.name.synonyms", {}, c.synonyms.join(", ")) : null),
      el("td.col-kind", {}, el("span.tag", { class: color, title: meaning }, word), c.kind === "support" && !c.named ? el("span.small-print", {}, " photos only") : null),
      el("td.num.col-images", {}, c.images ? c.images.toLocaleString("en") : el("span.muted", {}, "–")),
      el("td.col-confusions", {}, confused.length
        ? confused.map((one) => el("span.confusion", {}, el("span.name", {}, one.label), el("span.muted.num", {}, `×${one.count}`)))
        : el("span.muted", {}, "–")),
      el("td.col-tools", {},
        c.kind !== "trained" && !readOnly && button("", () => this.openAdd([], c.name), { icon: "plus", kind: "ghost small", label: `Add photos to ${c.name}`, title: "Add photos" }),
        c.kind !== "trained" && !readOnly && button("", () => this.#remove(c), { icon: "trash", kind: "ghost small", label: `Remove ${c.name}`, title: "Remove" })));
  }

  async #remove(c) {
    const photos = c.images ? ` Its ${count(c.images, "photo")} stay in the index, but no longer teach it.` : "";
    if (!(await confirm("Remove class", `Remove “${c.name}”? Answers no longer give it.${photos}`, { yes: "Remove", danger: true }))) return;
    try {
      const done = await api.removeClass(c.name);
      toast(`Removed “${c.name}”`, { detail: done.notes?.[0] });
      this.ctx.refresh();
    } catch (error) {
      toastError(error);
    }
  }

  openAdd(files = [], name = "") {
    if (this.ctx.run?.read_only || document.querySelector("dialog[open]")) return;
    new AddDialog(this.ctx, files, name);
  }
}

/** Name, synonyms, photos: any of name and photos is enough, together they are best. */
class AddDialog {
  files = [];

  constructor(ctx, files, name) {
    this.ctx = ctx;
    this.name = el("input.input", { type: "text", value: name, maxlength: "200", autocomplete: "off", spellcheck: "false", autofocus: true, oninput: () => this.draw(), onkeydown: (e) => e.key === "Enter" && this.send() });
    this.synonyms = chipBox({ label: "Synonyms", placeholder: "Other words for it (optional)", kind: "none", onchange: () => {} });
    this.named = el("input", { type: "checkbox", checked: true, onchange: () => this.draw() });
    this.photos = el("div.add-photos");
    this.problem = el("div");
    this.drop = el("div.drop-zone.add-drop", {}, el("p.muted", {}, "Drop photos of it here, or"), filePicker("Choose photos", (f) => this.take(f), { kind: "small" }));
    this.ok = button("Add class", () => this.send(), { kind: "primary" });
    this.box = dialog("Add a class", el("div.stack", {},
      el("label.field", {}, el("span.label", {}, "Name"), this.name),
      el("div.field", {}, el("span.label", {}, "Synonyms"), this.synonyms),
      el("div.field", {}, el("span.label", {}, "Photos ", el("span.muted.plain", {}, "optional; five make it much surer")), this.drop, this.photos),
      el("label.check", {}, this.named, "The name says what it shows (leave this off for article numbers and the like)"),
      this.problem), { actions: [button("Cancel", () => this.box.close()), this.ok], onclose: () => this.#forget() });
    takeDrops(this.box.node, (f) => this.take(f));
    this.take(files);
    this.name.focus();
  }

  take(files) {
    const have = new Set(this.files.map((f) => `${f.file.name}/${f.file.size}/${f.file.lastModified}`));
    const fresh = files.filter((f) => !have.has(`${f.name}/${f.size}/${f.lastModified}`));
    this.files.push(...fresh.map((file) => ({ file, url: URL.createObjectURL(file) })));
    this.draw();
  }

  draw() {
    fill(this.photos, this.files.map((one) => {
      const image = el("img", { src: one.url, alt: one.file.name });
      image.addEventListener("error", () => image.classList.add("broken"));
      return el("span.add-photo", { title: one.file.name }, image,
        button("", () => ((this.files = this.files.filter((f) => f !== one)), URL.revokeObjectURL(one.url), this.draw()), { icon: "close", label: `Leave out ${one.file.name}` }));
    }));
    this.photos.hidden = this.files.length === 0;
    const byName = this.named.checked;
    this.ok.disabled = !this.name.value.trim() || (!byName && this.files.length === 0);
    this.ok.title = this.ok.disabled ? (this.name.value.trim() ? "A class without a telling name needs photos" : "Give it a name") : "";
  }

  async send() {
    if (this.ok.disabled) return;
    this.ok.disabled = true;
    fill(this.problem, el("p.row.muted", {}, el("span.spinner"), this.files.length ? "Reading the photos …" : "Adding …"));
    try {
      const synonyms = this.synonyms.get();
      const done = await api.addClass({
        name: this.name.value.trim(), synonyms: synonyms.length ? JSON.stringify(synonyms) : null,
        named: this.named.checked ? "true" : "false", images: this.files.map((f) => f.file),
      });
      this.box.close();
      this.#told(done);
      this.ctx.refresh();
    } catch (error) {
      fill(this.problem, errorBox(error));
      this.draw();
    }
  }

  #told(done) {
    const bad = done.unreadable ?? [];
    const by = done.images ? ` with ${count(done.images, "photo")}` : " by its name";
    toast(`${done.new === false ? "Extended" : "Added"} “${done.name}”${by}`, { detail: done.notes?.[0] });
    if (bad.length) {
      dialog(`${count(bad.length, "photo")} could not be read`, el("ul.notes", {}, bad.map((u) => el("li", {}, el("b.name", {}, u.path), `: ${u.reason}`))));
    }
  }

  #forget() {
    for (const one of this.files) URL.revokeObjectURL(one.url);
  }
}
