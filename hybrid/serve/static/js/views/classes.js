import { el, emptyState } from "../ui.js";

export function create() {
  return { node: el("section.page", { aria: { label: "Classes" } }, emptyState({ icon: "classes", title: "Classes", text: "Nothing here yet." })) };
}
