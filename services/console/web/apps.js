// What should run here, what runs, and what the reconciler would do about the difference.

import { brief, card, chip, empty, h, trouble } from "./dom.js";

export const title = "Apps";

export function draw(app) {
  const { seen } = app;
  if (seen.trouble?.plan) return [trouble(seen.trouble.plan)];
  if (seen.plan === undefined) return [h("p", { class: "wait" }, "Asking the node…")];
  const lines = seen.plan.split("\n").map((line) => line.match(/^(\S+)\s+(.*)$/)).filter(Boolean);
  const of = (word) => lines.filter(([, w]) => w === word).map(([, , text]) => text);
  const rest = lines.filter(([, w]) => !["wanted", "running", "plan"].includes(w));
  return [
    h("div", { class: "grid", key: "two" },
      card("Wanted", list(of("wanted"), "Nothing in particular is wanted.")),
      card("Running", list(of("running"), "Nothing is known to run."))),
    card("Plan", of("plan").length ? h("ol", { class: "plan" }, of("plan").map((text, at) => h("li", { key: at }, step(text), " ", h("span", { class: "wrap", title: text }, brief(text)))))
      : empty("There is no plan.", "The reconciler makes one a moment after it starts."),
    rest.length > 0 && h("pre", {}, rest.map(([line]) => line).join("\n")),
    h("div", { class: "row" }, h("button", { type: "button", on: { click: () => app.act("Look again", () => app.api.call("os/refresh")) } }, "Look at what is wanted now"))),
  ];
}

function list(texts, none) {
  return texts.length ? h("ul", { class: "plain" }, texts.map((text) => h("li", { key: text, class: "wrap", title: text }, brief(text)))) : empty(none);
}

function step(text) {
  if (text.startsWith("nothing to do")) return chip("good", "as wanted");
  if (text.startsWith("wait")) return chip("warn", "waits");
  if (text.startsWith("cannot")) return chip("bad", "stuck");
  return chip("warn", "to do");
}
