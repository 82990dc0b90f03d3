// The queue of photos as a reviewer works it off: no DOM, no network.

/**
 * @typedef {{sha256: string, path: string, label: string|null, drawn: string, score: number, prediction: object}} Item
 * @typedef {{kind: "labels"|"skip", sha256: string, labels: {sha256: string, label: string, was: string|null,
 *   why: string}[]}} Step  One thing the reviewer did, which can be undone.
 */

export class Queue {
  constructor() {
    /** @type {Item[]} */
    this.items = [];
    this.position = 0;
    /** @type {Map<string, string>} Labels given on this page, by content. */
    this.given = new Map();
    /** @type {Set<string>} */
    this.skipped = new Set();
    /** @type {Step[]} */
    this.steps = [];
    /** @type {Map<string, number>} */
    this.places = new Map();
    /** @type {Map<string, string|null>} Labels in force that the page learned of after the queue. */
    this.learned = new Map();
  }

  /** The photo in front of the reviewer; null at the end of the queue. */
  get current() {
    return this.items[this.position] ?? null;
  }

  /** How many photos wait for a decision. */
  get left() {
    let left = 0;
    for (const { sha256 } of this.items) if (!this.isDone(sha256)) left += 1;
    return left;
  }

  isDone(sha256) {
    return this.given.has(sha256) || this.skipped.has(sha256);
  }

  item(sha256) {
    return this.items[this.places.get(sha256)] ?? null;
  }

  /** The label in force, as far as this page knows. */
  labelOf(sha256) {
    if (this.given.has(sha256)) return this.given.get(sha256);
    return this.learned.has(sha256) ? this.learned.get(sha256) : this.item(sha256)?.label ?? null;
  }

  /** Somebody says which label is in force. */
  learn(sha256, label) {
    this.learned.set(sha256, label);
  }

  /** Begin with another list of photos; what was done here stays and can be undone. */
  restart() {
    this.items = [];
    this.places.clear();
    this.skipped.clear();
    this.position = 0;
  }

  /** Take more of the same queue: photos that are here keep their place. @param {Item[]} items */
  append(items) {
    for (const item of items) {
      if (this.places.has(item.sha256) || this.given.has(item.sha256)) continue;
      this.places.set(item.sha256, this.items.length);
      this.items.push(item);
      this.learned.delete(item.sha256);
    }
  }

  /**
   * Take the queue anew, as another classifier orders it: what lies behind the reviewer, and the photo in front, keep
   * their places. Gives the photos whose answer is another one than before.
   * @param {Item[]} items
   * @returns {{item: Item, before: string}[]}
   */
  renew(items) {
    const fresh = new Map(items.map((item) => [item.sha256, item]));
    const changed = [];
    for (const old of this.items) {
      const item = fresh.get(old.sha256);
      if (item && item.prediction.label !== old.prediction.label) changed.push({ item, before: old.prediction.label });
    }
    const kept = this.items.slice(0, this.position + 1).map((old) => {
      const item = fresh.get(old.sha256);
      if (item) this.learned.delete(item.sha256);
      return item ? { ...item, drawn: old.drawn } : old;
    });
    const position = this.position;
    const skipped = new Set(this.skipped);
    this.restart();
    for (const item of kept) {
      this.places.set(item.sha256, this.items.length);
      this.items.push(item);
    }
    this.append(items);
    this.position = position;
    this.skipped = skipped;
    return changed;
  }

  /** The next `count` photos that wait for a decision, after the current one. */
  ahead(count) {
    const found = [];
    for (let i = this.position + 1; i < this.items.length && found.length < count; i += 1) {
      if (!this.isDone(this.items[i].sha256)) found.push(this.items[i]);
    }
    return found;
  }

  /** Go back or forth, over what is decided too; the place behind the last photo is the end of the queue. */
  go(step) {
    this.position = Math.max(0, Math.min(this.items.length, this.position + step));
    return this.current;
  }

  goTo(sha256) {
    const place = this.places.get(sha256);
    if (place !== undefined) this.position = place;
    return place !== undefined;
  }

  /** Label the current photo and go on. @returns {Step|null} */
  decide(label) {
    const item = this.current;
    return item && this.decideMany([item.sha256], label, item.drawn);
  }

  /**
   * Label many photos at once, in one step.
   * @param {string[]} hashes
   * @param {string} label
   * @param {string} [why]  Why these were looked at; without it each photo's own reason, but "person" for those drawn
   *   at random: somebody who picks photos from a grid chooses.
   * @returns {Step}
   */
  decideMany(hashes, label, why) {
    const labels = hashes.map((sha256) => {
      const drawn = this.item(sha256)?.drawn ?? "search";
      return { sha256, label, was: this.labelOf(sha256), why: why ?? (drawn === "random" ? "person" : drawn) };
    });
    const step = { kind: "labels", sha256: hashes[0], labels };
    for (const { sha256 } of labels) {
      this.given.set(sha256, label);
      this.skipped.delete(sha256);
    }
    this.steps.push(step);
    this.#advance();
    return step;
  }

  /** Leave the current photo without a decision. */
  skip() {
    const item = this.current;
    if (!item) return null;
    const step = { kind: "skip", sha256: item.sha256, labels: [] };
    this.skipped.add(item.sha256);
    this.steps.push(step);
    this.#advance();
    return step;
  }

  /** Take the last step back. @returns {Step|null} */
  undo() {
    const step = this.steps.pop();
    if (!step) return null;
    if (step.kind === "skip") this.skipped.delete(step.sha256);
    for (const { sha256, was } of step.labels) this.#restore(sha256, was);
    this.goTo(step.sha256);
    return step;
  }

  /** A label could not be stored: `inForce` holds instead. */
  revert(sha256, inForce) {
    this.given.delete(sha256);
    this.learn(sha256, inForce);
    for (const step of this.steps) step.labels = step.labels.filter((label) => label.sha256 !== sha256);
    this.steps = this.steps.filter((step) => step.kind === "skip" || step.labels.length > 0);
  }

  #restore(sha256, was) {
    this.given.delete(sha256);
    if (was !== this.labelOf(sha256)) this.given.set(sha256, was);
  }

  #advance() {
    let next = this.position;
    while (next < this.items.length && this.isDone(this.items[next].sha256)) next += 1;
    this.position = next;
  }
}
