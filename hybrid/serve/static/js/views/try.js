// Try: photos in, answers out. Names and operating point change the answers of all photos without another upload.

import { api, photoUrl } from "../api.js";
import { chipBox, classPicker, learned, openCamera, openExplanation, select, thumb, writeLabels } from "../parts.js";
import {
  bars, baseName, button, count, debounce, el, emptyState, errorBox, EXPERTS, filePicker, fill, icon, meter, NONE, percent,
  sentence, takeDrops, toast,
} from "../ui.js";

const TOP = 5;
const NEIGHBORS = 5;
const POINTS = [
  {
    id: "prior", name: "Prior of unseen classes", start: 0.5, min: 0.01, max: 0.99, step: 0.01,
    help: "How often a photo shows a class that the head was not trained on.",
    why: "needs classes that only have a name or examples: type one above, or add it under Classes",
  },
  {
    id: "reject", name: "None of these", start: 0.95, min: 0.5, max: 0.99, step: 0.01,
    help: "Reject what looks like no class; keeps this share of photos of trained classes.",
    why: "needs a fitted gate: run `hybrid fit-gate`, or refit in Review",
  },
  {
    id: "coverage", name: "Candidate sets", start: 0.9, min: 0.5, max: 0.99, step: 0.01,
    help: "Sets that hold the right class this often, for photos of trained classes.",
    why: "needs a fitted gate: run `hybrid fit-gate`, or refit in Review",
  },
  {
    id: "confident", name: "Sure in the taxonomy", start: 0.9, min: 0.5, max: 0.99, step: 0.01,
    help: "Answer with the deepest node that is so probable: the species, else the genus, the family …",
    why: "needs a taxonomy", optional: true,
  },
];

export function create(ctx) {
  return new TryView(ctx);
}

class TryView {
  cards = [];
  point = {};
  keys = [["a", "add photos"], ["/", "type class names"]];
  #abort = null;
  #asked = null;
  #again = debounce(() => this.repredict(), 160);

  constructor(ctx) {
    this.ctx = ctx;
    this.names = chipBox({
      label: "Other class names", placeholder: "Type any class name, Enter …",
      onchange: () => this.#again(),
    });
    this.list = el("div.cards");
    this.status = el("p.sub", { role: "status" });
    this.problem = el("div");
    this.picker = filePicker("Add photos", (files) => this.add(files), { kind: "primary", key: "A" });
    this.clear = button("Clear", () => this.clearAll(), { kind: "ghost", hidden: true });
    this.sliders = el("div.stack");
    this.node = this.#layout();
    takeDrops(this.node, (files) => this.add(files));
    ctx.on("run", () => this.#runChanged());
    this.#drawSliders();
    this.#drawEmpty();
    this.#summary();
  }

  #layout() {
    return el(
      "section.page.try", { aria: { label: "Try" } },
      el("header.page-head", {}, el("h1", {}, "Try"), this.clear, button("Camera", () => openCamera((f) => this.add([f])), { icon: "camera", kind: "collapses", title: "Take photos with the camera" }), this.picker, this.status),
      el(
        "div.try-body", {},
        el("div.stack", {},
          el("div.field", {}, el("span.label", {}, "Other class names ", el("span.muted.plain", {}, "join for these photos; no training, no upload")), this.names),
          this.problem, this.list),
        el("aside.try-side", { aria: { label: "Operating point" } },
          el("details.card.panel", { open: matchMedia("(min-width: 1000px)").matches },
            el("summary", {}, icon("sliders"), "Operating point"), this.sliders)),
      ),
    );
  }

  key(event) {
    if (event.key === "a") this.picker.querySelector("button").click();
    else if (event.key === "/") this.names.focus();
    else return;
    event.preventDefault();
  }

  paste(files) {
    this.add(files);
  }

  // --- photos in ---

  async add(files) {
    const cards = files.map((file) => new Card(this, file));
    if (this.cards.length === 0) fill(this.list);
    this.cards.unshift(...cards);
    this.list.prepend(...cards.map((c) => c.node));
    this.#summary();
    for (const group of this.#groups(cards)) await this.#send(group);
  }

  /** Cards in groups that one request may hold; those that are too large are told so and left out. */
  *#groups(cards) {
    const limits = this.ctx.run?.limits ?? {};
    const most = limits.photos ?? 32;
    let group = [];
    let bytes = 0;
    for (const card of cards) {
      const size = card.file.size;
      if (size > (limits.photo_bytes ?? Infinity)) {
        card.fail(`has ${megabytes(size)}, and the server takes ${megabytes(limits.photo_bytes)} at most: make it smaller`);
        continue;
      }
      if (group.length && (group.length === most || bytes + size > 0.9 * (limits.body_bytes ?? Infinity))) {
        yield group;
        [group, bytes] = [[], 0];
      }
      group.push(card);
      bytes += size;
    }
    if (group.length) yield group;
  }

  async #send(cards) {
    try {
      const answer = await api.predict({ images: cards.map((c) => c.file), ...this.#values() });
      this.#asked = answer.revision;
      this.#give(cards, answer, (card) => card.file.name || "photo");
      this.#dropTwins(cards);
    } catch (error) {
      for (const card of cards) card.failWith(error);
    }
    this.#summary();
  }

  /** Hand out predictions and reasons: both come in the order of the photos, by their names. */
  #give(cards, answer, nameOf) {
    const predictions = [...answer.predictions];
    const unreadable = [...answer.unreadable];
    for (const card of cards) {
      const name = nameOf(card);
      if (predictions.length && same(predictions[0].path, name)) card.answer(predictions.shift());
      else {
        const at = unreadable.findIndex((u) => same(u.path, name));
        if (at >= 0) card.fail(unreadable.splice(at, 1)[0].reason);
        else if (predictions.length) card.answer(predictions.shift());
        else card.fail("the server gave no answer for it");
      }
    }
  }

  /** The same photo again takes the place of its older card. */
  #dropTwins(fresh) {
    for (const card of fresh) {
      if (!card.sha256) continue;
      const twin = this.cards.find((c) => c !== card && c.sha256 === card.sha256);
      if (twin) this.remove(twin);
    }
  }

  // --- answers again ---

  async repredict() {
    this.#abort?.abort();
    const controller = (this.#abort = new AbortController());
    const known = this.cards.filter((c) => c.sha256);
    fill(this.problem);
    if (known.length === 0) return;
    this.list.classList.add("stale");
    const most = this.ctx.run?.limits?.photos ?? 32;
    try {
      for (let at = 0; at < known.length; at += most) {
        await this.#again_(known.slice(at, at + most), controller.signal);
      }
    } catch (error) {
      if (error.name === "AbortError") return;
      fill(this.problem, errorBox(error, { onretry: () => this.repredict() }));
    }
    if (this.#abort === controller) this.list.classList.remove("stale");
    this.#summary();
  }

  async #again_(cards, signal) {
    let lost = [];
    try {
      const answer = await api.predict({ sha256: cards.map((c) => c.sha256), ...this.#values() }, signal);
      this.#asked = answer.revision;
      const made = new Map(answer.predictions.map((p) => [p.sha256, p]));
      for (const card of cards) made.has(card.sha256) ? card.answer(made.get(card.sha256)) : lost.push(card);
    } catch (error) {
      if (error.status !== 404) throw error;
      lost = cards; // The server has forgotten the uploads: send them anew.
    }
    if (lost.length === 0) return;
    for (const group of this.#groups(lost)) {
      const answer = await api.predict({ images: group.map((c) => c.file), ...this.#values() }, signal);
      this.#give(group, answer, (card) => card.file.name || "photo");
    }
  }

  #values() {
    const names = this.names.get();
    return { prompts: names.length ? JSON.stringify(names) : null, top_k: TOP, neighbors: NEIGHBORS, ...this.point };
  }

  /** What `explain` must be told, so that it speaks of the answer that is shown. */
  explainValues() {
    const names = this.names.get();
    return { prompts: names.length ? JSON.stringify(names) : null, ...this.point };
  }

  // --- the rest of the page ---

  #runChanged() {
    this.#drawSliders();
    this.#drawEmpty();
    for (const card of this.cards) card.draw();
    if (this.#asked && this.ctx.run && this.ctx.run.revision !== this.#asked) this.#again();
  }

  remove(card) {
    card.drop();
    this.cards = this.cards.filter((c) => c !== card);
    this.#drawEmpty();
    this.#summary();
  }

  clearAll() {
    for (const card of [...this.cards]) this.remove(card);
    fill(this.problem);
  }

  #drawEmpty() {
    if (this.cards.length) return;
    const run = this.ctx.run;
    const known = run ? `This run knows ${count(run.classes, "class", "classes")}${run.seen ? `, ${run.seen} of them trained` : ""}. ` : "";
    fill(this.list, el("div.drop-zone", {}, emptyState({
      icon: "upload", title: "Drop photos here",
      text: `${known}Paste works too. Photos stay on the machine where the server runs.`,
      actions: [filePicker("Choose photos", (files) => this.add(files)), button("Use the camera", () => openCamera((f) => this.add([f])), { icon: "camera" })],
    })));
  }

  #summary() {
    const done = this.cards.filter((c) => c.prediction);
    const waiting = this.cards.filter((c) => c.waiting).length;
    this.clear.hidden = this.cards.length === 0;
    const kinds = { seen: 0, support: 0, unseen: 0, none: 0 };
    for (const card of done) kinds[this.ctx.kind(card.prediction.label)]++;
    const parts = [
      kinds.seen && `${kinds.seen} of trained classes`, kinds.support && `${kinds.support} by examples`,
      kinds.unseen && `${kinds.unseen} by name`, kinds.none && `${kinds.none} none of these`,
    ].filter(Boolean);
    const failed = this.cards.length - done.length - waiting;
    const words = [count(this.cards.length, "photo"), ...parts, failed && `${failed} unreadable`, waiting && `${waiting} waiting …`].filter(Boolean);
    this.status.textContent = this.cards.length ? words.join(" · ") : "Add photos, and see what they show, how sure that is, and who decided.";
    const warning = done.find((c) => c.prediction.warning)?.prediction.warning;
    this.node.querySelector(".notice")?.remove();
    if (warning) this.list.before(el("div.notice", {}, icon("alert"), sentence(warning)));
  }

  #drawSliders() {
    const run = this.ctx.run;
    const shown = POINTS.filter((point) => !point.optional || run?.can?.[point.id]).map((point) => this.#slider(point, run));
    fill(this.sliders, shown, this.#places(run));
  }

  /** Where and when the photos were taken, as far as the server's class priors know. */
  #places(run) {
    return [["region", "Region"], ["month", "Month"]].map(([key, name]) => {
      const known = run?.places?.[key] ?? [];
      if (!known.length) return null;
      const box = select(name, [["", "not known"], ...known.map((value) => [value, String(value)])], this.point[key] ?? "");
      box.input.addEventListener("change", () => {
        if (box.value) this.point[key] = box.value;
        else delete this.point[key];
        this.#again();
      });
      return box;
    });
  }

  #slider(point, run) {
    const can = !run || point.id in this.point || run.can?.[point.id] || (point.id === "prior" && this.names.get().length > 0 && run.gate);
    const on = point.id in this.point;
    const given = run?.policy?.[point.id];
    const value = this.point[point.id] ?? given ?? point.start;
    const shown = el("output.num", {}, on || given ? percent(value) : "off");
    const paint = () => range.style.setProperty("--at", `${(100 * (range.value - point.min)) / (point.max - point.min)}%`);
    const range = el("input", {
      type: "range", min: point.min, max: point.max, step: point.step, value: String(value), disabled: !can,
      aria: { label: point.name, valuetext: percent(value) },
      oninput: () => {
        this.point[point.id] = Number(range.value);
        paint();
        toggle.checked = true;
        shown.textContent = percent(Number(range.value));
        range.setAttribute("aria-valuetext", percent(Number(range.value)));
        node.classList.add("on");
        this.#again();
      },
    });
    const toggle = el("input", {
      type: "checkbox", role: "switch", checked: on, disabled: !can, aria: { label: `Choose: ${point.name}` },
      onchange: () => {
        if (toggle.checked) this.point[point.id] = Number(range.value);
        else delete this.point[point.id];
        shown.textContent = toggle.checked ? percent(Number(range.value)) : given ? percent(given) : "off";
        node.classList.toggle("on", toggle.checked);
        this.#again();
      },
    });
    paint();
    const reason = run?.why_not?.[point.id] ?? point.why;
    const node = el(
      "div.slider", { class: on ? "on" : "", data: { point: point.id } },
      el("label.row.between", {}, el("span.row.tight", {}, toggle, el("span.slider-name", {}, point.name)), shown),
      range,
      el("p.small-print", {}, can ? point.help : `Not here: ${reason}.`),
    );
    return node;
  }
}

const same = (path, name) => path === name || baseName(path) === baseName(name);
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

/** One photo and its answer. */
class Card {
  prediction = null;
  waiting = true;
  labeled = null;
  #reason = null;
  #error = null;
  #before = null;

  constructor(view, file) {
    this.view = view;
    this.file = file;
    this.url = URL.createObjectURL(file);
    this.image = el("img", { src: this.url, alt: file.name, draggable: "false" });
    this.image.addEventListener("error", () => this.#noPreview());
    this.body = el("div.card-body");
    this.correcting = el("div.correcting", { hidden: true });
    this.node = el("article.card.try-card", { aria: { label: file.name } },
      el("div.photo", {}, this.image), el("div.try-answer", {}, this.body, this.correcting),
      button("", () => view.remove(this), { icon: "close", kind: "ghost small card-close", label: `Remove ${file.name}`, title: "Remove" }));
    this.draw();
  }

  get sha256() {
    return this.prediction?.sha256 ?? null;
  }

  drop() {
    URL.revokeObjectURL(this.url);
    this.node.remove();
  }

  /** The browser cannot show it (TIFF, say): let the server. */
  #noPreview() {
    if (this.sha256 && !this.image.src.includes("/v1/photos/")) this.image.src = photoUrl(this.sha256, 640);
    else this.image.classList.add("broken");
  }

  answer(prediction) {
    const before = this.prediction?.label;
    if (before && before !== prediction.label) this.#before = before;
    this.prediction = prediction;
    Object.assign(this, { waiting: false });
    this.#reason = this.#error = null;
    if ("labeled" in prediction) this.labeled = prediction.labeled;
    if (this.image.classList.contains("broken")) {
      this.image.classList.remove("broken");
      this.#noPreview();
    }
    this.draw();
  }

  fail(reason) {
    this.waiting = false;
    this.#reason = reason;
    this.draw();
  }

  failWith(error) {
    this.waiting = false;
    this.#error = error;
    this.draw();
  }

  draw() {
    this.node.classList.toggle("waiting", this.waiting);
    this.node.classList.toggle("failed", Boolean(this.#reason));
    if (this.#error) return fill(this.body, this.#fileName(), errorBox(this.#error, { onretry: () => this.#retry() }));
    if (this.#reason) {
      return fill(this.body, this.#fileName(), errorBox({ what: "this photo cannot be read", got: this.#reason, fix: "open it and save it anew as JPEG or PNG, then add it again" }));
    }
    if (!this.prediction) return fill(this.body, this.#fileName(), el("div.bars.skeleton", { aria: { label: "Waiting for the answer" } }, [0, 1, 2, 3, 4].map(() => el("span"))));
    fill(this.body, this.#head(), this.#facts(), bars(this.#top()), this.#near(), this.#actions());
  }

  #retry() {
    this.view.remove(this);
    this.view.add([this.file]);
  }

  #fileName() {
    return el("p.file-name", { title: this.file.name }, this.file.name);
  }

  #top() {
    return this.prediction.top.map((t) => ({ label: t.label, value: t.probability, kind: this.view.ctx.kind(t.label) }));
  }

  #head() {
    const { label, probability } = this.prediction;
    return el("div.answer-head", {},
      this.#fileName(),
      el("div.answer-line", {},
        el("h2.answer-label", { class: label === NONE ? "none" : "" }, el("span.dot", { class: this.view.ctx.kind(label) }), el("span.name", {}, label)),
        el("span.answer-p.num", { title: label === NONE ? "probability that it shows none of the classes" : "calibrated probability" }, percent(probability))));
  }

  #facts() {
    const p = this.prediction;
    const [who, why] = EXPERTS[p.expert] ?? [p.expert, null];
    return el("div.facts", {},
      el("span.tag", { title: why }, el("span.muted", {}, "by"), who),
      p.p_unseen !== null && meter("p(unseen)", p.p_unseen, { kind: "unseen", title: "Probability that the photo shows a class that the head was not trained on" }),
      p.p_known !== null && meter("p(known)", p.p_known, { title: "Probability that the photo shows any of the classes" }),
      this.#before && el("span.tag.wrap", { title: "The answer before the last change" }, el("span.muted", {}, "was"), el("span.name", {}, this.#before)),
      p.set && el("span.set", {}, el("span.muted", {}, "Set of candidates"), p.set.length ? p.set.map((name) => el("span.tag.wrap", { class: this.view.ctx.kind(name) }, el("span.name", {}, name))) : el("span.tag", {}, "empty")));
  }

  #near() {
    const near = (this.prediction.neighbors ?? []).filter((n) => n.sha256);
    if (near.length === 0) return null;
    return el("div.near", {}, el("h3.small-print", {}, "Nearest labeled photos"),
      el("div.thumbs", {}, near.map((n) => thumb(n, { kind: this.view.ctx.kind(n.label), note: n.similarity.toFixed(2) }))));
  }

  #actions() {
    const run = this.view.ctx.run;
    const noMap = run && !run.can?.explain;
    return el("div.row.tight.actions", {},
      button("Why?", () => openExplanation(this.prediction, { values: this.view.explainValues() }), {
        icon: "why", kind: "small", disabled: noMap, title: noMap ? run.why_not?.explain ?? "needs the extra: pip install 'hybrid[explain]'" : "Maps, neighbors and the gate's terms",
      }),
      button("Correct", () => this.#correct(), { icon: "pen", kind: "small", disabled: run?.read_only, title: run?.read_only ? "This server is read-only" : "Say which class it shows" }),
      this.labeled && el("span.tag.wrap", { class: this.view.ctx.kind(this.labeled) }, icon("check"), "labeled ", el("span.name", {}, this.labeled)));
  }

  #correct() {
    if (!this.correcting.hidden) return this.#stopCorrecting();
    const picker = classPicker(this.view.ctx, (label) => this.#label(label), { extra: () => this.view.names.get(), openOnFocus: false, oncancel: () => this.#stopCorrecting() });
    const quick = this.prediction.top.slice(0, 5).map((t) => t.label).filter((label) => label !== this.prediction.label || this.labeled);
    fill(this.correcting, picker, el("div.row.tight", {},
      [...quick.slice(0, 4), NONE].map((label) => button(label, () => this.#label(label), { kind: "small" })),
      button("Cancel", () => this.#stopCorrecting(), { kind: "ghost small" })));
    this.correcting.hidden = false;
    picker.focus();
  }

  #stopCorrecting() {
    this.correcting.hidden = true;
    fill(this.correcting);
    [...this.body.querySelectorAll(".actions .btn")].at(-1)?.focus();
  }

  async #label(label) {
    const was = this.labeled;
    this.#stopCorrecting();
    const back = () => ((this.labeled = was), this.draw());
    const done = await writeLabels([{ sha256: this.sha256, label, was, why: "try" }], { onundone: back, detail: learned(this.view.ctx, label) });
    if (!done) return;
    this.labeled = label;
    this.draw();
    if (done.applied === 0) toast("It had this label already");
  }
}
