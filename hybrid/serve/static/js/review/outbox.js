// Decisions on their way to the server, one after the other: sent again while it can't be reached, taken back when asked.

const LONGEST_WAIT = 20_000;
const AGAIN = new Set([0, 429, 502, 503, 504]);

/**
 * @typedef {{labels: object[], ids: number[], state: "waiting"|"sending"|"saved"|"failed"|"undone"}} Entry
 */
export class Outbox {
  /**
   * @param {object} server
   * @param {(labels: object[]) => Promise<{ids: number[]}>} server.post
   * @param {(ids: number[]) => Promise<object>} server.undo
   * @param {(outbox: Outbox) => void} server.onChange  After each change of what waits.
   * @param {(entry: Entry, answer: object) => void} server.onSaved
   * @param {(label: object, conflict: object) => void} server.onConflict  Somebody else was faster.
   * @param {(entry: Entry, error: Error) => void} server.onFailure
   */
  constructor(server) {
    this.server = server;
    /** @type {{kind: "labels"|"undo", entry: Entry}[]} */
    this.jobs = [];
    this.tries = 0;
    this.running = false;
    this.wake = null;
  }

  get waiting() {
    return this.jobs.length;
  }

  /** Whether the server could not be reached at the last try. */
  get stuck() {
    return this.tries > 0;
  }

  /** @returns {Entry} */
  add(labels) {
    const entry = { labels, ids: [], state: "waiting" };
    this.#push({ kind: "labels", entry });
    return entry;
  }

  /** Take an entry back: it isn't sent at all where it still waits. */
  undo(entry) {
    const waits = this.jobs.findIndex((job) => job.entry === entry && entry.state === "waiting");
    if (waits >= 0) {
      this.jobs.splice(waits, 1);
      entry.state = "undone";
      this.server.onChange(this);
    } else this.#push({ kind: "undo", entry });
  }

  /** Try again now. */
  poke() {
    this.wake?.();
  }

  #push(job) {
    this.jobs.push(job);
    this.server.onChange(this);
    if (!this.running) this.#run();
  }

  async #run() {
    this.running = true;
    while (this.jobs.length > 0) {
      const job = this.jobs[0];
      try {
        if (job.kind === "labels") await this.#send(job.entry);
        else await this.#takeBack(job.entry);
        this.tries = 0;
        this.jobs.splice(this.jobs.indexOf(job), 1);
      } catch (error) {
        if (AGAIN.has(error.status)) await this.#pause();
        else this.#fail(job, error);
      }
      this.server.onChange(this);
    }
    this.running = false;
  }

  async #send(entry) {
    entry.state = "sending";
    while (entry.labels.length > 0) {
      try {
        const answer = await this.server.post(entry.labels);
        entry.ids.push(...answer.ids);
        entry.state = "saved";
        this.server.onSaved(entry, answer);
        return;
      } catch (error) {
        if (error.status !== 409 || !error.conflicts?.length) throw error;
        this.#split(entry, error.conflicts);
      }
    }
    entry.state = "saved";
  }

  /** Keep the labels that nobody disputes. One that is in force already was stored by a try whose answer got lost. */
  #split(entry, conflicts) {
    const by = new Map(conflicts.map((conflict) => [conflict.sha256, conflict]));
    for (const label of entry.labels) {
      const conflict = by.get(label.sha256);
      if (conflict && conflict.label !== label.label) this.server.onConflict(label, conflict);
    }
    entry.labels = entry.labels.filter((label) => !by.has(label.sha256));
  }

  async #takeBack(entry) {
    if (entry.ids.length > 0) await this.server.undo(entry.ids);
    entry.state = "undone";
  }

  #fail(job, error) {
    this.tries = 0;
    this.jobs.splice(this.jobs.indexOf(job), 1);
    if (job.kind === "labels") job.entry.state = "failed";
    this.server.onFailure(job.kind === "labels" ? job.entry : null, error);
  }

  async #pause() {
    this.tries += 1;
    const wait = Math.min(LONGEST_WAIT, 500 * 2 ** (this.tries - 1));
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, wait);
      this.wake = () => (clearTimeout(timer), resolve());
      this.server.onChange(this);
    });
    this.wake = null;
  }
}
