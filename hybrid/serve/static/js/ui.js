// Small DOM helpers. Text goes in as text nodes only: no name, path or message is ever read as HTML.

export const NONE = "none of these";
const SVG = "http://www.w3.org/2000/svg";

/**
 * Make an element: el("button.primary", {onclick: f, title: "...", aria: {label: "..."}}, "text", child, null).
 * Keys that begin with "on" are listeners; `style` is set by CSSOM (the policy forbids style attributes); `data` and
 * `aria` spread; true sets an empty attribute; null, undefined and false are left out.
 */
export function el(tag, props = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const node = document.createElement(name || "div");
  if (classes.length) node.className = classes.join(" ");
  for (const [key, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "style") for (const [rule, v] of Object.entries(value)) node.style.setProperty(rule, v);
    else if (key === "data") Object.assign(node.dataset, value);
    else if (key === "aria") for (const [a, v] of Object.entries(value)) v === null || node.setAttribute(`aria-${a}`, v);
    else if (key === "class") node.className = [node.className, value].join(" ").trim();
    else if (key === "value" || key === "checked" || key === "disabled" || key === "hidden") node[key] = value;
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...flat(children));
  return node;
}

const flat = (children) => children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false);

/** Put these children in the place of the present ones. */
export function fill(node, ...children) {
  node.replaceChildren(...flat(children));
  return node;
}

const ICONS = {
  try: "M4 7a2 2 0 0 1 2-2h2l1.2-1.5h5.6L16 5h2a2 2 0 0 1 2 2v10a2 2 0 0 1-2 2H6a2 2 0 0 1-2-2zM12 8.7a3.3 3.3 0 1 0 0 6.6 3.3 3.3 0 0 0 0-6.6z",
  review: "M9 6h11M9 12h11M9 18h11M3.5 6l1.2 1.2L7 4.9M3.5 12l1.2 1.2L7 10.9M3.5 18l1.2 1.2L7 16.9",
  classes: "M4 4h7v7H4zM13 4h7v7h-7zM4 13h7v7H4zM13 13h7v7h-7z",
  search: "M10.5 4a6.5 6.5 0 1 0 0 13 6.5 6.5 0 0 0 0-13zM15.3 15.3L20 20",
  report: "M4 20V4M4 20h16M8 16v-4M12 16V8M16 16v-6",
  plus: "M12 5v14M5 12h14",
  close: "M6 6l12 12M18 6L6 18",
  check: "M5 12.5l4.5 4.5L19 7.5",
  pen: "M4 20l1-4L16 5l3 3L8 19zM14 7l3 3",
  why: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18zM9.6 9.4a2.5 2.5 0 1 1 3.4 2.4c-.7.3-1 .8-1 1.6M12 16.6v.2",
  camera: "M4 7a2 2 0 0 1 2-2h2l1.2-1.5h5.6L16 5h2a2 2 0 0 1 2 2v10a2 2 0 0 1-2 2H6a2 2 0 0 1-2-2zM12 8.7a3.3 3.3 0 1 0 0 6.6 3.3 3.3 0 0 0 0-6.6z",
  trash: "M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13M10 11v5M14 11v5",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 2v2M12 20v2M4.9 4.9l1.4 1.4M17.7 17.7l1.4 1.4M2 12h2M20 12h2M4.9 19.1l1.4-1.4M17.7 6.3l1.4-1.4",
  moon: "M20 14.5A8.5 8.5 0 0 1 9.5 4 8.5 8.5 0 1 0 20 14.5z",
  auto: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18zM12 3v18M12 7h6M12 11h8.5M12 15h7.5",
  keyboard: "M3 6h18v12H3zM7 10h.01M11 10h.01M15 10h.01M8 14h8",
  alert: "M12 4l9 16H3zM12 10v4M12 17v.2",
  upload: "M12 16V5M7.5 9.5L12 5l4.5 4.5M4 16v3h16v-3",
  undo: "M9 7L4 12l5 5M4 12h10a6 6 0 0 1 6 6",
  grid: "M4 4h7v7H4zM13 4h7v7h-7zM4 13h7v7H4zM13 13h7v7h-7z",
  sliders: "M4 7h9M17 7h3M15 5v4M4 17h3M11 17h9M9 15v4",
};

/** An icon of the set above; decoration only, so give its button a name. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  for (const [k, v] of Object.entries({ viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true" })) svg.setAttribute(k, v);
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name] ?? "");
  svg.append(path);
  return svg;
}

/** A button: button("Save", save, {icon: "check", kind: "primary", key: "Enter", title}). `label` only: icon button. */
export function button(text, onclick, { icon: name, kind = "", key, title, label, disabled, ...more } = {}) {
  return el(
    "button.btn",
    { type: "button", class: kind, onclick, title, disabled, aria: { label: label ?? null }, ...more },
    name && icon(name),
    text && el("span", {}, text),
    key && el("kbd", {}, key),
  );
}

/** ".98" as "98 %"; tiny ones as "<0.1 %". */
export function percent(p, digits = 0) {
  if (p === null || p === undefined) return "–";
  const value = p * 100;
  if (value < 0.1) return "<0.1 %";
  if (value < 9.95 && digits === 0) return `${value.toFixed(1)} %`;
  if (value > 99 && value < 100 && digits === 0) return `${(Math.floor(value * 10) / 10).toFixed(1)} %`;
  return `${value.toFixed(digits)} %`;
}

export const count = (n, one, many = `${one}s`) => `${Number(n).toLocaleString("en")} ${n === 1 ? one : many}`;

/** Last part of a path. */
export const baseName = (path) => String(path).split(/[\\/]/).pop();

/**
 * Horizontal bars of probabilities, most probable first, on one scale from 0 to 1.
 * items: {label, value, kind, key, onclick}; kind: "seen" | "unseen" | "support" | "none" colors it.
 */
export function bars(items, { onchoose = null } = {}) {
  return el(
    "ol.bars",
    {},
    items.map((item) => {
      const inside = [
        item.key ? el("kbd", {}, item.key) : null,
        el("span.bar-label", { title: item.label }, item.label),
        el("span.bar-track", { aria: { hidden: "true" } }, barFill(item.value, item.kind)),
        el("span.bar-value", {}, percent(item.value)),
      ];
      if (!onchoose) return el("li.bar", {}, inside);
      return el("li", {}, el("button.bar", { type: "button", onclick: () => onchoose(item) }, inside));
    }),
  );
}

function barFill(value, kind = "") {
  const share = Math.min(1, Math.max(0, value ?? 0));
  return el("span.bar-fill", { class: kind, style: { width: `${(share * 100).toFixed(2)}%` } });
}

/** A small meter with a name: meter("p(unseen)", .12, {kind: "unseen", title}). */
export function meter(name, value, { kind = "", title } = {}) {
  return el(
    "span.meter",
    { title },
    el("span.meter-name", {}, name),
    el("span.bar-track", { aria: { hidden: "true" } }, barFill(value, kind)),
    el("span.bar-value", {}, percent(value)),
  );
}

/** A line of progress; update it by `.set(done, total, text)`. */
export function progressBar(text = "") {
  const label = el("span.progress-text", {}, text);
  const inner = el("span.progress-fill");
  const track = el("span.progress-track", { role: "progressbar", aria: { valuemin: "0", valuemax: "100", label: text || "Progress" } }, inner);
  const node = el("div.progress", {}, label, track);
  node.set = (done, total, said) => {
    if (said !== undefined) label.textContent = said;
    const share = total ? Math.min(1, done / total) : null;
    track.classList.toggle("busy", share === null);
    inner.style.setProperty("width", share === null ? "30%" : `${(share * 100).toFixed(1)}%`);
    if (share === null) track.removeAttribute("aria-valuenow");
    else track.setAttribute("aria-valuenow", String(Math.round(share * 100)));
  };
  node.set(0, null);
  return node;
}

/** An error in its four parts: what, expected, got, the fix. */
export function errorBox(error, { onretry = null } = {}) {
  const line = (name, value) => value && [el("dt", {}, name), el("dd", {}, value)];
  return el(
    "div.error",
    { role: "alert" },
    icon("alert"),
    el(
      "div.error-body",
      {},
      el("p.error-what", {}, sentence(error.what ?? error.message)),
      el("dl", {}, line("expected", error.expected), line("got", error.got), line("fix", error.fix)),
      onretry && button("Try again", onretry, { kind: "small" }),
    ),
  );
}

export const sentence = (text) => String(text).charAt(0).toUpperCase() + String(text).slice(1);

/** What to do where there is nothing yet. */
export function emptyState({ icon: name, title, text, actions = [] }) {
  return el(
    "div.empty",
    {},
    name && el("div.empty-icon", {}, icon(name)),
    el("h2", {}, title),
    text && el("p", {}, text),
    actions.length ? el("div.row.center", {}, actions) : null,
  );
}

/** Say something for a few seconds: toast("Labeled", {action: "Undo", onaction: f, kind: "error"}). */
export function toast(text, { kind = "", action, onaction, detail, ms = kind === "error" ? 12000 : 6000 } = {}) {
  const home = document.getElementById("toasts");
  const close = () => node.remove();
  const node = el(
    "div.toast",
    { class: kind },
    el("div.toast-text", {}, el("span", {}, text), detail && el("span.muted", {}, detail)),
    action && button(action, () => (close(), onaction()), { kind: "small" }),
    button("", close, { icon: "close", kind: "ghost small", label: "Dismiss" }),
  );
  home.append(node);
  while (home.children.length > 4) home.firstChild.remove();
  if (ms) setTimeout(close, ms);
  return { close };
}

/** An error as a toast: what, and the fix under it. */
export const toastError = (error) =>
  error.name === "AbortError" || toast(sentence(error.what ?? error.message), { kind: "error", detail: error.fix ?? error.got });

/** A dialog that closes by Esc, by its button and by a click beside it. Resolves by `node.close(value)`. */
export function dialog(title, body, { actions = [], wide = false, onclose = () => {} } = {}) {
  const close = (value) => {
    if (!node.open) return;
    node.result = value ?? null;
    node.close();
  };
  const node = el(
    "dialog.dialog",
    { class: wide ? "wide" : "", aria: { label: title } },
    el("header.dialog-head", {}, el("h2", {}, title), button("", () => close(null), { icon: "close", kind: "ghost small", label: "Close" })),
    el("div.dialog-body", {}, body),
    actions.length ? el("footer.dialog-foot", {}, actions) : null,
  );
  node.addEventListener("close", () => (node.remove(), onclose(node.result ?? null)));
  node.addEventListener("mousedown", (event) => event.target === node && close(null));
  document.body.append(node);
  node.showModal();
  return { node, close };
}

/** Ask before something that cannot be taken back; resolves to true or false. */
export function confirm(title, text, { yes = "Yes", danger = false } = {}) {
  return new Promise((done) => {
    const box = dialog(title, el("p", {}, text), {
      onclose: (value) => done(value === true),
      actions: [
        button("Cancel", () => box.close(false)),
        button(yes, () => box.close(true), { kind: danger ? "danger" : "primary", autofocus: true }),
      ],
    });
  });
}

let ids = 0;
const freshId = (prefix) => `${prefix}-${++ids}`;

/**
 * A text box that offers names while one types (ARIA combobox).
 * @param {{names: () => (string | {name: string, kind?: string, hint?: string})[], onchoose: (name: string) => void,
 *   placeholder?: string, label: string, allowNew?: string | false, oncancel?: () => void, limit?: number, openOnFocus?: boolean}} options
 *   allowNew: words before a name that is not among them ("New class"), or false.
 * Gives a node with `.input`, `.focus()` and `.clear()`.
 */
export function typeahead({ names, onchoose, placeholder = "", label, allowNew = false, oncancel, limit = 8, openOnFocus = true }) {
  const listId = freshId("list");
  const list = el("ul.options", { id: listId, role: "listbox", hidden: true, aria: { label } });
  const input = el("input.input", {
    type: "text", placeholder, role: "combobox", autocomplete: "off", spellcheck: "false", maxlength: "200",
    aria: { label, expanded: "false", controls: listId, autocomplete: "list" },
  });
  let shown = [];
  let at = -1;
  const close = () => {
    list.hidden = true;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
    at = -1;
  };
  const mark = (index) => {
    at = shown.length ? (index + shown.length) % shown.length : -1;
    [...list.children].forEach((node, i) => node.setAttribute("aria-selected", String(i === at)));
    const active = list.children[at];
    if (active) {
      input.setAttribute("aria-activedescendant", active.id);
      active.scrollIntoView({ block: "nearest" });
    }
  };
  const choose = (name) => {
    close();
    input.value = "";
    onchoose(name);
  };
  const update = (asked = false) => {
    const typed = input.value.trim();
    shown = matches(names(), typed, limit);
    if (allowNew && typed && !shown.some((o) => o.name.toLowerCase() === typed.toLowerCase())) {
      shown.push({ name: typed, isNew: true });
    }
    fill(list, shown.map((option) => {
      const node = el(
        "li.option",
        { role: "option", id: freshId("option"), aria: { selected: "false" }, onmousedown: (e) => (e.preventDefault(), choose(option.name)) },
        option.kind ? el("span.dot", { class: option.kind, aria: { hidden: "true" } }) : null,
        option.isNew ? el("span.muted", {}, `${allowNew}: `) : null,
        el("span.option-name", {}, option.name),
        option.hint ? el("span.muted", {}, option.hint) : null,
      );
      return node;
    }));
    list.hidden = shown.length === 0 || (!openOnFocus && !typed && asked !== true);
    input.setAttribute("aria-expanded", String(!list.hidden));
    mark(typed && shown.length ? 0 : -1);
  };
  input.addEventListener("input", update);
  if (openOnFocus) input.addEventListener("focus", update);
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (list.hidden) update(true);
      mark(at < 0 && event.key === "ArrowUp" ? shown.length - 1 : at + (event.key === "ArrowDown" ? 1 : -1));
    } else if (event.key === "Enter") {
      event.preventDefault();
      event.stopPropagation();
      if (shown[at]) choose(shown[at].name);
    } else if (event.key === "Escape") {
      if (!list.hidden || oncancel) (event.preventDefault(), event.stopPropagation());
      if (!list.hidden && input.value) (input.value = ""), update();
      else (close(), oncancel?.());
    }
  });
  const node = el("div.typeahead", {}, input, list);
  return Object.assign(node, { input, focus: () => input.focus(), clear: () => ((input.value = ""), close()) });
}

/** Names that hold what was typed: at the start first, then at a word's start, then anywhere. */
export function matches(names, typed, limit = 8) {
  const wanted = typed.toLowerCase();
  const rank = (name) => {
    const place = name.toLowerCase().indexOf(wanted);
    if (place <= 0) return place;
    return /[\s_-]/.test(name[place - 1]) ? 1 : 2;
  };
  return names
    .map((one) => (typeof one === "string" ? { name: one } : one))
    .map((one) => [rank(one.name), one])
    .filter(([r]) => r >= 0)
    .sort(([a], [b]) => a - b)
    .slice(0, limit)
    .map(([, one]) => one);
}

/** Make a node take dropped files: class "over" while they hover. */
export function takeDrops(node, ondrop) {
  let depth = 0;
  const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  const set = (n) => node.classList.toggle("over", (depth = Math.max(0, n)) > 0);
  node.addEventListener("dragenter", (e) => hasFiles(e) && (e.preventDefault(), set(depth + 1)));
  node.addEventListener("dragover", (e) => hasFiles(e) && e.preventDefault());
  node.addEventListener("dragleave", (e) => hasFiles(e) && set(depth - 1));
  node.addEventListener("drop", (e) => {
    if (!hasFiles(e)) return;
    e.preventDefault();
    e.stopPropagation();
    set(0);
    ondrop([...e.dataTransfer.files]);
  });
}

/** A hidden file input with a button: filePicker("Choose photos", (files) => ..., {kind: "primary"}). */
export function filePicker(text, onfiles, { multiple = true, ...more } = {}) {
  const input = el("input.visually-hidden", {
    type: "file", accept: "image/*", multiple, tabindex: "-1", aria: { hidden: "true" },
    onchange: () => {
      const files = [...input.files];
      input.value = "";
      if (files.length) onfiles(files);
    },
  });
  const node = button(text, () => input.click(), { icon: "upload", ...more });
  return el("span.picker", {}, node, input);
}

/** A photo by its content. Shows its name where it cannot be shown. */
export function photo(src, alt, props = {}) {
  const image = el("img", { src, alt, loading: "lazy", decoding: "async", draggable: "false", ...props });
  image.addEventListener("error", () => {
    image.classList.add("broken");
    if (src?.startsWith("/v1/photos/")) sayWhy(image, src);
  });
  return image;
}

/** Draw in the place of a photo why it cannot be shown. */
async function sayWhy(image, src) {
  let said;
  try {
    const response = await fetch(src, { credentials: "same-origin" });
    if (response.ok) return;
    said = (await response.json()).error;
  } catch {
    return; // The server is away: it is said where somebody asks it for more than a photo.
  }
  image.title = sentence([said.what, said.got].filter(Boolean).join(": "));
  image.alt = [image.alt, image.title].filter(Boolean).join(": ");
  image.addEventListener("load", () => image.classList.remove("broken"), { once: true });
  image.src = `data:image/svg+xml,${encodeURIComponent(drawn(said.got ?? said.what))}`;
}

/** A text as an image, in lines of about 24 letters. */
function drawn(text) {
  const lines = sentence(text).match(/\S{24}|\S.{0,23}(?=\s|$)/g)?.slice(0, 7) ?? [];
  const svg = document.createElementNS(SVG, "svg");
  for (const [k, v] of Object.entries({ xmlns: SVG, viewBox: "0 0 320 320", width: 320, height: 320, fill: "#808080" })) svg.setAttribute(k, v);
  const words = document.createElementNS(SVG, "text");
  for (const [k, v] of Object.entries({ "text-anchor": "middle", "font-family": "system-ui, sans-serif", "font-size": 24 })) words.setAttribute(k, v);
  lines.forEach((line, i) => {
    const part = document.createElementNS(SVG, "tspan");
    part.setAttribute("x", 160);
    part.setAttribute("y", 168 + 32 * (i - (lines.length - 1) / 2));
    part.textContent = line;
    words.append(part);
  });
  svg.append(words);
  return new XMLSerializer().serializeToString(svg);
}

/** Call at most once in `ms`, with the last arguments. */
export function debounce(f, ms) {
  let timer = 0;
  return (...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => f(...args), ms);
  };
}

/** Whether a key belongs to a text box rather than to the page. */
export const isTyping = (event) =>
  event.target instanceof HTMLElement && (event.target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName));

/** Who decided, in plain words. */
export const EXPERTS = {
  head: ["trained head", "The network that was trained on your classes decided."],
  "zero-shot": ["name", "The class's name decided (CLIP, without training)."],
  both: ["head and name agree", "The trained network and the class's name each say the same."],
  "few-shot": ["examples", "The few labeled photos of this class decided; without them the answer would be another."],
  rejected: ["rejected", "Probably none of the classes, at the chosen operating point."],
};
