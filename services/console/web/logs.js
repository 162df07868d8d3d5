// The logs, live: they are in the node's memory and last until it restarts.

import { empty, h, trouble } from "./dom.js";

export const title = "Logs";
const SHOWN = 500;
const LEVELS = [["7", "everything"], ["6", "info and above"], ["4", "warnings and above"], ["3", "errors"]];
const WORD = ["emergency", "alert", "critical", "error", "warning", "notice", "info", "debug"];

export function draw(app) {
  const { seen, view } = app;
  if (seen.trouble?.logs) return [trouble(seen.trouble.logs)];
  if (!seen.logs) return [h("p", { class: "wait" }, "Asking the node…")];
  const filter = (view.logs ??= { text: "", unit: "", level: "7", paused: null });
  const lines = filter.paused ?? seen.logs;
  const text = filter.text.toLowerCase();
  const fits = (l) => l.gap || ((!filter.unit || l.unit === filter.unit) && l.priority <= Number(filter.level) && (!text || l.text.toLowerCase().includes(text)));
  const found = lines.filter(fits);
  const units = [...new Set(seen.logs.map((l) => l.unit).filter(Boolean))].sort();
  const set = (change) => { Object.assign(filter, change); app.draw(); };
  const select = (id, label, value, options, name) => h("div", { class: "field", key: id }, h("label", { for: id }, label),
    h("select", { id, on: { change: (e) => set({ [name]: e.target.value }) } },
      options.map(([v, t]) => h("option", { value: v, selected: v === value }, t))));
  return [
    h("div", { class: "filters", key: "filters" },
      h("div", { class: "field grow", key: "text" }, h("label", { for: "log-text" }, "Contains"),
        h("input", { id: "log-text", type: "search", autocomplete: "off", on: { input: (e) => set({ text: e.target.value }) } })),
      select(`log-unit-${units.length}`, "Unit", filter.unit, [["", "all"], ...units.map((u) => [u, u])], "unit"),
      select("log-level", "Level", filter.level, LEVELS, "level"),
      h("button", { key: "pause", type: "button", "aria-pressed": String(Boolean(filter.paused)), on: { click: () => set({ paused: filter.paused ? null : seen.logs }) } },
        filter.paused ? "Go on" : "Pause")),
    h("p", { class: "note", key: "count", role: "status" }, found.length > SHOWN ? `The newest ${SHOWN} of ${found.length} lines.` : `${found.length} lines.`),
    found.length ? h("div", { class: "log", key: "log", id: "log", role: "log", "aria-live": "off", "aria-label": "Log lines", tabindex: "0" },
      found.slice(-SHOWN).map((l) => h("div", { key: l.id, class: l.gap ? "gap" : `p${l.priority}` },
        h("span", { class: "when" }, l.gap ? "" : (l.at_ms / 1000).toFixed(3)), h("span", { class: "unit" }, l.unit),
        h("span", { class: "text" }, l.priority <= 4 && h("b", {}, `${WORD[l.priority]} `), l.text))))
      : empty("No line fits.", "Widen the filter, or wait for the node to say something."),
  ];
}

/** Stays at the end unless somebody scrolled up to read. */
export function drawn(app) {
  const log = document.getElementById("log");
  if (!log) return;
  if (!log._watched) {
    log._watched = true;
    log._follow = true;
    log.addEventListener("scroll", () => { log._follow = log.scrollHeight - log.scrollTop - log.clientHeight < 40; });
  }
  if (log._follow && !app.view.logs?.paused) log.scrollTop = log.scrollHeight;
}
