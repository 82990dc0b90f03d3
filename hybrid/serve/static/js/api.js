// Client of the REST interface under /v1. Every failure is an ApiError with what, expected, got and fix.

export class ApiError extends Error {
  constructor(status, body) {
    super(body.what || "the request failed");
    this.status = status;
    this.what = this.message;
    this.expected = body.expected ?? null;
    this.got = body.got ?? null;
    this.fix = body.fix ?? null;
    this.type = body.type ?? null;
    this.conflicts = [];
  }
}

// Told of each revision that an answer names: "the classifier was swapped".
let onRevision = () => {};
export const watchRevision = (listener) => (onRevision = listener);

const WAITS = [500, 1000, 2000, 4000];
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

async function fetchOnce(method, path, options) {
  try {
    return await fetch(path, { method, credentials: "same-origin", cache: "no-store", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, {
      what: "the server does not answer",
      got: error.message,
      fix: "look whether `hybrid serve` still runs, then try again",
    });
  }
}

async function failure(response) {
  let body = null;
  try {
    body = await response.json();
  } catch {
    // A proxy's page, or nothing.
  }
  const said = body?.error ?? {
    what: `the server answered ${response.status} ${response.statusText}`.trim(),
    got: typeof body?.detail === "string" ? body.detail : null,
    fix: response.status === 413 ? "send fewer or smaller photos" : null,
  };
  const error = new ApiError(response.status, said);
  error.conflicts = body?.conflicts ?? [];
  return error;
}

/** One request; a busy server (503) is asked again a few times. */
export async function request(method, path, { json, form, signal, raw = false, retry = true } = {}) {
  const options = { signal, headers: { Accept: raw ? "*/*" : "application/json" } };
  if (form) options.body = form;
  if (json !== undefined) {
    options.body = JSON.stringify(json);
    options.headers["Content-Type"] = "application/json";
  }
  for (let tried = 0; ; tried++) {
    const response = await fetchOnce(method, path, options);
    if (response.status === 503 && retry && tried < WAITS.length) {
      const asked = Number(response.headers.get("Retry-After")) * 1000;
      await pause(Math.min(asked || WAITS[tried], 8000));
      continue;
    }
    if (!response.ok) throw await failure(response);
    if (raw) return response;
    const body = response.status === 204 ? {} : await response.json();
    if (typeof body.revision === "string") onRevision(body.revision);
    return body;
  }
}

/** `?a=1&b=2` of the given values; null, undefined and "" are left out. */
export function query(values) {
  const given = Object.entries(values).filter(([, v]) => v !== null && v !== undefined && v !== "");
  return given.length ? "?" + new URLSearchParams(given) : "";
}

/** FormData of the given values: lists repeat the field; null and undefined are left out. */
export function form(values) {
  const data = new FormData();
  for (const [name, value] of Object.entries(values)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one === null || one === undefined) continue;
      if (one instanceof Blob) data.append(name, one, one.name || "photo");
      else data.append(name, String(one));
    }
  }
  return data;
}

const part = encodeURIComponent;

export const api = {
  run: () => request("GET", "/v1/run"),
  classes: () => request("GET", "/v1/classes"),
  /** @param {object} values images (File[]), sha256 (string[]), prompts (string, JSON), prior, reject, coverage, top_k, neighbors */
  predict: (values, signal) => request("POST", "/v1/predict", { form: form(values), signal }),
  explain: (values, signal) => request("POST", "/v1/explain", { form: form(values), signal }),
  addClass: (values) => request("POST", "/v1/classes", { form: form(values), retry: false }),
  removeClass: (name) => request("DELETE", `/v1/classes/${part(name)}`, { retry: false }),
  searchText: (values, signal) => request("GET", "/v1/search" + query(values), { signal }),
  searchPhoto: (values, signal) => request("POST", "/v1/search", { form: form(values), signal }),
  queue: (values, signal) => request("GET", "/v1/queue" + query(values), { signal }),
  /** @param {{sha256: string, label: string, was: ?string, why: string}[]} labels */
  label: (labels, by) => request("POST", "/v1/labels", { json: by ? { labels, by } : { labels }, retry: false }),
  undo: (what) => request("POST", "/v1/labels/undo", { json: what, retry: false }),
  labels: (values) => request("GET", "/v1/labels" + query(values)),
  progress: () => request("GET", "/v1/progress"),
  refit: (what, more = {}) => request("POST", "/v1/refit", { json: { what, ...more }, retry: false }),
  jobs: () => request("GET", "/v1/jobs"),
  job: (id) => request("GET", `/v1/jobs/${part(id)}`),
  stopJob: (id) => request("DELETE", `/v1/jobs/${part(id)}`),
  report: () => request("GET", "/v1/report", { raw: true }),
};

/** Address of a photo, w pixels wide at most. */
export const photoUrl = (sha256, w = 320) => `/v1/photos/${part(sha256)}?w=${w}`;

/** Follow a job to its end; `onUpdate(job)` at each look. Resolves with the job that ended well, else throws. */
export async function followJob(id, onUpdate = () => {}, signal = null) {
  for (let wait = 200; ; wait = Math.min(wait * 1.5, 1500)) {
    const job = await api.job(id);
    if (typeof job.revision === "string") onRevision(job.revision);
    onUpdate(job);
    if (job.state === "done") return job;
    if (job.state === "stopped") throw new ApiError(0, { what: `the job was stopped: ${job.what}` });
    if (job.state === "failed") {
      const said = typeof job.error === "string" ? { what: job.error } : job.error;
      throw new ApiError(0, said ?? { what: `the job failed: ${job.what}` });
    }
    if (signal?.aborted) throw new DOMException("left", "AbortError");
    await pause(wait);
  }
}
