// One photo, large, with what the classifier says of it and all ways to decide.

import { EXPERTS, NONE, bars, baseName, button, el, fill, percent, typeahead } from "../ui.js";
import { drawnMark } from "./marks.js";
import { Prefetch } from "./prefetch.js";

/** First the classes that the answer holds for likely, then all others. */
function likelyFirst(names, item) {
  const place = new Map((item?.prediction.top ?? []).map((one, i) => [one.label, i]));
  const rank = ({ name }) => place.get(name) ?? place.size;
  return [...names].sort((a, b) => rank(a) - rank(b));
}

export class Stage {
  /**
   * @param {object} does
   * @param {(label: string) => void} does.decide
   * @param {() => void} does.skip
   * @param {() => void} does.undo
   * @param {(item: object) => void} does.alike
   * @param {() => object[]} does.names
   * @param {(name: string) => string} does.kind
   */
  constructor(does) {
    this.does = does;
    this.item = null;
    this.prefetch = new Prefetch();
    this.frame = el("div.stage-frame");
    this.caption = el("figcaption.stage-caption");
    this.facts = el("div.stage-facts");
    this.chart = el("div.stage-bars", { role: "group", aria: { label: "Label the photo as one of the first classes" } });
    this.box = typeahead({
      names: () => likelyFirst(does.names(), this.item),
      onchoose: (name) => (this.box.input.blur(), does.decide(name)),
      placeholder: "Another class, or a new one",
      label: "Label as: type a class",
      allowNew: "New class",
      oncancel: () => this.box.input.blur(),
      limit: 10,
    });
    this.none = button("None of these", () => does.decide(NONE), { key: "n", id: "review-none" });
    this.skip = button("Skip", () => does.skip(), { key: "s", id: "review-skip" });
    this.undo = button("Undo", () => does.undo(), { key: "u", id: "review-undo" });
    this.alike = button("Show alike", () => does.alike(this.item), { icon: "grid", kind: "ghost small", id: "review-alike" });
    this.node = el(
      "div.stage",
      {},
      el("figure.stage-photo.card", {}, this.frame, this.caption),
      el(
        "div.stage-panel.card",
        {},
        this.facts,
        this.chart,
        el("div.stage-type", {}, this.box, el("kbd", { title: "or just begin to type" }, "/")),
        el("div.stage-actions", {}, this.none, this.skip, this.undo),
      ),
    );
  }

  /** Load what comes next. */
  load(items) {
    this.prefetch.keep(items);
  }

  /** @param {object} item @param {{label: ?string, given: boolean, canUndo: boolean, locked: boolean}} state */
  show(item, { label, given, canUndo, locked }) {
    const focused = [...this.chart.querySelectorAll("button")].indexOf(document.activeElement);
    if (item !== this.item) fill(this.frame, this.prefetch.get(item));
    this.item = item;
    this.node.dataset.sha256 = item.sha256;
    fill(
      this.caption,
      el("span.stage-name", { title: item.path }, baseName(item.path)),
      item.drawn === "random" && drawnMark(),
      this.alike,
    );
    fill(this.facts, this.#inForce(label, given), this.#answer(item));
    const top = item.prediction.top.slice(0, 5);
    fill(
      this.chart,
      bars(top.map((one, i) => ({ label: one.label, value: one.probability, kind: this.does.kind(one.label), key: String(i + 1) })), {
        onchoose: (one) => this.does.decide(one.label),
      }),
    );
    const choices = this.chart.querySelectorAll("button");
    choices.forEach((node, i) => {
      node.setAttribute("aria-label", `${top[i].label}, ${percent(top[i].probability)}, key ${i + 1}`);
      if (top[i].label === label) node.setAttribute("aria-current", "true");
    });
    if (focused >= 0) choices[Math.min(focused, choices.length - 1)]?.focus();
    for (const node of [...choices, this.none, this.box.input]) node.disabled = locked;
    this.undo.disabled = !canUndo;
  }

  choose(number) {
    const label = this.item?.prediction.top[number - 1]?.label;
    if (label) this.does.decide(label);
  }

  #inForce(label, given) {
    const said = label === null ? el("span.muted", {}, "no label yet") : el("span.tag.wrap", { class: this.does.kind(label) }, label);
    return el("div.fact", {}, el("span.fact-name", {}, given ? "Your label" : "Label in force"), said);
  }

  #answer({ prediction, label }) {
    const [expert, why] = EXPERTS[prediction.expert] ?? [prediction.expert, ""];
    const differs = label !== null && label !== prediction.label;
    return el(
      "div.fact",
      {},
      el("span.fact-name", {}, differs ? "Answer differs" : "Answer"),
      el("strong.answer.name", {}, prediction.label),
      el("span.muted.num", { title: why }, `${percent(prediction.probability)} · ${expert}`),
    );
  }
}
