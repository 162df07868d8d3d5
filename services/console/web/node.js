// A node: slots, trial, units, network, what happened. Also another node of the realm, asked through this one.

import { bytes, card, chip, confirm, copyable, duration, empty, facts, h, short, table, time, trouble } from "./dom.js";

export const title = "Node";
const UNIT = { ready: "good", starting: "warn", restarting: "warn", failed: "bad", stopped: "quiet" };
const POLL_MS = 5000;

export function heading(app) {
  return remote(app) ? `Node ${short(app.argument)}` : app.seen.status?.name ?? title;
}

function remote(app) {
  return app.argument.startsWith("did:key:") && app.argument !== app.document?.node ? app.argument : null;
}

export function enter(app) {
  clearTimeout(app.view.poll);
  const at = remote(app);
  if (!at || !app.api) return;
  app.view.far = app.view.far?.at === at ? app.view.far : { at };
  look(app, app.view.far);
}

async function look(app, far) {
  try {
    [far.status, far.units] = await Promise.all([app.api.call("os/status", undefined, far.at), app.api.call("os/units", undefined, far.at)]);
    far.problem = null;
  } catch (problem) {
    far.problem = problem;
  }
  app.draw();
  if (app.view.far === far && app.page === "node" && remote(app) === far.at) app.view.poll = setTimeout(() => look(app, far), POLL_MS);
}

export function draw(app) {
  const at = remote(app);
  if (at) {
    const far = app.view.far ?? {};
    return [
      h("p", { key: "back" }, h("a", { href: "#/map" }, "Back to the map"), " · asked through this node, with a delegation that ends in five minutes"),
      far.problem && trouble(far.problem),
      ...parts(app, far.status, far.units, at),
    ];
  }
  const { seen } = app;
  if (seen.trouble?.status) return [trouble(seen.trouble.status), links(seen)];
  return parts(app, seen.status, Object.values(seen.units ?? {}), null, seen);
}

function parts(app, status, units, at, seen = {}) {
  if (!status) return [h("p", { class: "wait", key: "wait" }, "Asking the node…")];
  return [
    warnings(status),
    h("div", { class: "grid", key: "grid" },
      card("State", facts([
        ["Version", status.version],
        ["Board", status.board],
        ["Up for", duration(status.uptime_s + since(seen, "status"))],
        ["Encryption", status.encryption || "off"],
        ["Secure boot", status.secure_boot],
        ["Temperature", status.temperature_c != null ? `${status.temperature_c} °C` : undefined],
        ["Disk wear", status.disk_wear_percent != null ? `at most ${status.disk_wear_percent} % of its life used` : undefined],
        ["Rescue system", status.rescue_version],
        ["Id", copyable(status.node || at || app.document.node, `…${short(status.node || app.document.node)}`)],
      ])),
      card("Slots", slots(status))),
    installing(status),
    card("Units", unitTable(app, units, at, seen)),
    at ? null : links(seen),
    card("Events", events(status)),
    card("Power", power(app, at)),
  ];
}

function since(seen, what) {
  return seen.at?.[what] ? (Date.now() - seen.at[what]) / 1000 : 0;
}

function warnings(status) {
  const all = [...(status.warnings ?? [])];
  if (status.rescue) all.unshift(`The rescue system runs: ${status.rescue}`);
  if (!all.length) return h("div", { key: "warnings" });
  return h("div", { class: "trouble warn", key: "warnings" }, h("ul", {}, all.map((text) => h("li", { key: text }, text))));
}

/** Odd sequence numbers are slot A, even ones slot B; `+left` is a trial, `+0` a failed one. */
function slots(status) {
  const entries = (status.entries ?? []).map((name) => name.match(/^macula-(\d{6})(?:\+(\d+)(?:-\d+)?)?\.efi$/)).filter(Boolean);
  const one = (slot) => {
    const found = entries.find(([, seq]) => (Number(seq) % 2 === 1 ? "A" : "B") === slot);
    const runs = status.slot === slot && !status.rescue;
    const [, seq, left] = found ?? [];
    let state = chip("quiet", "empty");
    if (found && left === undefined) state = chip("good", "committed");
    else if (found && Number(left) === 0) state = chip("bad", "failed");
    else if (found) state = chip("warn", `on trial, ${left} tries left`);
    return h("li", { key: slot, class: runs ? "slot runs" : "slot" },
      h("strong", {}, `Slot ${slot}`), state, h("span", {}, runs ? `runs ${status.version}` : found ? "not running" : "nothing installed"),
      seq && h("span", { class: "id" }, `install ${Number(seq)}`));
  };
  const { trial } = status;
  return [
    h("ul", { class: "slots" }, one("A"), one("B")),
    trial && h("p", { class: "note" }, chip("warn", `${trial.version} is on trial`), `: ${trial.gate || "the gate has not said anything yet"}`),
    !trial && h("p", { class: "note" }, "No trial is pending: a boot writes nothing."),
  ];
}

function installing(status) {
  const now = status.installing;
  if (!now) return h("div", { key: "installing" });
  const label = `Installing ${now.version}: ${now.phase}`;
  return card("Update", h("p", {}, label, now.bytes_total ? `, ${bytes(now.bytes_done)} of ${bytes(now.bytes_total)}` : ""),
    h("progress", { max: String(now.bytes_total || 1), value: String(now.bytes_done), "aria-label": label }),
    h("p", { class: "note" }, `${bytes(now.bytes_reused)} came from this node's own slots.`,
      now.from.length ? ` From ${now.from.map(([node, n]) => `${short(node)} ${bytes(n)}`).join(", ")}.` : ""));
}

function unitTable(app, units, at, seen) {
  if (seen.trouble?.units) return trouble(seen.trouble.units);
  if (!units?.length) return empty("No unit is known yet.", "The supervisor tells of them when it is up.");
  return table("Units", ["Unit", "State", "For", "Memory", "Restarts", ""], units.map((unit) => ({
    key: unit.name,
    cells: [
      h("span", {}, h("strong", {}, unit.name), unit.required ? "" : h("span", { class: "id" }, "optional")),
      h("span", {}, chip(UNIT[unit.state] ?? "quiet", unit.state), unit.status && h("span", { class: "under" }, unit.status),
        unit.state !== "ready" && unit.last_exit && h("span", { class: "under" }, unit.last_exit)),
      duration(unit.since_s + since(seen, "units")),
      bytes(unit.pss_bytes || unit.memory_bytes),
      String(unit.restarts),
      h("button", { class: "small quiet", type: "button", "aria-label": `Restart ${unit.name}`, on: { click: () => restart(app, unit, at) } }, "Restart"),
    ],
  })));
}

async function restart(app, unit, at) {
  const text = unit.required ? "It is a required unit: the node counts as not ready while it is away." : "It comes back by itself.";
  if (!(await confirm({ title: `Restart ${unit.name}?`, text, action: "Restart" }))) return;
  await app.act(`Restart ${unit.name}`, () => app.api.call("os/restart", { unit: unit.name }, at));
}

/** What a radio does. */
function wifi(radio) {
  return radio?.ssid ? `in ${radio.ssid} (${radio.dbm} dBm)` : radio?.note;
}

function links(seen) {
  const all = Object.values(seen.links ?? {});
  if (seen.trouble?.links) return card("Network", trouble(seen.trouble.links));
  if (!all.length) return card("Network", empty("No link is known yet."));
  return card("Network", table("Network links", ["Link", "State", "Addresses", "DHCP"], all.map((link) => ({
    key: link.name,
    cells: [h("strong", {}, link.name), chip(link.up ? "good" : "quiet", link.up ? "up" : "down"),
      h("span", { class: "wrap" }, [...(link.addresses ?? []), wifi(link.wifi)].filter(Boolean).join(", ") || "none"), link.dhcp || "none"],
  }))));
}

function events(status) {
  const all = [...(status.events ?? [])].reverse();
  if (!all.length) return empty("Nothing has happened yet.", "Installs, commits and rollbacks show up here.");
  return h("ol", { class: "events" }, all.slice(0, 20).map((event, at) => h("li", { key: `${event.at_unix}-${all.length - at}` },
    h("time", {}, time(event.at_unix)), h("strong", {}, event.kind), h("span", {}, event.text))));
}

function power(app, at) {
  const act = (what, method, text, danger) => h("button", { type: "button", class: danger ? "danger" : "", on: { click: async () => {
    if (!(await confirm({ title: `${what}?`, text, action: what, danger: true }))) return;
    await app.act(what, () => app.api.call(`os/${method}`, { reason: "ordered in the console" }, at));
  } } }, what);
  return h("div", { class: "row" },
    act("Reboot", "reboot", "The node is away for about a minute. Apps stop and start again."),
    act("Rescue system", "rescue", "The node restarts into its rescue system, which installs a release anew. It stays the same node."),
    act("Power off", "poweroff", "Somebody has to switch it on again by hand: there is no way back from here.", true));
}
