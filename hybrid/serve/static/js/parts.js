// Parts that more than one view uses: thumbnails, correcting a label, chips of names, the camera.

import { api, photoUrl } from "./api.js";
import { baseName, button, confirm, dialog, el, errorBox, fill, icon, NONE, photo, sentence, toast, toastError, typeahead } from "./ui.js";

/** When a label of this class is learned: the head learns in trainings alone. */
export const learned = (ctx, label) => (ctx.kind(label) === "seen" ? "The head learns it at the next refit, under Review." : null);

/** A labeled photo of the index, small, with its label under it. */
export function thumb({ sha256, path, label }, { onclick, note, kind } = {}) {
  const name = label ?? "no label";
  const inside = [
    el("span.thumb-photo", {}, photo(photoUrl(sha256, 160), "")),
    el("span.thumb-name", { title: name }, kind && el("span.dot", { class: kind }), el("span", {}, name)),
    note && el("span.thumb-note", {}, note),
  ];
  const title = path ? baseName(path) : null;
  return onclick ? el("button.thumb", { type: "button", onclick, title, aria: { label: `${name}, ${title ?? ""}` } }, inside) : el("div.thumb", { title }, inside);
}

/**
 * Write labels, and offer to take them back. Where somebody else was faster, ask whether to replace.
 * @param {{sha256: string, label: string, was: ?string, why: string}[]} labels
 * @param {{onundone?: () => void, detail?: ?string}} options  detail: said in the place of the server's first note
 * @returns {Promise<?object>} what the server answered; null where it was not done
 */
export async function writeLabels(labels, { onundone = () => {}, detail = null } = {}) {
  let answer;
  try {
    answer = await api.label(labels);
  } catch (error) {
    if (error.status !== 409 || !error.conflicts.length) return toastError(error), null;
    if (!(await replaceThem(error.conflicts))) return null;
    const held = new Map(error.conflicts.map((c) => [c.sha256, c.label ?? null]));
    return writeLabels(labels.map((l) => (held.has(l.sha256) ? { ...l, was: held.get(l.sha256) } : l)), { onundone, detail });
  }
  const undo = async () => {
    try {
      await api.undo({ ids: answer.ids });
      onundone();
      toast("Taken back");
    } catch (error) {
      toastError(error);
    }
  };
  const what = labels.length === 1 ? `Labeled “${labels[0].label}”` : `${labels.length} photos labeled “${labels[0].label}”`;
  const undoable = (answer.ids?.length ?? 0) > 0;
  toast(what, { detail: detail ?? answer.notes?.[0], action: undoable ? "Undo" : null, onaction: undo });
  return answer;
}

function replaceThem(conflicts) {
  const [first] = conflicts;
  const who = first.by ? ` by ${first.by}` : "";
  const text =
    conflicts.length === 1
      ? `This photo is labeled “${first.label ?? "nothing"}” already${who}. Replace that label?`
      : `${conflicts.length} of these photos have another label by now, the first “${first.label ?? "nothing"}”${who}. Replace these labels?`;
  return confirm("Labeled already", text, { yes: "Replace" });
}

/** A box that takes several names as chips: Enter or a comma adds, Backspace removes the last. */
export function chipBox({ label, placeholder, kind = "unseen", onchange, names = () => [] }) {
  let chosen = [];
  const chips = el("span.chips", { role: "list", aria: { label } });
  const set = (next) => {
    chosen = next;
    draw();
    onchange(chosen);
  };
  const add = (text) => {
    // Lines of a file of names that are comments are none.
    const fresh = text.replace(/^\s*#.*$/gm, "").split(/[,;\n]/).map((t) => t.trim().replace(/\s+/g, " ")).filter(Boolean);
    const have = new Set(chosen.map((c) => c.toLowerCase()));
    const more = fresh.filter((t) => !have.has(t.toLowerCase()) && have.add(t.toLowerCase()));
    if (more.length) set([...chosen, ...more]);
  };
  const draw = () =>
    fill(chips, chosen.map((name) =>
      el("span.tag.wrap", { class: kind, role: "listitem" }, el("span.name", {}, name),
        el("button", { type: "button", aria: { label: `Remove ${name}` }, onclick: () => (set(chosen.filter((c) => c !== name)), box.focus()) }, icon("close"))),
    ));
  const box = typeahead({ names: () => names().filter((n) => !chosen.includes(n)), label, placeholder, allowNew: "Add", onchoose: add, limit: 6, openOnFocus: false });
  box.input.addEventListener("input", () => {
    if (!/[,;\n]/.test(box.input.value)) return;
    add(box.input.value);
    box.clear();
  });
  box.input.addEventListener("paste", (event) => {
    const text = event.clipboardData?.getData("text") ?? "";
    if (!/[,;\n]/.test(text)) return;
    event.preventDefault();
    add(text);
  });
  box.input.addEventListener("keydown", (event) => {
    if (event.key === "Backspace" && !box.input.value && chosen.length) set(chosen.slice(0, -1));
  });
  const node = el("div.chip-box", { onclick: (e) => e.target === node && box.focus() }, chips, box);
  return Object.assign(node, { get: () => chosen, set: (next) => ((chosen = next), draw()), focus: box.focus, input: box.input });
}

/** Take photos with the camera, until the dialog is closed; each goes to `onphoto` as a file. */
export async function openCamera(onphoto) {
  if (!navigator.mediaDevices?.getUserMedia) {
    return cameraRefused("this page may not use the camera", "browsers give the camera to https and to 127.0.0.1 only: open the page there, or choose photos");
  }
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1280 } }, audio: false });
  } catch (error) {
    const [what, fix] = {
      NotAllowedError: ["the camera was not allowed", "allow it in the browser's settings of this page, or choose photos"],
      NotFoundError: ["there is no camera", "connect one, or choose photos"],
      NotReadableError: ["the camera is in use by another program", "close that program, then try again"],
    }[error.name] ?? ["the camera could not be opened", "choose photos instead"];
    return cameraRefused(what, fix, error.message);
  }
  const video = el("video", { autoplay: true, playsinline: true, aria: { label: "Picture of the camera" } });
  video.muted = true;
  video.srcObject = stream;
  let taken = 0;
  const shoot = () => {
    const canvas = el("canvas");
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.toBlob((blob) => blob && onphoto(new File([blob], `camera-${++taken}.jpg`, { type: "image/jpeg" })), "image/jpeg", 0.92);
  };
  const box = dialog("Camera", el("div.photo.camera", {}, video), {
    wide: true,
    onclose: () => stream.getTracks().forEach((track) => track.stop()),
    actions: [button("Done", () => box.close()), button("Take photo", shoot, { icon: "camera", kind: "primary", autofocus: true })],
  });
}

const cameraRefused = (what, fix, got = null) => void dialog("Camera", errorBox({ what, fix, got }));

const METHODS = [
  ["gradcam", "Grad-CAM (fast)"],
  ["integrated-gradients", "Integrated gradients"],
  ["occlusion", "Occlusion"],
  ["lime", "LIME (slow)"],
  ["shap", "Kernel SHAP (slow)"],
];

/** Why an answer is what it is: the explanation's picture, for a class and a method that one may change. */
export function openExplanation(prediction, { values = {} } = {}) {
  const controller = new AbortController();
  const home = el("div.explanation", { aria: { live: "polite" } });
  const labels = prediction.top.map((t) => t.label);
  const byClass = select("Map for", labels.map((l) => [l, l]), labels.includes(prediction.label) ? prediction.label : labels[0]);
  const method = select("Method", METHODS, "gradcam");
  const load = async () => {
    fill(home, el("div.explanation-wait", {}, el("span.spinner"), "Drawing the maps …"));
    try {
      const asked = { ...values, sha256: prediction.sha256, method: method.value, class_name: byClass.value };
      const made = await api.explain(asked, controller.signal);
      fill(
        home,
        el("img", { src: `data:image/png;base64,${made.png}`, alt: `Explanation of “${prediction.label}”: maps of the photo, nearest labeled photos, the experts' answers and the terms of the gate` }),
        (made.notes ?? []).map((note) => el("p.small-print", {}, sentence(note))),
      );
    } catch (error) {
      if (error.name !== "AbortError") fill(home, errorBox(error, { onretry: load }));
    }
  };
  for (const box of [byClass, method]) box.input.addEventListener("change", load);
  dialog(`Why “${prediction.label}”?`, [el("div.row.explanation-bar", {}, byClass, method), home], { wide: true, onclose: () => controller.abort() });
  load();
}

/** A select with its name beside it; `.value` is what is chosen. */
export function select(name, options, value) {
  const input = el("select.input.select", {}, options.map(([v, text]) => el("option", { value: v }, text)));
  input.value = value;
  const node = el("label.select-field", {}, el("span.muted", {}, name), input);
  Object.defineProperty(node, "value", { get: () => input.value, set: (v) => (input.value = v) });
  return Object.assign(node, { input });
}

/** A box to choose the right class of a photo; "none of these" and new classes too. */
export function classPicker(ctx, onchoose, { extra = () => [], oncancel, openOnFocus = true, label = "Right class", placeholder = "Type the right class" } = {}) {
  return typeahead({ label, placeholder, oncancel, openOnFocus, onchoose, allowNew: "New class", names: () => ctx.classNames({ extra: extra() }) });
}

export { NONE };
