// Keys: signing in, taking the key along, delegations, and which certificate this is.

import { card, chip, confirm, copyable, facts, h, say, short, time } from "./dom.js";
import { Key } from "./keys.js";
import { ask } from "./wasm.js";

export const title = "Keys";

export function heading(app) {
  return app.key ? title : "Who are you?";
}

export function draw(app) {
  return app.key ? mine(app) : signIn(app);
}

function signIn(app) {
  const { view } = app;
  return [
    h("p", { key: "lead", class: "lead" }, "This console has no passwords. It signs each request with a key that stays in this browser; the node does what its owner's key asks."),
    view.keyError && h("div", { class: "trouble", role: "alert", key: "error" }, h("p", {}, view.keyError)),
    h("div", { class: "grid", key: "ways" },
      card("You have a key", h("p", {}, "The file ", h("code", {}, "owner.key"), " of ", h("code", {}, "maculactl"), ", or one that you took along from another console."),
        h("label", { for: "key-file" }, "Key file"),
        h("input", { id: "key-file", type: "file", on: { change: (e) => fromFile(app, e.target) } }),
        h("details", {}, h("summary", {}, "Type it instead"), h("form", { on: { submit: (e) => { e.preventDefault(); use(app, () => Key.parse(document.getElementById("key-text").value)); } } },
          h("label", { for: "key-text" }, "64 hexadecimal digits"), h("input", { id: "key-text", type: "password", autocomplete: "off", spellcheck: "false" }),
          h("button", { type: "submit" }, "Use this key")))),
      card("You have none", h("p", {}, "If the node is new, pair it: scan the code that it shows, and this browser becomes its owner."),
        h("p", {}, "If somebody else owns it, make a key here and let them delegate to it."),
        h("button", { type: "button", on: { click: () => use(app, () => Key.create()) } }, "Make a key"))),
    certificate(app),
  ];
}

async function use(app, make) {
  try {
    app.view.keyError = null;
    app.signIn(await make());
  } catch (e) {
    app.view.keyError = e.message;
    app.draw();
    say(e.message);
  }
}

async function fromFile(app, field) {
  const [file] = field.files;
  if (!file) return;
  await use(app, async () => Key.parse(file.size > 256 ? "" : await file.text()));
}

function mine(app) {
  const { key } = app;
  return [
    card("Your key", facts([["Id", copyable(key.did)], ["Signed by", typeof key.secret === "string" ? "the node's code in this page" : "this browser (WebCrypto)"]]),
      h("p", { class: "note" }, "It is in this browser for this address alone: at another address of the same node, or at another node, bring it along. Whoever has the file is the owner; a lost one cannot be made again."),
      h("div", { class: "row" },
        h("button", { type: "button", class: "strong", on: { click: () => save(key) } }, "Save the key file"),
        h("button", { type: "button", class: "danger", on: { click: () => forget(app) } }, "Forget it here"))),
    card("Delegations", delegations(app)),
    card("More nodes", more(app)),
    certificate(app),
  ];
}

async function save(key) {
  await key.save();
  say("Saved. Keep it where nobody else reads it: maculactl wants it with mode 600.");
}

async function forget(app) {
  const text = "The key is removed from this browser. Without its file nobody can sign with it any more.";
  if (!(await confirm({ title: "Forget the key?", text, action: "Forget it", danger: true }))) return;
  await Key.forget();
  app.signOut();
}

function delegations(app) {
  const { key, view } = app;
  const submit = async (event) => {
    event.preventDefault();
    const text = document.getElementById("proofs").value.trim();
    try {
      view.inspected = text ? (await ask({ do: "inspect", tokens: text, now: app.api.now() })).ok : null;
      view.proofsError = null;
      app.signIn(await key.with(text));
    } catch (e) {
      view.proofsError = e.message;
      app.draw();
    }
  };
  return [
    h("p", {}, "Not the owner? Paste what the owner issued to your key (", h("code", {}, `maculactl ucan issue --to …${short(key.did)}`), "), the newest first."),
    h("form", { on: { submit } }, h("label", { for: "proofs" }, "Delegations, one to a line"),
      h("textarea", { id: "proofs", rows: "3", spellcheck: "false", value: key.proofs }), h("button", { type: "submit" }, "Use these")),
    view.proofsError && h("p", { class: "note wrong", role: "alert" }, view.proofsError),
    view.inspected && h("div", { key: "seen" }, h("p", {}, view.inspected.good ? chip("good", "holds together") : chip("bad", "no node accepts this")),
      h("ol", { class: "plain" }, view.inspected.links.map((link, at) => h("li", { key: at },
        link.by && h("span", { class: "wrap" }, `${short(link.by)} lets ${short(link.to)}: ${link.can.join(", ")}${link.expires ? ` until ${time(link.expires)}` : ""}`),
        (link.problems ?? []).map((p) => h("span", { class: "under wrong", key: p }, p)))))),
  ];
}

/** Pairing goes on at the other node's own page, with this key's file. */
function more(app) {
  const { view } = app;
  const submit = (event) => {
    event.preventDefault();
    const text = document.getElementById("other").value.trim();
    const found = /^https:\/\/[^/]+\/pair#\S+$/i.test(text);
    view.otherError = found ? null : "This is no code's address: it begins with https:// and has /pair# in it.";
    app.draw();
    if (found) open(text, "_blank", "noopener");
  };
  const invite = async () => {
    const text = "For ten minutes the node shows a code. Whoever pairs with it becomes its owner in your place, and you lose the node.";
    if (!(await confirm({ title: "Hand this node over?", text, action: "Show a code", danger: true }))) return;
    await app.act("Invite", async () => { view.invited = await app.api.call("pairing/invite", { minutes: 10 }); });
  };
  return [
    h("p", {}, "A node without an owner shows a code. Save your key file above, then scan the code, or paste its address here: pairing goes on at that node's own page, where you choose the file."),
    h("form", { on: { submit } }, h("label", { for: "other" }, "The code's address"),
      h("div", { class: "row" }, h("input", { id: "other", autocomplete: "off", spellcheck: "false", placeholder: "https://192.0.2.8:4433/pair#k=…" }), h("button", { type: "submit" }, "Open it")),
      view.otherError && h("p", { class: "note wrong", role: "alert" }, view.otherError)),
    h("p", {}, "To give this node away, let it show a code for its next owner:"),
    h("div", { class: "row" }, h("button", { type: "button", class: "danger", on: { click: invite } }, "Hand this node over")),
    view.invited && facts([["Code", h("code", {}, view.invited.secret)], ["Address", view.invited.web && copyable(view.invited.web, "with the code in it")], ["Good for", `${Math.round(view.invited.expires_in_s / 60)} minutes`]]),
  ];
}

function certificate(app) {
  const [newest] = app.document?.certificate_sha256 ?? [];
  return card("This connection", h("p", {}, "The node's certificate is its own, and nobody vouches for it. Compare what your browser shows for this page (SHA-256) with the line that ",
    h("code", {}, "maculactl logs mesh"), " shows for the node:"),
    newest && h("p", { class: "wrap" }, h("code", {}, newest.match(/../g).join(":"))),
    h("p", { class: "note" }, "What this page says about it proves nothing by itself: whoever could replace the certificate could replace the page."));
}
