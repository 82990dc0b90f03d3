// What the labels are worth: figures on the photos drawn at random, a refit with its progress, and what it changed.

import { api, followJob, photoUrl } from "../api.js";
import { baseName, button, count, el, errorBox, fill, percent, photo, progressBar } from "../ui.js";

// A share of none is none; a probability that is shown as 0 would only be too small to show.
const share = (value) => (value < 1e-9 ? "0 %" : percent(value));

const KINDS = [
  ["classes", "Classes from examples", "At once: new classes and examples count from the next answer on."],
  ["gate", "Gate", "Seconds: how much to trust the head, the names and the examples."],
  ["head", "Head", "Minutes: train the network on all labels, then the gate."],
];
const SHOWN = 24;

/** The name that goes with this browser's labels, if somebody gave one. */
export function reviewer() {
  try {
    return localStorage.getItem("hybrid-reviewer") || undefined;
  } catch {
    return undefined; // Storage may be forbidden.
  }
}

function rename(name) {
  try {
    localStorage.setItem("hybrid-reviewer", name);
  } catch {
    // Then labels stay without a name.
  }
}

/** An interval from 0 to 100 % with its middle. */
function intervalPlot({ accuracy, low, high }, kind) {
  const share = (value) => `${(value * 100).toFixed(2)}%`;
  return el(
    "span.interval",
    { class: kind, aria: { hidden: "true" } },
    el("span.interval-range", { style: { left: share(low), width: share(high - low) } }),
    el("span.interval-middle", { style: { left: share(accuracy) } }),
  );
}

function figureRow(name, figures, kind, missing) {
  if (!figures) return [el("dt", {}, name), el("dd.muted.figure-none", {}, missing)];
  const { accuracy, low, high, ece, images, right } = figures;
  const of = images === undefined ? null : el("span.muted.num", {}, `${right} of ${images}`);
  return [
    el("dt", {}, name),
    el(
      "dd.figure",
      {},
      intervalPlot(figures, kind),
      el("strong.num", {}, share(accuracy)),
      el("span.muted.num", { title: "95 % interval (Wilson)" }, `${share(low)} to ${share(high)}`),
      of,
      el("span.muted.num", { title: "Expected calibration error: how far the probabilities are from how often the answers are right" }, `ECE ${ece.toFixed(3)}`),
    ),
  ];
}

export class Gains {
  /**
   * @param {object} does
   * @param {() => Promise<{item: object, before: string}[]>} does.renew  Take the queue anew; gives changed answers.
   * @param {(sha256: string) => void} does.open
   * @param {() => object} does.run
   */
  constructor(does) {
    this.does = does;
    this.job = null;
    this.leave = null;
    this.figures = el("div.gains-figures", { role: "region", aria: { label: "What your labels changed" } });
    this.what = el(
      "select.input",
      { id: "refit-what", aria: { label: "What to refit" }, onchange: () => this.#explain() },
      KINDS.map(([value, name]) => el("option", { value }, name)),
    );
    this.hint = el("p.small-print");
    this.start = button("Refit", () => this.refit(), { kind: "primary", id: "refit" });
    this.bar = progressBar("");
    this.stop = button("Stop", () => api.stopJob(this.job).catch((error) => this.#say(errorBox(error))), { kind: "small", id: "refit-stop" });
    this.lines = el("details.job-lines", { hidden: true }, el("summary", {}, "What it says"), el("pre", { tabindex: "0" }));
    this.who = el("input.input", {
      type: "text", id: "reviewer", maxlength: "100", autocomplete: "off", placeholder: "Your name",
      aria: { label: "Your name, kept with your labels" }, value: reviewer() ?? "", onchange: () => rename(this.who.value.trim()),
    });
    this.running = el("div.job", { hidden: true }, this.bar, this.stop);
    this.outcome = el("div.outcome", { role: "status", id: "refit-outcome" });
    this.node = el(
      "section.gains.card",
      { aria: { label: "Progress and refit" } },
      this.figures,
      el("div.gains-refit", {}, el("h3", {}, "Learn from the labels"), el("div.row", {}, this.what, this.start), this.hint, this.running, this.lines, el("label.reviewer", {}, el("span.small-print", {}, "Kept with your labels"), this.who)),
      this.outcome,
    );
    this.#explain();
  }

  /** Read the figures anew. */
  async refresh() {
    try {
      const progress = await api.progress();
      this.#drawFigures(progress);
      return progress;
    } catch (error) {
      if (error.name !== "AbortError") fill(this.figures, errorBox(error, { onretry: () => this.refresh() }));
      return null;
    }
  }

  setRun(run) {
    this.node.classList.toggle("locked", Boolean(run?.read_only));
    this.start.disabled = Boolean(run?.read_only) || this.job !== null;
    for (const option of this.what.options) {
      option.disabled = (option.value === "head" && run?.can?.train === false) || (option.value === "gate" && run?.head === null);
    }
  }

  /** Follow a job that runs already, as after a reload of the page. */
  async resume() {
    if (this.job !== null) return;
    const { jobs } = await api.jobs();
    const open = jobs.find((job) => job.state === "running" || job.state === "waiting");
    if (open) await this.#follow(open.id, open.what);
  }

  async refit() {
    const what = this.what.value;
    this.start.disabled = true;
    fill(this.outcome);
    try {
      const { job } = await api.refit(what);
      await this.#follow(job, what);
    } catch (error) {
      this.start.disabled = false;
      this.#say(errorBox(error));
    }
  }

  async #follow(id, what) {
    this.job = id;
    this.running.hidden = false;
    this.start.disabled = true;
    try {
      await followJob(id, (job) => this.#drawJob(job));
      await this.#tell(what);
    } catch (error) {
      if (error.name !== "AbortError") this.#say(errorBox(error));
    } finally {
      this.job = null;
      this.running.hidden = true;
      this.setRun(this.does.run());
    }
  }

  #drawJob(job) {
    this.bar.set(job.done ?? 0, job.total || null, [job.what, job.step].filter(Boolean).join(": "));
    this.lines.hidden = !job.lines?.length;
    this.lines.lastChild.textContent = (job.lines ?? []).slice(-200).join("\n");
  }

  /** What the refit changed: answers in the queue, and the figures. */
  async #tell(what) {
    const [changed] = await Promise.all([this.does.renew(), this.refresh()]);
    const more = changed.length - SHOWN;
    this.#say(
      el("h3", {}, `What changed (${KINDS.find(([value]) => value === what)?.[1].toLowerCase() ?? what})`),
      el("p.outcome-said", {}, changed.length ? `${count(changed.length, "answer")} in the queue changed:` : "No answer in the queue changed; probabilities may differ."),
      el("ul.changes", {}, changed.slice(0, SHOWN).map((one) => this.#change(one))),
      more > 0 && el("p.muted", {}, `and ${more.toLocaleString("en")} more`),
    );
    this.outcome.scrollIntoView({ block: "nearest" });
  }

  #change({ item, before }) {
    return el(
      "li",
      {},
      el(
        "button.change",
        { type: "button", onclick: () => this.does.open(item.sha256), title: item.path },
        photo(photoUrl(item.sha256, 320), baseName(item.path)),
        el("span.change-text", {}, el("s.muted.name", {}, before), el("span.name", {}, item.prediction.label)),
      ),
    );
  }

  #say(...children) {
    fill(this.outcome, children);
  }

  #explain() {
    this.hint.textContent = KINDS.find(([value]) => value === this.what.value)[2];
  }

  #drawFigures({ labels, random, before, after, sources = null }) {
    const none = "none yet: label photos drawn at random after a refit";
    const some = before || after;
    fill(
      this.figures,
      el("h3", {}, "What your labels changed"),
      el("p.muted", {}, `${count(labels, "label")}, ${Number(random).toLocaleString("en")} of them on photos drawn at random. `, some ? "Accuracy on those, with its 95 % interval:" : "Label a few of those that had no label, and the accuracy on them stands here, before and after a refit."),
      sources && el("p.muted", {}, `Of ${count(sources.checked, "label")} of the sources that were checked there, ${sources.wrong} ${sources.wrong === 1 ? "was" : "were"} wrong (${share(sources.wrong / sources.checked)}; 95 % interval ${share(sources.low)} to ${share(sources.high)}).`),
      some && el("dl.figures", {}, figureRow("Before", before, "before", "none"), figureRow("Now", after, "after", none)),
    );
  }
}
