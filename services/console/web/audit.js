// The audit log: what changed this node's state, and who was let or refused; its chain is checked here, not on the node.

import { card, chip, copyable, empty, facts, h, table, time, trouble } from "./dom.js";

export const title = "Audit";
const SHOWN = 300;

export function enter(app) {
  if (app.api && !app.view.audit) read(app);
}

async function read(app) {
  app.view.audit = { reading: true };
  app.draw();
  try {
    app.view.audit = { ...(await app.api.audit()), at: Date.now() / 1000 };
  } catch (problem) {
    app.view.audit = { problem };
  }
  app.draw();
}

export function draw(app) {
  const found = app.view.audit ?? {};
  const again = h("div", { class: "row" }, h("button", { type: "button", on: { click: () => read(app) } }, "Read it again"));
  if (found.problem) return [trouble(found.problem), again];
  if (!found.records) return [h("p", { class: "wait" }, "Reading the log…")];
  const text = (app.view.auditText ?? "").toLowerCase();
  const fits = found.records.filter((r) => !text || `${r.kind} ${r.text}`.toLowerCase().includes(text)).reverse();
  return [
    card("Chain", h("p", {}, found.whole ? chip("good", "whole") : chip("bad", "broken"), found.whole ? " Every record follows from the one before." : ` ${found.why}`),
      facts([["Records", String(found.records.length)], ["Read", time(found.at)], ["Head", found.head && copyable(found.head, `${found.head.slice(0, 20)}…`)]]),
      h("p", { class: "note" }, "Keep the head somewhere else: ", h("code", {}, "maculactl audit verify --since"), " tells with it whether the whole log was written anew."), again),
    card("Records",
      h("div", { class: "field" }, h("label", { for: "audit-text" }, "Contains"),
        h("input", { id: "audit-text", type: "search", autocomplete: "off", on: { input: (e) => { app.view.auditText = e.target.value; app.draw(); } } })),
      fits.length ? table("Audit records", ["No.", "When", "Kind", "What"], fits.slice(0, SHOWN).map((r) => ({
        key: r.number, cells: [String(r.number), time(r.at_unix), h("strong", {}, r.kind), h("span", { class: "wrap" }, r.text)],
      }))) : empty("No record fits.")),
  ];
}
