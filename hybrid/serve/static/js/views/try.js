import { el, emptyState } from "../ui.js";

export function create() {
  return { node: el("section.page", { aria: { label: "Try" } }, emptyState({ icon: "try", title: "Try", text: "Nothing here yet." })) };
}
