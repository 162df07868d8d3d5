// Releases: what runs, what failed here, and how to change it.

import { card, chip, confirm, copyable, empty, facts, h, table, time, trouble } from "./dom.js";

export const title = "Releases";
const MCID = /^mcid1-(raw|manifest)-blake3-[0-9a-f]{64}$/;

export function draw(app) {
  const { seen, view } = app;
  if (seen.trouble?.status) return [trouble(seen.trouble.status)];
  const { status } = seen;
  if (!status) return [h("p", { class: "wait" }, "Asking the node…")];
  return [
    card("Running", facts([
      ["Version", status.version],
      ["Slot", `${status.slot}, install ${status.seq}`],
      ["Release", status.release ? copyable(status.release, `${status.release.slice(0, 26)}…`) : "the factory image"],
      ["Trial", status.trial ? h("span", {}, chip("warn", status.trial.version), ` ${status.trial.tries_left} tries left; ${status.trial.gate}`) : "none"],
    ]), h("div", { class: "row" },
      h("button", { type: "button", on: { click: () => app.act("Look for updates", () => app.api.call("os/refresh")) } }, "Look for updates"),
      h("button", { type: "button", on: { click: () => rollBack(app, status) } }, "Roll back"))),
    card("Whose releases", whose(app, status)),
    card("Install a release", install(app, view)),
    card("Failed here", failed(app, status)),
  ];
}

/** A channel of somebody who signs what is in it. Several keys and a threshold are for `maculactl config`. */
function whose(app, status) {
  const { follows, release_keys: keys } = status;
  const submit = async (event) => {
    event.preventDefault();
    const { channel, publisher } = Object.fromEntries([...new FormData(event.target)].map(([name, value]) => [name, value.trim()]));
    const text = `Whatever ${publisher.slice(-8)} publishes and signs as ${channel}, the node installs, on trial.`;
    if (!(await confirm({ title: "Follow this channel?", text, action: "Follow" }))) return;
    const and = [["update.publisher", publisher], ["update.release_keys", `["${publisher}"]`]];
    await app.act("Follow", () => app.api.call("os/config_change", { key: "update.channel", value: channel, and }));
  };
  return [
    keys === 0 ? h("p", { class: "note wrong" }, "Nobody's yet: this node takes no release.")
      : h("p", {}, follows ? `${follows.channel}, of …${follows.publisher.slice(-8)}` : "No channel: it updates when told to.", keys > 1 && ` (${keys} keys sign)`),
    h("form", { on: { submit } },
      h("div", { class: "field" }, h("label", { for: "channel" }, "Channel"),
        h("input", { id: "channel", name: "channel", required: true, autocomplete: "off", spellcheck: "false", placeholder: "stable", pattern: "[a-z0-9-]{1,63}", title: "a-z, 0-9 and -, at most 63" })),
      h("div", { class: "field" }, h("label", { for: "publisher" }, "Publisher's id"),
        h("input", { id: "publisher", name: "publisher", required: true, autocomplete: "off", spellcheck: "false", placeholder: "did:key:z6Mk...", pattern: "did:key:z6Mk[1-9A-HJ-NP-Za-km-z]+", title: "did:key:z6Mk..." })),
      h("div", { class: "row" }, h("button", { type: "submit" }, "Follow"))),
  ];
}

async function rollBack(app, status) {
  const text = `The node restarts into the release before ${status.version}. It refuses if there is none.`;
  if (!(await confirm({ title: "Roll back?", text, action: "Roll back", danger: true }))) return;
  await app.act("Roll back", () => app.api.call("os/rollback"));
}

function install(app, view) {
  const submit = async (event) => {
    event.preventDefault();
    const field = document.getElementById("mcid");
    const release = field.value.trim();
    if (!MCID.test(release)) {
      view.wrong = "A release's metadata is named mcid1-raw-blake3- and 64 hexadecimal digits.";
      app.draw();
      field.focus();
      return;
    }
    view.wrong = null;
    const text = "It goes to the slot that does not run, and is on trial after the next restart: if the gate says no, the node goes back by itself.";
    if (!(await confirm({ title: "Install this release?", text, action: "Install" }))) return;
    await app.act("Install", () => app.api.call("os/install", { release, again: false }));
  };
  return h("form", { on: { submit }, novalidate: true },
    h("label", { for: "mcid" }, "MCID of the release's metadata"),
    h("div", { class: "row" }, h("input", { id: "mcid", name: "mcid", spellcheck: "false", autocomplete: "off", placeholder: "mcid1-raw-blake3-…",
      "aria-describedby": "mcid-help", "aria-invalid": view.wrong ? "true" : null }), h("button", { class: "strong", type: "submit" }, "Install")),
    h("p", { id: "mcid-help", class: view.wrong ? "note wrong" : "note" }, view.wrong ?? "A node that follows a channel installs by itself; this is for one release by hand."));
}

function failed(app, status) {
  const all = status.failed_releases ?? [];
  if (!all.length) return empty("No release has failed on this node.");
  const again = async (release) => {
    const text = "It failed here before; it is tried once more.";
    if (await confirm({ title: "Try it again?", text, action: "Install" })) await app.act("Install", () => app.api.call("os/install", { release, again: true }));
  };
  return table("Failed releases", ["Version", "When", "Why", ""], all.map((f) => ({
    key: f.release,
    cells: [h("strong", {}, f.version), time(f.at_unix),
      h("span", {}, f.reason, f.log_tail?.length > 0 && h("details", {}, h("summary", {}, "Last log lines"), h("pre", {}, f.log_tail.join("\n")))),
      h("button", { class: "small quiet", type: "button", on: { click: () => again(f.release) } }, "Try again")],
  })));
}
