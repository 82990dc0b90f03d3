import { el, emptyState } from "../ui.js";

export function create() {
  return { node: el("section.page", { aria: { label: "Report" } }, emptyState({ icon: "report", title: "Report", text: "Nothing here yet." })) };
}
