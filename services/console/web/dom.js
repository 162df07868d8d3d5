// Elements, and how the page becomes what it should be without losing focus, selection or scroll.

const SVG = "http://www.w3.org/2000/svg";

/** An element: `on` holds listeners, `key` keeps it the same among its siblings, false and null children are left out. */
export function h(tag, props = {}, ...children) {
  const svg = tag.startsWith("svg:");
  const el = svg ? document.createElementNS(SVG, tag.slice(4)) : document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === false || value === null || value === undefined) continue;
    if (name === "on") listen(el, value);
    else if (name === "key") el._key = String(value);
    else if (name === "value") el.value = value;
    else el.setAttribute(name, value === true ? "" : value);
  }
  el.append(...children.flat(Infinity).filter((c) => c !== null && c !== false && c !== undefined));
  return el;
}

function listen(el, listeners) {
  el._on = listeners;
  for (const type of Object.keys(listeners)) el.addEventListener(type, heard);
}

function heard(event) {
  return this._on?.[event.type]?.call(this, event);
}

/** Makes the children of `el` into these. */
export function show(el, ...children) {
  const wanted = document.createElement(el.tagName);
  wanted.append(...children.flat(Infinity).filter(Boolean));
  morphChildren(el, wanted);
}

function morphChildren(from, to) {
  const keyed = new Map([...from.childNodes].filter((n) => n._key).map((n) => [n._key, n]));
  let at = from.firstChild;
  for (const wanted of [...to.childNodes]) {
    const known = wanted._key ? keyed.get(wanted._key) : null;
    if (known && known !== at) from.insertBefore(known, at);
    const old = known ?? (at && !(at._key || wanted._key) ? at : null);
    if (!old || !alike(old, wanted)) {
      from.insertBefore(wanted, old ?? at);
      if (old) {
        if (at === old) at = old.nextSibling;
        old.remove();
      }
      continue;
    }
    if (at === old) at = old.nextSibling;
    morph(old, wanted);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

function alike(a, b) {
  return a.nodeType === b.nodeType && a.nodeName === b.nodeName && (a._key ?? "") === (b._key ?? "");
}

function morph(old, wanted) {
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== wanted.data) old.data = wanted.data;
    return;
  }
  for (const { name } of [...old.attributes]) {
    // What a person opened stays open.
    if (!wanted.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  }
  for (const { name, value } of wanted.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  for (const type of Object.keys(wanted._on ?? {})) {
    if (!old._on?.[type]) old.addEventListener(type, heard);
  }
  old._on = wanted._on;
  if (!["TEXTAREA", "SELECT"].includes(old.nodeName)) morphChildren(old, wanted);
}

/** Says something to whoever listens to the page. */
export function say(text) {
  document.getElementById("said").textContent = text;
}

let asked = 0;

/** Asks before something is changed. Resolves to true, or to the text for `input`; false or null: no. */
export function confirm({ title, text, action, danger = false, input = null }) {
  return new Promise((resolve) => {
    const id = `ask-${++asked}`;
    const field = input && h("input", { id: `${id}-in`, autocomplete: "off", value: "" });
    const dialog = h("dialog", { "aria-labelledby": id },
      h("form", { method: "dialog" },
        h("h2", { id }, title),
        h("p", {}, text),
        field && h("label", { for: `${id}-in` }, input),
        field,
        h("div", { class: "row end" },
          h("button", { value: "no", class: "quiet", type: "submit", formnovalidate: true }, "Cancel"),
          h("button", { value: "yes", type: "submit", class: danger ? "danger" : "strong" }, action))));
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes" ? (field ? field.value : true) : false);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

export function bytes(n) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0;
  while (n >= 1000 && at < units.length - 1) {
    n /= 1000;
    at += 1;
  }
  return `${at && n < 100 ? n.toFixed(1) : Math.round(n)} ${units[at]}`;
}

export function duration(s) {
  if (s < 60) return `${Math.round(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

export function time(unix) {
  return unix ? new Date(unix * 1000).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" }) : "";
}

/** The last eight characters of a did:key, as everywhere in Macula. */
export function short(did) {
  return did.slice(-8);
}

/** The MCIDs of a text with their middle left out. */
export function brief(text) {
  return text.replace(/([0-9a-f]{8})[0-9a-f]{48}([0-9a-f]{8})/g, "$1…$2");
}

/** A state in words, with a mark that does not need colour. */
export function chip(kind, text) {
  const mark = { good: "●", warn: "▲", bad: "■", quiet: "○" }[kind];
  return h("span", { class: `chip ${kind}` }, h("span", { "aria-hidden": "true" }, mark), ` ${text}`);
}

export function card(title, ...children) {
  const id = `c-${title.toLowerCase().replace(/[^a-z]+/g, "-")}`;
  return h("section", { class: "card", "aria-labelledby": id, key: id }, h("h2", { id }, title), ...children);
}

/** Name and value pairs. */
export function facts(pairs) {
  return h("dl", { class: "facts" }, pairs.filter((pair) => pair && pair[1] !== "" && pair[1] !== undefined)
    .map(([name, value]) => h("div", { key: name }, h("dt", {}, name), h("dd", {}, value))));
}

/** A table that scrolls by itself where it does not fit. */
export function table(caption, columns, rows) {
  return h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": caption },
    h("table", {}, h("caption", { class: "hidden" }, caption),
      h("thead", {}, h("tr", {}, columns.map((c) => h("th", { scope: "col" }, c || h("span", { class: "hidden" }, "Actions"))))),
      h("tbody", {}, rows.map(({ key, cells }) => h("tr", { key }, cells.map((c) => h("td", {}, c)))))));
}

export function empty(text, next) {
  return h("p", { class: "empty" }, text, next && h("span", { class: "next" }, ` ${next}`));
}

/** What went wrong, and what to do. */
export function trouble(problem) {
  return h("div", { class: "trouble", role: "alert" },
    h("p", {}, h("strong", {}, problem.detail ?? String(problem))),
    problem.next && h("p", {}, problem.next));
}

export function copyable(text, shown = text) {
  return h("span", { class: "copy" }, h("code", { title: text }, shown),
    h("button", { class: "small quiet", type: "button", "aria-label": `Copy ${text.slice(0, 12)}…`,
      on: { click: () => navigator.clipboard.writeText(text).then(() => say("Copied")) } }, "Copy"));
}
