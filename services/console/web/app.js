// The console: who is here, which page is shown, what is watched.

import { Api } from "./api.js";
import { chip, h, say, show } from "./dom.js";
import { Key } from "./keys.js";
import { Live } from "./live.js";
import * as apps from "./apps.js";
import * as audit from "./audit.js";
import * as content from "./content.js";
import * as keys from "./access.js";
import * as logs from "./logs.js";
import * as map from "./map.js";
import * as node from "./node.js";
import * as releases from "./releases.js";

const PAGES = { node, map, content, apps, releases, logs, audit, keys };
const WATCH = ["status", "units", "peers", "content", "logs", "links", "plan"];
const CONNECTION = {
  connecting: ["quiet", "connecting"], live: ["good", "live"], offline: ["bad", "offline"], refused: ["bad", "refused"],
};

/** Everything that is known; pages draw from it and keep what is theirs under `view`. */
const app = {
  seen: {}, view: {}, page: "node", argument: "",
  draw: () => schedule(),
  signIn,
  signOut,
  /** Calls a method, says what came of it, draws again. */
  async act(what, call) {
    try {
      await call();
      app.error = null;
      say(`${what}: done`);
      return true;
    } catch (problem) {
      app.error = { what, problem };
      say(`${what} failed: ${problem.detail ?? problem.message}`);
      return false;
    } finally {
      schedule();
    }
  },
};

let scheduled = false;

function schedule() {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    draw();
  });
}

function draw() {
  const page = app.key ? PAGES[app.page] : keys;
  const { seen } = app;
  const name = seen.status?.name;
  document.title = `${page.title}${name ? ` – ${name}` : ""} – Macula`;
  const [kind, word] = CONNECTION[seen.connection ?? "connecting"];
  show(document.getElementById("top"),
    h("a", { class: "brand", href: "#/node" }, h("img", { src: "/console/icon.svg", alt: "", width: "28", height: "28" }),
      h("span", {}, h("strong", {}, name ?? "Macula"), h("span", { class: "id" }, app.document ? app.document.node.slice(-8) : ""))),
    app.key && h("span", { class: "state", role: "status" }, chip(kind, word)));
  const nav = document.getElementById("nav");
  nav.hidden = !app.key;
  show(nav, h("ul", {}, Object.entries(PAGES).map(([id, { title }]) => h("li", { key: id },
    h("a", { href: `#/${id}`, "aria-current": app.page === id ? "page" : null }, title)))));
  show(document.getElementById("main"),
    banner(),
    h("h1", { id: "title", tabindex: "-1" }, page.heading?.(app) ?? page.title),
    ...page.draw(app).flat(Infinity).filter(Boolean));
  page.drawn?.(app);
}

function banner() {
  const problem = app.error?.problem ?? (app.key && app.seen.connection !== "live" ? app.seen.problem : null);
  if (!problem) return h("div", { key: "banner" });
  // What comes and goes by itself covers nothing and moves nothing.
  const floats = !app.error && app.seen.connection === "offline";
  return h("div", { key: "banner", class: floats ? "trouble floats" : "trouble", role: "alert" },
    h("p", {}, h("strong", {}, app.error ? `${app.error.what}: ` : "", problem.detail ?? problem.message)),
    problem.next && h("p", {}, problem.next),
    app.error && h("button", { class: "small quiet", type: "button", on: { click: () => { app.error = null; schedule(); } } }, "Dismiss"));
}

function follow() {
  const [page, argument = ""] = location.hash.replace(/^#\//, "").split("/");
  const before = app.page;
  app.page = PAGES[page] ? page : "node";
  app.argument = decodeURIComponent(argument);
  app.error = null;
  PAGES[app.page].enter?.(app);
  schedule();
  if (before === app.page) return;
  requestAnimationFrame(() => {
    document.getElementById("title")?.focus();
    document.querySelector("nav a[aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
  });
}

function signIn(key) {
  app.live?.stop();
  Object.assign(app, { key, seen: { connection: "connecting" }, api: new Api(app.document, key) });
  app.live = new Live(app.api, WATCH, app.seen, schedule);
  PAGES[app.page].enter?.(app);
  schedule();
}

function signOut() {
  app.live?.stop();
  Object.assign(app, { key: null, seen: {}, api: null, view: {} });
  schedule();
}

async function start() {
  addEventListener("hashchange", follow);
  for (;;) {
    try {
      app.document = await Api.document();
      break;
    } catch (problem) {
      app.error = { what: "The console cannot start", problem };
      draw();
      await new Promise((resolve) => setTimeout(resolve, 3000));
    }
  }
  app.error = null;
  const key = await Key.load();
  follow();
  if (key) signIn(key);
}

start();
