// Content: what is stored, and what is on its way.

import { brief, bytes, card, chip, copyable, empty, facts, h, short, trouble } from "./dom.js";

export const title = "Content";

export function draw(app) {
  const { seen } = app;
  if (seen.trouble?.content) return [trouble(seen.trouble.content)];
  const report = seen.content;
  if (!report) return [h("p", { class: "wait" }, "Asking the node…")];
  const transfers = [...report.transfers].reverse();
  const running = transfers.filter((t) => !t.finished && !t.error);
  return [
    h("div", { class: "grid", key: "totals" },
      card("Store", facts([["Blocks", String(report.blocks)], ["Size", bytes(report.bytes)], ["Offered to others", String(report.offered.length)]])),
      card("Now", facts([["Transfers", running.length ? `${running.length} under way` : "none under way"]]))),
    card("Transfers", transfers.length ? h("ul", { class: "transfers" }, transfers.map(transfer))
      : empty("Nothing was fetched since the start.", "Updates and apps show up here while they come in.")),
    report.offered.length > 0 && card("Offered", h("ul", { class: "plain" }, report.offered.map((mcid) => h("li", { key: mcid }, copyable(mcid, brief(mcid)))))),
  ];
}

function transfer(t, at) {
  const state = t.error ? chip("bad", "failed") : t.finished ? chip("good", "complete") : chip("warn", "under way");
  const from = t.from.filter(([, n]) => n > 0).map(([node, n]) => `${node === "local" ? "this node" : short(node)} ${bytes(n)}`);
  return h("li", { key: `${t.mcid}-${at}` },
    h("div", { class: "row" }, copyable(t.mcid, brief(t.mcid)), state, h("span", { class: "num" }, `${bytes(t.bytes_done)} of ${bytes(t.bytes_total)}`)),
    h("progress", { max: String(t.bytes_total || 1), value: String(t.bytes_done), "aria-label": `${brief(t.mcid)}: ${bytes(t.bytes_done)} of ${bytes(t.bytes_total)}` }),
    from.length > 0 && h("p", { class: "note" }, `From ${from.join(", ")}.`),
    t.dropped.map(([node, why]) => h("p", { class: "note", key: node }, `Given up on ${short(node)}: ${why}`)),
    t.error && h("p", { class: "note" }, t.error));
}
