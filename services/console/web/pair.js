// Pairing: the page behind the QR code. The code is behind the `#`, which browsers do not send; it goes into the PAKE and nowhere else.

import { Problem } from "./api.js";
import { card, confirm, copyable, facts, h, say, show, trouble } from "./dom.js";
import { Key } from "./keys.js";
import { ask, hex, random, unhex } from "./wasm.js";

const STEPS = ["Your key", "Connect", "Set up", "Done"];
const RESTART_S = 60;
/** Where this browser keeps whose releases its nodes take. */
const RELEASES = "macula-releases";

const state = { step: 0, code: takeCode(), key: null, busy: "", error: null, found: null, paired: null, wifi: "" };

/** The code in the address, which then is no longer in the address, the history or over somebody's shoulder. */
function takeCode() {
  const { hash } = location;
  if (hash.length < 2) return null;
  history.replaceState(null, "", location.pathname);
  return `https://${location.host}/pair${hash}`;
}

/** One message to the node, and its answer. */
async function send(message) {
  let response;
  try {
    response = await fetch(`/pair/${state.session}`, { method: "POST", headers: { "content-type": "application/cbor" }, body: unhex(message) });
  } catch {
    throw new Problem(0, { detail: "The node does not answer.", next: "Stay near it and on its network, then try again." });
  }
  if (!response.ok) throw new Problem(response.status, await response.json().catch(() => ({ detail: `The node answered ${response.status}.` })));
  return hex(new Uint8Array(await response.arrayBuffer()));
}

async function pair(step, more = {}) {
  return (await ask({ do: `pair-${step}`, ...more })).ok;
}

async function attempt(busy, work) {
  Object.assign(state, { busy, error: null });
  draw();
  try {
    await work();
  } catch (error) {
    state.error = error;
    if (state.step === 2 && !(error instanceof Declined)) state.step = 1;
  }
  state.busy = "";
  draw();
  if (!state.error) document.getElementById("title").focus();
}

class Declined extends Error {}

function connect(secret) {
  return attempt("Proving the code to each other…", async () => {
    const how = secret ? { secret } : { code: state.code };
    const begun = await pair("begin", { ...how, public: state.key.public, random: hex(random(48)) });
    state.session = begun.session;
    const { sign, node } = await pair("welcome", { answer: await send(begun.send) });
    state.node = node;
    const proof = await pair("signed", { signature: await state.key.sign(sign) });
    const { introduction } = await pair("confirmed", { answer: await send(proof.send) });
    Object.assign(state, { found: introduction, step: 2 });
  });
}

function look() {
  return attempt("Looking for networks…", async () => {
    const asked = await pair("look");
    const { introduction } = await pair("answer", { answer: await send(asked.send), now: now() });
    state.found = introduction ?? state.found;
  });
}

function handOver(wanted) {
  return attempt("The node writes it down…", async () => {
    const asked = await pair("hand-over", wanted);
    const { paired, declined } = await pair("answer", { answer: await send(asked.send), now: now() });
    if (declined) throw new Declined(declined);
    state.key = await state.key.with(paired.delegation.trim());
    if (wanted.channel) localStorage.setItem(RELEASES, JSON.stringify({ channel: wanted.channel, publisher: wanted.publisher }));
    Object.assign(state, { paired, step: 3 });
    say("Paired");
  });
}

function now() {
  return Math.floor(Date.now() / 1000);
}

function draw() {
  document.title = `${STEPS[state.step]} – Pair this node – Macula`;
  show(document.getElementById("top"),
    h("span", { class: "brand" }, h("img", { src: "/console/icon.svg", alt: "", width: "28", height: "28" }), h("strong", {}, "Pair this node")));
  const page = [first, second, third, last][state.step];
  show(document.getElementById("main"),
    h("ol", { class: "steps", "aria-label": "Steps" }, STEPS.map((name, at) => h("li", { key: name, class: at < state.step ? "past" : null, "aria-current": at === state.step ? "step" : null }, name))),
    state.error ? h("div", { key: "error" }, trouble({ detail: state.error.message, next: state.error.next })) : h("div", { key: "error" }),
    h("h1", { id: "title", tabindex: "-1" }, ["Whose node will it be?", "Connect", "What is the node to be?", "It is yours"][state.step]),
    h("div", { key: `step-${state.step}` }, page()),
    h("p", { class: "wait", key: "busy", role: "status" }, state.busy));
}

function button(text, act, kind = "") {
  return h("button", { type: "button", class: kind, disabled: Boolean(state.busy), on: { click: act } }, text);
}

function use(make) {
  return attempt("", async () => Object.assign(state, { key: await make(), step: 1 }));
}

function first() {
  const known = state.key && card("The key in this browser", facts([["Id", copyable(state.key.did)]]),
    h("div", { class: "row" }, button("Go on with this key", () => { Object.assign(state, { step: 1, error: null }); draw(); }, "strong")));
  const make = async () => {
    const text = "The one that is here is replaced. Whoever has not saved its file cannot get it back.";
    if (!state.key || (await confirm({ title: "Make another key?", text, action: "Make a key", danger: true }))) await use(() => Key.create());
  };
  return [
    h("p", { class: "lead", key: "lead" }, "A node takes orders from its owner's key. There is no account and no password: the key is made in this browser, and you can take it along as a file."),
    known,
    h("div", { class: "grid", key: "ways" },
      card("This is my first node", h("p", {}, "A new key is made here."), button("Make a key", make, known ? "" : "strong")),
      card("I have a key", h("p", {}, "The file ", h("code", {}, "owner.key"), " of ", h("code", {}, "maculactl"), " or of another console."),
        h("label", { for: "key-file" }, "Key file"),
        h("input", { id: "key-file", type: "file", on: { change: (e) => e.target.files[0] && use(async () => Key.parse(await e.target.files[0].text())) } }))),
  ];
}

function second() {
  const submit = (event) => {
    event.preventDefault();
    connect(document.getElementById("secret").value.trim());
  };
  return [
    state.code && card("The code that you scanned", h("p", {}, "The node and this browser now prove to each other that they know it. Nobody who has not seen it learns anything."),
      h("div", { class: "row" }, button(state.error ? "Try again" : "Connect", () => connect(), "strong"), button("Back", () => { Object.assign(state, { step: 0, error: null }); draw(); }))),
    card(state.code ? "Or another code" : "The code that the node shows", h("form", { on: { submit } },
      h("label", { for: "secret" }, "12 letters and digits, from its screen"),
      h("div", { class: "row" }, h("input", { id: "secret", autocomplete: "off", autocapitalize: "characters", spellcheck: "false", placeholder: "7K3M-9QXT-2FAB" }),
        h("button", { type: "submit", class: state.code ? "" : "strong", disabled: Boolean(state.busy) }, "Connect"))),
      h("p", { class: "note" }, "A code is good for ten minutes, five tries and one use.")),
    h("p", { class: "note", key: "honest" }, "Your browser warned of the node's certificate, which nobody vouches for. On a network that you do not trust, somebody could have replaced this page and see the code: use ",
      h("code", {}, "maculactl pair"), " there, which cannot be deceived that way."),
  ];
}

function third() {
  const { found } = state;
  const can = (what) => found.can.includes(what);
  const field = (name, label, value, more = {}) => h("div", { class: "field", key: name }, h("label", { for: name }, label),
    h("input", { id: name, name, autocomplete: "off", spellcheck: "false", ...more, value }));
  const submit = (event) => {
    event.preventDefault();
    const form = new FormData(event.target);
    const wanted = Object.fromEntries([...form].map(([name, value]) => [name, value.trim()]));
    if (wanted.ssid === "*") wanted.ssid = wanted.hidden;
    if (wanted.country) wanted.country = wanted.country.toUpperCase();
    if (wanted.channel && !wanted.publisher) wanted.publisher = state.key.did;
    handOver(wanted);
  };
  const about = facts([["Board", found.board], ["Version", found.version], ["Id", copyable(state.node, `…${state.node.slice(-8)}`)]]);
  if (found.role === "delegate") {
    return card("You are invited", about, h("p", {}, "The owner lets you use this node. Nothing else is changed."), button("Accept", () => handOver({}), "strong"));
  }
  const networks = found.networks && can("wifi");
  return h("form", { on: { submit } },
    h("div", { class: "grid", key: "grid" },
      card("Node", about,
        field("name", "Name", found.name, { pattern: "[a-z0-9-]{1,63}", title: "a-z, 0-9 and -, at most 63" }),
        field("realm", "Realm: your nodes together", "home", { pattern: "[a-z0-9-]{1,63}", title: "a-z, 0-9 and -, at most 63" }),
        can("time-zone") && field("time_zone", "Time zone", Intl.DateTimeFormat().resolvedOptions().timeZone)),
      networks ? card("Wi-Fi", h("div", { class: "field", key: found.networks.map((n) => n.ssid).join("|") }, h("label", { for: "ssid" }, "Network"),
        h("select", { id: "ssid", name: "ssid", on: { change: (e) => { state.wifi = e.target.value; draw(); } } },
          h("option", { value: "" }, "none: it has a cable"),
          found.networks.map((n) => h("option", { value: n.ssid }, `${n.ssid} (${strength(n.dbm)}${n.secured ? "" : ", open"})`)),
          h("option", { value: "*" }, "another, which hides its name"))),
        state.wifi === "*" && field("hidden", "Its name", ""),
        state.wifi && field("passphrase", "Passphrase", "", { type: "password" }),
        field("country", "Country (two letters), for the radio", navigator.language.split("-")[1] ?? "", { maxlength: "2", pattern: "[A-Za-z]{2}" }),
        h("div", { class: "row" }, button("Look again", look)))
        : card("Network", h("p", {}, "This node has no Wi-Fi that it can use: leave its cable in.")),
      can("channel") && releases(field)),
    h("div", { class: "row", key: "go" }, h("button", { type: "submit", class: "strong", disabled: Boolean(state.busy) }, "Make it mine")));
}

/** Without a channel a node takes no release until its owner says whose. */
function releases(field) {
  const before = remembered();
  return card("Releases", h("p", {}, "Where its updates come from. It takes none until you say so, here or later."),
    field("channel", "Channel", before.channel ?? "", { placeholder: "none", pattern: "[a-z0-9-]{1,63}", title: "a-z, 0-9 and -, at most 63" }),
    field("publisher", "Whose: the publisher's id. Empty: yours", before.publisher ?? "", { placeholder: "did:key:z6Mk...", pattern: "did:key:z6Mk[1-9A-HJ-NP-Za-km-z]+", title: "did:key:z6Mk..." }));
}

function remembered() {
  try {
    return JSON.parse(localStorage.getItem(RELEASES)) ?? {};
  } catch {
    return {};
  }
}

function strength(dbm) {
  return dbm > -60 ? "strong" : dbm > -75 ? "fair" : "weak";
}

function last() {
  const { paired, key } = state;
  return [
    card(paired.name, facts([["Realm", paired.realm], ["Your role", paired.role === "delegate" ? "guest of the owner" : "owner"], ["Your key", copyable(key.did, `…${key.did.slice(-8)}`)]]),
      paired.notes.length > 0 && h("ul", {}, paired.notes.map((note) => h("li", { key: note }, note)))),
    card("Save your key", h("p", {}, "It is in this browser and nowhere else. If the browser forgets it, nobody can give the node orders until it is recovered by hand."),
      h("div", { class: "row" }, button("Save the key file", () => key.save().then(() => say("Saved")), "strong"))),
    card("Go on", h("p", {}, `The node takes up to ${RESTART_S} seconds to begin anew; it then has another certificate, and your browser asks about it once more.`),
      h("div", { class: "row" }, h("a", { href: "/" }, "Open the console"))),
  ];
}

state.key = await Key.load().catch(() => null);
draw();
