// The next photos, loaded and decoded before they are asked for: the element itself is kept, so none is fetched twice.

import { baseName, photo } from "../ui.js";
import { photoUrl } from "../api.js";

const WIDTH = 1280;

export class Prefetch {
  constructor(ahead = 6) {
    this.ahead = ahead;
    /** @type {Map<string, HTMLImageElement>} */
    this.images = new Map();
  }

  /** The photo as an element: at once where it was loaded ahead. */
  get({ sha256, path }) {
    if (!this.images.has(sha256)) {
      const image = photo(photoUrl(sha256, WIDTH), baseName(path), { loading: "eager", decoding: "sync", class: "stage-image" });
      image.decode().catch(() => {});
      this.images.set(sha256, image);
    }
    return this.images.get(sha256);
  }

  /** Load these, and forget all others. */
  keep(items) {
    const wanted = new Set(items.map((item) => item.sha256));
    for (const sha256 of this.images.keys()) if (!wanted.has(sha256)) this.images.delete(sha256);
    for (const item of items) this.get(item);
  }
}
