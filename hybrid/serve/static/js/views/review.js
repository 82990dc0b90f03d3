import { el, emptyState } from "../ui.js";

export function create() {
  return { node: el("section.page", { aria: { label: "Review" } }, emptyState({ icon: "review", title: "Review", text: "Nothing here yet." })) };
}
