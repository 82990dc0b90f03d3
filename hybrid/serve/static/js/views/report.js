// Report: the run's evaluation page, in a frame that may run its own script and nothing else; or an offer to evaluate.

import { api, followJob } from "../api.js";
import { button, el, emptyState, errorBox, fill, progressBar, sentence, toastError } from "../ui.js";

export function create(ctx) {
  return new ReportView(ctx);
}

class ReportView {
  #job = null;

  constructor(ctx) {
    this.ctx = ctx;
    this.body = el("div.report-body");
    this.again = button("Evaluate again", () => this.evaluate(), { icon: "report", hidden: true });
    this.open = el("a.btn.ghost", { href: "/v1/report", target: "_blank", rel: "noopener", hidden: true }, "Open alone");
    this.node = el("section.page.full.report", { aria: { label: "Report" } },
      el("header.page-head", {}, el("h1", {}, "Report"), this.open, this.again), this.body);
  }

  async show() {
    if (this.#job) return;
    try {
      await api.report();
      if (!this.body.querySelector("iframe")) this.#frame();
    } catch (error) {
      this.#without(error);
    }
  }

  #frame() {
    fill(this.body, el("iframe.report-frame.card", { src: "/v1/report", sandbox: "allow-scripts", title: "Evaluation of this run" }));
    this.#buttons(true);
  }

  #buttons(there) {
    this.open.hidden = !there;
    this.again.hidden = !there || Boolean(this.ctx.run?.read_only);
  }

  #without(error) {
    this.#buttons(false);
    if (error.status !== 404) return fill(this.body, errorBox(error, { onretry: () => this.show() }));
    const readOnly = this.ctx.run?.read_only;
    fill(this.body, emptyState({
      icon: "report", title: "No evaluation yet",
      text: readOnly
        ? `This server is read-only. ${sentence(error.fix ?? "run `hybrid evaluate` with --report")}.`
        : "Measure this run on the labeled photos that it was not trained on: accuracy, calibration, confusions.",
      actions: readOnly ? [] : [button("Evaluate", () => this.evaluate(), { kind: "primary", icon: "report" })],
    }));
  }

  async evaluate() {
    const bar = progressBar("Evaluating …");
    const lines = el("pre.evaluating-lines.small-print");
    this.#buttons(false);
    fill(this.body, el("div.card.pad.stack.evaluating", {}, el("h2", {}, "Evaluating"), bar, lines, el("div", {}, button("Stop", () => this.#job && api.stopJob(this.#job).catch(toastError), { kind: "small" }))));
    try {
      const { job } = await api.refit("evaluate");
      this.#job = job;
      await followJob(job, (now) => {
        bar.set(now.done ?? 0, now.total ?? null, sentence(now.step || now.state));
        lines.textContent = (now.lines ?? []).slice(-6).join("\n");
      });
      this.#frame();
    } catch (error) {
      fill(this.body, errorBox(error, { onretry: () => this.evaluate() }));
    }
    this.#job = null;
  }
}
