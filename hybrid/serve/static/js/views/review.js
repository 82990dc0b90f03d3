// Review: work off the doubtful photos, one by one or many alike at once.

import { api } from "../api.js";
import { baseName, button, count, el, emptyState, errorBox, fill, icon, progressBar, sentence, toast, toastError } from "../ui.js";
import { Gains, reviewer } from "../review/gains.js";
import { Grid } from "../review/grid.js";
import { Outbox } from "../review/outbox.js";
import { Queue } from "../review/queue.js";
import { Stage } from "../review/stage.js";
import { Strip } from "../review/strip.js";
import { byAnswer } from "../review/windowing.js";

const STRATEGIES = [
  ["margin", "Doubtful", "two classes are almost equally probable"],
  ["unseen", "Perhaps unseen", "may show a class that the head was not trained on"],
  ["suspect", "Suspect labels", "labeled photos whose label is probably wrong"],
  ["diverse", "Diverse", "doubtful, and as different from each other as can be"],
  ["random", "At random", "any photo, drawn at random"],
];
const FIRST = 40;
const ALL = 10_000;
const AHEAD = 6;
const ALIKE = 120;
const LOOK_AGAIN = 1000;
const KEYS = [
  ["1 to 5", "label as one of the first classes"],
  ["/ or a letter", "type a class, known or new; Enter takes it"],
  ["n", "none of these"],
  ["s", "skip"],
  ["u", "undo"],
  ["← →", "go back and forth; in the grid: move (Shift selects)"],
  ["Space", "grid: select; Ctrl+A the whole group"],
  ["v", "one photo, or the grid"],
];

class Review {
  constructor(ctx) {
    this.ctx = ctx;
    this.strategy = null; // The server chooses at first: doubtful photos, or labels to check.
    this.notes = [];
    this.mode = "one";
    this.like = null;
    this.total = 0;
    this.loaded = 0;
    this.conflicts = [];
    this.error = null;
    this.loading = true;
    this.queue = new Queue();
    this.outbox = new Outbox({
      post: (labels) => api.label(labels, reviewer()),
      undo: (ids) => api.undo({ ids }),
      onChange: () => this.drawStatus(),
      onSaved: () => this.saved(),
      onConflict: (label, conflict) => this.conflict(label, conflict),
      onFailure: (entry, error) => this.failed(entry, error),
    });
    this.makeParts();
    addEventListener("online", () => this.outbox.poke());
    addEventListener("beforeunload", (event) => this.outbox.waiting && event.preventDefault());
    ctx.on("run", () => this.draw());
    ctx.on("classes", () => this.draw());
  }

  makeParts() {
    const { ctx, queue } = this;
    const names = () => ctx.classNames({ extra: [...new Set(queue.given.values())].filter((name) => name !== "none of these") });
    const kind = (name) => ctx.kind(name);
    this.stage = new Stage({
      decide: (label) => this.decide(label), skip: () => this.skip(), undo: () => this.undo(), alike: (item) => this.showAlike(item), names, kind,
    });
    this.strip = new Strip(queue, (sha256) => (queue.goTo(sha256), this.draw()));
    this.grid = new Grid({
      decide: (hashes, label) => this.decideMany(hashes, label), names, kind, labelOf: (sha256) => queue.labelOf(sha256), close: () => this.leaveAlike(),
    });
    this.gains = new Gains({ renew: () => this.renew(), open: (sha256) => this.open(sha256), run: () => ctx.run });
    this.live = el("div.visually-hidden", { role: "status", id: "review-live" });
    this.status = el("span.review-status.num", { id: "review-status" });
    this.alerts = el("div.stack", { id: "review-conflicts" });
    this.body = el("div.review-body");
    this.select = el(
      "select.input.review-strategy",
      { id: "review-strategy", aria: { label: "Which photos first" }, onchange: () => (this.select.blur(), this.choose(this.select.value)) },
      STRATEGIES.map(([value, name, why]) => el("option", { value, title: why }, name)),
    );
    this.why = el("p.sub", { id: "review-why" });
    this.modes = el(
      "div.row.tight",
      { role: "group", aria: { label: "How to look" } },
      button("One photo", () => this.setMode("one"), { id: "review-one" }),
      button("Grid", () => this.setMode("grid"), { icon: "grid", id: "review-grid" }),
    );
    this.node = el(
      "section.page.review",
      { aria: { label: "Review" } },
      el("div.page-head", {}, el("h1", {}, "Review"), this.status, this.select, this.modes, this.why),
      this.alerts,
      this.body,
      this.gains.node,
      this.live,
    );
  }

  get locked() {
    return Boolean(this.ctx.run?.read_only);
  }

  show() {
    if (this.shown) {
      this.draw();
      this.gains.refresh();
      return;
    }
    this.shown = true;
    this.load();
    this.gains.refresh();
    this.gains.resume().catch(toastError);
  }

  // --- the queue ---

  choose(strategy) {
    this.strategy = strategy;
    this.like = null;
    this.load();
  }

  /** A few photos first, so that one can begin; then all. */
  async load() {
    this.reading?.abort();
    clearTimeout(this.again);
    const reading = (this.reading = new AbortController());
    Object.assign(this, { loading: true, error: null });
    this.queue.restart();
    this.draw();
    try {
      for (const limit of [FIRST, ALL]) {
        const answer = await api.queue({ strategy: this.strategy, limit }, reading.signal);
        if (reading.signal.aborted) return;
        this.take(answer);
        if (answer.items.length < limit) break;
      }
    } catch (error) {
      if (error.name === "AbortError") return;
      Object.assign(this, { error, loading: false });
      this.draw();
    }
  }

  take({ items, total, ready, strategy, notes }) {
    this.total = total;
    this.strategy = strategy;
    this.select.value = strategy;
    this.notes = notes ?? [];
    this.queue.append(items);
    this.loading = false;
    this.ready = ready;
    this.draw();
    if (ready && ready.done < ready.total) this.lookAgain();
  }

  /** A head that needs pixels answers photo by photo: more of the queue comes while one works. */
  lookAgain() {
    clearTimeout(this.again);
    this.again = setTimeout(async () => {
      try {
        this.take(await api.queue({ strategy: this.strategy, limit: ALL }, this.reading.signal));
      } catch (error) {
        if (error.name !== "AbortError") toastError(error);
      }
    }, LOOK_AGAIN);
  }

  async renew() {
    let answer;
    do {
      answer = await api.queue({ strategy: this.strategy, limit: ALL }, this.reading?.signal);
      if (answer.ready.done < answer.ready.total) await new Promise((done) => setTimeout(done, LOOK_AGAIN / 4));
    } while (answer.ready.done < answer.ready.total);
    const changed = this.queue.renew(answer.items);
    this.total = answer.total;
    this.draw();
    return changed;
  }

  open(sha256) {
    if (!this.queue.goTo(sha256)) return;
    this.setMode("one");
    this.node.scrollIntoView({ block: "start" });
  }

  // --- decisions ---

  decide(label) {
    if (this.locked || this.loading || !this.queue.current) return;
    this.send(this.queue.decide(label));
    this.draw();
    this.say(`${label}.`);
  }

  decideMany(hashes, label) {
    this.send(this.queue.decideMany(hashes, label, this.like ? "search" : undefined));
    this.draw();
    toast(`${count(hashes.length, "photo")} labeled “${label}”`, { action: "Undo", onaction: () => this.undo() });
  }

  send(step) {
    step.entry = this.outbox.add(step.labels.map((label) => ({ ...label })));
    this.fresh = !this.ctx.classes.some(({ name }) => name === step.labels[0].label) && step.labels[0].label;
  }

  skip() {
    if (!this.queue.skip()) return;
    this.draw();
    this.say("Skipped.");
  }

  undo() {
    const step = this.queue.undo();
    if (!step) return;
    if (step.entry) this.outbox.undo(step.entry);
    this.draw();
    this.say("Undone.");
  }

  /** Say what just happened and what is in front now. */
  say(happened) {
    const item = this.queue.current;
    const next = item ? `Photo ${this.queue.position + 1} of ${this.queue.items.length}: ${item.prediction.label}` : "End of the queue";
    this.live.textContent = `${happened} ${next}.`;
  }

  saved() {
    this.loaded += 1;
    if (this.outbox.waiting <= 1) this.gains.refresh();
    if (this.fresh) this.ctx.refresh();
    this.fresh = false;
  }

  failed(entry, error) {
    for (const { sha256, was } of entry?.labels ?? []) this.queue.revert(sha256, was);
    this.draw();
    toastError(error);
  }

  conflict(label, conflict) {
    this.queue.revert(label.sha256, conflict.label);
    this.conflicts.push({ label, conflict });
    this.draw();
    this.drawConflicts();
  }

  settle(one, keep) {
    this.conflicts = this.conflicts.filter((other) => other !== one);
    const { label } = one;
    if (keep) this.queue.skipped.add(label.sha256);
    else this.send(this.queue.decideMany([label.sha256], label.label, label.why));
    this.draw();
    this.drawConflicts();
  }

  // --- looks ---

  setMode(mode) {
    this.mode = mode;
    if (mode === "one") this.like = null;
    this.draw();
  }

  async showAlike(item) {
    try {
      const { hits } = await api.searchPhoto({ sha256: item.sha256, top_k: ALIKE });
      const items = hits.map((hit) => {
        if (!this.queue.item(hit.sha256)) this.queue.learn(hit.sha256, hit.label);
        const known = this.queue.item(hit.sha256);
        return known ?? { ...hit, drawn: "search", prediction: { label: hit.label ?? "", probability: 0, top: hit.label ? [{ label: hit.label, probability: hit.score }] : [] } };
      });
      if (!items.some((one) => one.sha256 === item.sha256)) items.unshift(item);
      this.like = { name: `Like ${baseName(item.path)}`, items, alike: true };
      this.setMode("grid");
      this.grid.toTop();
    } catch (error) {
      toastError(error);
    }
  }

  leaveAlike() {
    this.like = null;
    this.draw();
    this.grid.toTop();
  }

  key(event) {
    const grid = this.mode === "grid";
    const on = {
      n: () => (grid ? this.grid.decide("none of these") : this.decide("none of these")),
      s: () => grid || this.skip(),
      u: () => this.undo(),
      v: () => this.setMode(grid ? "one" : "grid"),
      "/": () => this.type(""),
      ArrowLeft: () => grid || (this.queue.go(-1), this.draw(), this.say("")),
      ArrowRight: () => grid || (this.queue.go(1), this.draw(), this.say("")),
      Escape: () => grid && this.grid.clear(),
    }[event.key];
    if (on) on();
    else if (/^[1-5]$/.test(event.key)) (grid ? this.grid : this.stage).choose(Number(event.key));
    else if (/^\p{L}$/u.test(event.key)) this.type(event.key);
    else return;
    event.preventDefault();
  }

  type(letter) {
    const { box } = this.mode === "grid" ? this.grid : this.stage;
    if (!box.isConnected || box.input.disabled) return;
    box.input.value = letter;
    box.focus();
  }

  draw() {
    if (!this.node.isConnected && !this.shown) return;
    const [, name, why] = STRATEGIES.find(([value]) => value === this.strategy) ?? [];
    fill(this.why, name ? `${name}: ${why}.` : "", this.notes.map((note) => el("span.review-note", {}, ` ${sentence(note)}.`)));
    for (const [mode, node] of [["one", this.modes.firstChild], ["grid", this.modes.lastChild]]) node.setAttribute("aria-pressed", String(this.mode === mode));
    this.gains.setRun(this.ctx.run);
    this.drawStatus();
    this.drawBody();
  }

  drawBody() {
    if (this.error) return this.put(errorBox(this.error, { onretry: () => this.load() }));
    if (this.loading) return this.put(el("div.review-wait", {}, progressBar("Choosing photos")));
    if (this.mode === "grid") return this.drawGrid();
    const item = this.queue.current;
    if (!item) return this.put(this.end(), ...(this.queue.items.length ? [this.strip.node] : []));
    this.put(this.stage.node, this.strip.node);
    const { sha256 } = item;
    this.stage.show(item, { label: this.queue.labelOf(sha256), given: this.queue.given.has(sha256), canUndo: this.queue.steps.length > 0, locked: this.locked });
    this.stage.load([item, ...this.queue.ahead(AHEAD)]);
    this.strip.follow();
  }

  drawGrid() {
    const open = this.like ? [this.like] : byAnswer(this.queue.items.filter(({ sha256 }) => !this.queue.given.has(sha256)));
    if (!open.length) return this.put(this.end());
    this.put(this.grid.node);
    this.grid.show(open, { locked: this.locked });
  }

  /** Change what the body holds only where it is something else: a focused text box stays focused. */
  put(...nodes) {
    const same = nodes.length === this.body.children.length && nodes.every((node, i) => node === this.body.children[i]);
    if (!same) fill(this.body, nodes);
  }

  end() {
    const skipped = this.queue.skipped.size;
    const waits = this.ready && this.ready.done < this.ready.total;
    if (waits) {
      const bar = progressBar();
      bar.set(this.ready.done, this.ready.total, `The classifier looks at the photos: ${this.ready.done.toLocaleString("en")} of ${count(this.ready.total, "photo")}`);
      return el("div.review-wait", {}, bar);
    }
    const empty = this.queue.items.length === 0;
    return emptyState({
      icon: "check",
      title: empty ? "Nothing to review here" : "End of the queue",
      text: empty
        ? this.ctx.run?.archive
          ? "No photo of those that were looked at waits for a decision by this choice. Choose another order."
          : "No photo of this index waits for a decision by this choice. Index photos without labels (hybrid build-index), or choose another order."
        : "Refit below, so that the classifier learns from these labels; then look at what it doubts now.",
      actions: [
        skipped ? button(`Look at the ${count(skipped, "skipped photo")}`, () => (this.queue.skipped.clear(), this.firstOpen(), this.draw())) : null,
        button("Read the queue anew", () => this.load(), { kind: "primary", id: "review-again" }),
        this.queue.steps.length ? button("Undo", () => this.undo(), { key: "u" }) : null,
      ].filter(Boolean),
    });
  }

  firstOpen() {
    const first = this.queue.items.findIndex(({ sha256 }) => !this.queue.isDone(sha256));
    if (first >= 0) this.queue.position = first;
  }

  drawStatus() {
    const { given } = this.queue;
    const parts = [`${given.size.toLocaleString("en")} labeled`, `${this.queue.left.toLocaleString("en")} left`];
    const waiting = this.outbox.waiting;
    this.status.classList.toggle("stuck", this.outbox.stuck);
    fill(
      this.status,
      parts.join(" · "),
      this.outbox.stuck && [" ", icon("alert"), ` ${count(waiting, "change")} not saved yet: the server does not answer. `, button("Try again", () => this.outbox.poke(), { kind: "link small" })],
    );
    this.status.dataset.waiting = String(waiting);
  }

  drawConflicts() {
    fill(
      this.alerts,
      this.conflicts.map((one) => {
        const { label, conflict } = one;
        const who = conflict.by ? ` by ${conflict.by}` : "";
        const theirs = conflict.label === null ? "took its label away" : `labeled it “${conflict.label}”${who}`;
        return el(
          "div.notice.conflict",
          { role: "alert" },
          icon("alert"),
          el("span.grow", {}, el("strong", {}, baseName(this.queue.item(label.sha256)?.path ?? "A photo")), `: somebody else ${theirs}; you said “${label.label}”.`),
          button(conflict.label === null ? "Leave it so" : `Keep “${conflict.label}”`, () => this.settle(one, true), { kind: "small", class: "conflict-keep" }),
          button(`Use “${label.label}”`, () => this.settle(one, false), { kind: "small", class: "conflict-override" }),
        );
      }),
    );
  }
}

export function create(ctx) {
  const review = new Review(ctx);
  return { node: review.node, show: () => review.show(), key: (event) => review.key(event), keys: KEYS };
}
