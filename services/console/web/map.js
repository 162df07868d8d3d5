// The realm as this node sees it: itself in the middle, who is connected around it, through whom, and who is known but away.

import { bytes, card, chip, empty, h, short, table, trouble } from "./dom.js";

export const title = "Map";
const NARROW = matchMedia("(max-width: 599px)");

export function enter(app) {
  NARROW.onchange = app.draw;
}

/** How a peer is reached: a word, and the class of its line. */
export function way(peer) {
  if (!peer.connected) return ["away", "away"];
  if (peer.via === "tcp") return ["direct over TCP", "tcp"];
  if (peer.via) return [`through ${short(peer.via)}`, "relayed"];
  return ["direct", "direct"];
}

export function draw(app) {
  const { seen } = app;
  if (seen.trouble?.peers) return [trouble(seen.trouble.peers)];
  if (!seen.peers) return [h("p", { class: "wait" }, "Asking the node…")];
  const peers = Object.values(seen.peers).sort((a, b) => (a.node < b.node ? -1 : 1));
  if (!peers.length) {
    return [card("Nobody yet", empty("This node knows no other.",
      "Nodes on the same network meet by themselves; others are met through `mesh.seeds` in the configuration."))];
  }
  return [
    card("Picture", picture(app, peers), legend()),
    card("Peers", peerTable(peers)),
  ];
}

/** Width, height, and the radii of the two rings: small screens get a smaller picture, not smaller letters. */
function measures(crowd) {
  return NARROW.matches ? [380, 380, 115, 100, 145, 145] : [640, 400, crowd ? 190 : 165, crowd ? 120 : 105, 275, 150];
}

/** The directly reached on an inner ring, the others outside: those behind a relay next to it. */
function places(peers, [width, height, rx, ry, outerX, outerY]) {
  const near = peers.filter((p) => p.connected && (!p.via || p.via === "tcp"));
  const angles = new Map(near.map((peer, at) => [peer.node, Math.PI + (2 * Math.PI * at) / near.length]));
  const behind = new Map();
  const away = peers.filter((p) => !near.includes(p) && !angles.has(p.via));
  for (const peer of peers.filter((p) => !near.includes(p) && angles.has(p.via))) {
    const count = (behind.get(peer.via) ?? 0) + 1;
    behind.set(peer.via, count);
    angles.set(peer.node, angles.get(peer.via) + Math.ceil(count / 2) * (count % 2 ? -1 : 1) * (NARROW.matches ? 0.9 : 0.5));
  }
  const step = (2 * Math.PI) / Math.max(3, away.length);
  away.forEach((peer, at) => angles.set(peer.node, Math.PI + step / 2 + step * at));
  const place = (peer) => {
    const [x, y] = near.includes(peer) ? [rx, ry] : [outerX, outerY];
    return [width / 2 + x * Math.cos(angles.get(peer.node)), height / 2 + y * Math.sin(angles.get(peer.node)) - 12];
  };
  return new Map(peers.map((peer) => [peer.node, place(peer)]));
}

function picture(app, peers) {
  const size = measures(peers.length > 8);
  const [width, height] = size;
  const at = places(peers, size);
  const center = [width / 2, height / 2 - 12];
  const rows = [center[1], ...[...at.values()].map(([, y]) => y)];
  const [top, bottom] = [Math.min(...rows) - 44, Math.max(...rows) + 76];
  const line = ([x1, y1], [x2, y2], kind, key) => h("svg:line", { key, class: `line ${kind}`, x1, y1, x2, y2 });
  const lines = peers.flatMap((peer) => {
    const [, kind] = way(peer);
    const to = at.get(peer.node);
    if (kind === "away") return [];
    return [line(kind === "relayed" ? at.get(peer.via) ?? center : center, to, kind, `l${peer.node}`)];
  });
  const dot = (key, [x, y], kind, label, below, href) => {
    const shape = [h("svg:circle", { cx: x, cy: y, r: kind === "me" ? 26 : 17 }),
      h("svg:text", { x, y: y + (kind === "me" ? 44 : 33), "text-anchor": "middle" }, label),
      below && h("svg:text", { class: "small", x, y: y + (kind === "me" ? 60 : 48), "text-anchor": "middle" }, below)];
    return h("svg:g", { key, class: `dot ${kind}` }, href ? h("svg:a", { href }, shape) : shape);
  };
  const dots = peers.map((peer) => dot(peer.node, at.get(peer.node), `${way(peer)[1]}${peer.relay ? " relay" : ""}`, short(peer.node),
    peer.connected ? `${(peer.rtt_us / 1000).toFixed(peer.rtt_us < 10000 ? 1 : 0)} ms` : "away", peer.connected ? `#/node/${peer.node}` : null));
  const connected = peers.filter((p) => p.connected).length;
  return h("svg:svg", { class: "map", viewBox: `0 ${top} ${width} ${bottom - top}`, role: "group",
    "aria-label": `This node and ${peers.length} others, ${connected} of them connected. The table below says the same.` },
    lines, dots, dot("me", center, "me", app.seen.status?.name ?? short(app.document.node), "this node"));
}

function legend() {
  const sample = (kind, text) => h("li", { key: kind }, h("svg:svg", { class: "map sample", viewBox: "0 0 40 10", "aria-hidden": "true" },
    h("svg:line", { class: `line ${kind}`, x1: 0, y1: 5, x2: 40, y2: 5 })), text);
  return h("ul", { class: "legend" }, sample("direct", "direct"), sample("relayed", "through a relay"), sample("tcp", "over TCP"));
}

function peerTable(peers) {
  return table("Peers", ["Node", "Reached", "Round trip", "Address", "Sent / received", "Known by"], peers.map((peer) => ({
    key: peer.node,
    cells: [
      peer.connected ? h("a", { href: `#/node/${peer.node}`, title: peer.node }, short(peer.node)) : h("span", { title: peer.node }, short(peer.node)),
      h("span", {}, chip(peer.connected ? "good" : "quiet", way(peer)[0]), peer.relay && h("span", { class: "id" }, "relay"),
        !peer.connected && peer.last_error && h("span", { class: "under" }, peer.last_error)),
      peer.connected ? `${(peer.rtt_us / 1000).toFixed(1)} ms` : "",
      h("span", { class: "wrap" }, peer.address || (peer.addresses ?? []).join(", ") || "unknown"),
      `${bytes(peer.sent_bytes)} / ${bytes(peer.received_bytes)}`,
      peer.source,
    ],
  })));
}
