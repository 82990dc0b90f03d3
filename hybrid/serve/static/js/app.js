// The shell: routes by the hash, the run's state for all views, theme, keys.

import { api, watchRevision } from "./api.js";
import { button, count, dialog, el, errorBox, fill, icon, isTyping, NONE } from "./ui.js";

const VIEWS = [
  { id: "try", name: "Try", load: () => import("./views/try.js") },
  { id: "review", name: "Review", load: () => import("./views/review.js") },
  { id: "classes", name: "Classes", load: () => import("./views/classes.js") },
  { id: "search", name: "Search", load: () => import("./views/search.js") },
  { id: "report", name: "Report", load: () => import("./views/report.js") },
];
const KEYS = [
  ["g then t, r, c, s, p", "go to Try, Review, Classes, Search, Report"],
  ["?", "these keys"],
  ["Esc", "close, or leave a text box"],
];
const JUMPS = { t: "try", r: "review", c: "classes", s: "search", p: "report" };

/** What all views share: ctx.run, ctx.classes, ctx.on("run" | "classes", f), ctx.refresh(), ctx.classNames(). */
class Context {
  run = null;
  classes = [];
  error = null;
  #turn = 0;
  #listeners = { run: new Set(), classes: new Set() };

  on(what, listener) {
    this.#listeners[what].add(listener);
    return () => this.#listeners[what].delete(listener);
  }

  #tell(what) {
    for (const listener of this.#listeners[what]) listener();
  }

  /** Ask for the run and its classes; of several at once the last counts. */
  async refresh() {
    const turn = ++this.#turn;
    let said;
    try {
      const [run, known] = await Promise.all([api.run(), api.classes()]);
      said = { run, classes: known.classes, error: null };
    } catch (error) {
      said = { error };
    }
    if (turn !== this.#turn) return;
    Object.assign(this, said);
    this.#tell("run");
    this.#tell("classes");
  }

  /** Refresh where an answer names another revision than the run that is shown. */
  noticed(revision) {
    if (this.run && revision !== this.run.revision) {
      this.run.revision = revision;
      this.refresh();
    }
  }

  /** Color of a class: "seen" (trained), "support" (examples), "unseen" (by name), "none". */
  kind(name) {
    if (name === NONE) return "none";
    const known = this.classes.find((c) => c.name === name);
    return known ? { trained: "seen", support: "support" }[known.kind] ?? "unseen" : "unseen";
  }

  /** For `typeahead`: all classes, and "none of these" last. */
  classNames({ none = true, extra = [] } = {}) {
    const known = new Set(this.classes.map((c) => c.name));
    const more = extra.filter((name) => !known.has(name)).map((name) => ({ name, kind: "unseen" }));
    const all = this.classes.map((c) => ({ name: c.name, kind: this.kind(c.name) })).concat(more);
    return none ? all.concat({ name: NONE, kind: "none", hint: "not one of the classes" }) : all;
  }

  go(hash) {
    location.hash = hash;
  }
}

const ctx = new Context();
const main = document.getElementById("view");
const made = new Map();
let current = null;

function drawNav() {
  fill(
    document.getElementById("nav"),
    VIEWS.map(({ id, name }) => el("a.nav-item", { href: `#/${id}`, data: { view: id } }, icon(id), el("span", {}, name))),
  );
}

async function route() {
  const [id, search = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const view = VIEWS.find((v) => v.id === id) ?? VIEWS[0];
  for (const link of document.querySelectorAll(".nav-item")) {
    if (link.dataset.view === view.id) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${view.name} · ${ctx.run?.name ?? "hybrid"}`;
  if (!made.has(view.id)) made.set(view.id, (await view.load()).create(ctx));
  const next = made.get(view.id);
  if (location.hash.replace(/^#\/?/, "").split("?")[0] !== id) return; // Somebody went on while it loaded.
  for (const open of document.querySelectorAll("dialog[open]")) open.close();
  if (current !== next) {
    current?.hide?.();
    current = next;
    fill(main, next.node);
    main.scrollTop = 0;
  }
  next.show?.(new URLSearchParams(search));
}

// --- the foot of the side bar: the run, theme, keys ---

const THEMES = { auto: "light", light: "dark", dark: "auto" };
const theme = () => document.documentElement.dataset.theme ?? "auto";

function setTheme(name) {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  try {
    if (name === "auto") localStorage.removeItem("hybrid-theme");
    else localStorage.setItem("hybrid-theme", name);
  } catch {
    // Storage may be forbidden; the theme holds until the page is closed.
  }
  drawFoot();
}

function runCard(run) {
  const facts = [count(run.classes, "class", "classes"), `${count(run.labeled, "labeled photo")}`];
  const notes = run.notes?.length ?? 0;
  return el(
    "div.run",
    {},
    el("div.run-name", { title: `revision ${run.revision}` }, el("span", {}, run.name), run.read_only && el("span.tag", {}, "read-only")),
    el("div.muted", {}, facts.join(" · ")),
    el("div.muted", {}, [run.head ?? "no trained head", run.gate ? "calibrated" : "no gate", run.device === "auto" ? null : run.device].filter(Boolean).join(" · ")),
    notes ? button(count(notes, "note"), () => dialog("Notes of this run", el("ul.notes", {}, run.notes.map((n) => el("li", {}, n)))), { kind: "link small", icon: "alert" }) : null,
  );
}

function drawFoot() {
  const name = theme();
  fill(
    document.getElementById("side-foot"),
    ctx.run ? runCard(ctx.run) : ctx.error ? el("div.run.muted", {}, "No connection") : el("div.run"),
    el(
      "div.row.tight.side-tools",
      {},
      button("", () => setTheme(THEMES[theme()]), { icon: { auto: "auto", light: "sun", dark: "moon" }[name], kind: "ghost small", label: `Theme: ${name}`, title: `Theme: ${name}`, id: "theme" }),
      button("", showKeys, { icon: "keyboard", kind: "ghost small", label: "Keyboard", title: "Keys (?)" }),
      el("a.btn.ghost.small", { href: "/docs", target: "_blank", rel: "noopener" }, "REST"),
    ),
  );
}

function showKeys() {
  const rows = KEYS.concat(current?.keys ?? []);
  dialog("Keys", el("dl.keys", {}, rows.map(([key, does]) => [el("dt", {}, el("kbd", {}, key)), el("dd", {}, does)])));
}

// --- keys ---

let jumpUntil = 0;

function onKey(event) {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (isTyping(event)) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (event.timeStamp < jumpUntil && JUMPS[event.key]) {
    jumpUntil = 0;
    event.preventDefault();
    return ctx.go(`/${JUMPS[event.key]}`);
  }
  jumpUntil = 0;
  if (event.key === "g") jumpUntil = event.timeStamp + 1200;
  else if (event.key === "?") showKeys();
  else current?.key?.(event);
}

function start() {
  drawNav();
  drawFoot();
  ctx.on("run", () => {
    drawFoot();
    if (ctx.error && !ctx.run) fill(main, el("section.page", {}, errorBox(ctx.error, { onretry: () => location.reload() })));
  });
  watchRevision((revision) => ctx.noticed(revision));
  addEventListener("hashchange", route);
  addEventListener("keydown", onKey);
  // A photo that misses the drop zone must not replace the page.
  for (const kind of ["dragover", "drop"]) addEventListener(kind, (event) => event.preventDefault());
  addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])].filter((f) => f.type.startsWith("image/"));
    if (files.length && current?.paste) (event.preventDefault(), current.paste(files));
  });
  ctx.refresh();
  route();
}

start();
