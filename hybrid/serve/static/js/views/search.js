import { el, emptyState } from "../ui.js";

export function create() {
  return { node: el("section.page", { aria: { label: "Search" } }, emptyState({ icon: "search", title: "Search", text: "Nothing here yet." })) };
}
