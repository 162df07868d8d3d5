// Requests to the node. Each is signed for itself, for a minute, and good once.

import { ask, hex, random } from "./wasm.js";

const LIFETIME_S = 60;
const FORWARD_S = 300;
// Methods that are one ability under another name (services_api::control::protocol::ability).
const ABILITY = { install: "update", rollback: "update", refresh: "update" };

export class Problem extends Error {
  constructor(status, { detail, next } = {}) {
    super(detail);
    Object.assign(this, { status, detail, next });
  }
}

export class Api {
  constructor(document, key) {
    Object.assign(this, { node: document.node, document, key, epoch: "00".repeat(16), skew: 0, forwards: new Map() });
  }

  static async document() {
    const response = await reach(() => fetch("/.well-known/macula"));
    return response.json();
  }

  now() {
    return Math.floor(Date.now() / 1000 + this.skew);
  }

  /** Calls a method such as `os/status`, here or at another node. */
  async call(method, params, at) {
    const [family, name] = method.split("/");
    const ability = `macula/${family}/${ABILITY[name] ?? name}`;
    const elsewhere = at && at !== this.node ? at : null;
    const path = `/control/${method}${elsewhere ? `?node=${elsewhere}` : ""}`;
    const headers = elsewhere ? { "macula-forward": await this.forward(ability, elsewhere) } : {};
    const response = await this.post(`/${ability}`, path, params, { headers, about: elsewhere });
    return response.json();
  }

  /** Sends a signed request. The node says its time and epoch when they are not those that were signed: then once more. */
  async post(command, path, params, { headers = {}, about = null, signal } = {}) {
    const body = params === undefined ? "" : JSON.stringify(params);
    for (let again = true; ; again = false) {
      const order = {
        do: "order", node: this.node, about: about ?? undefined, command, path, body, epoch: this.epoch,
        nonce: hex(random(16)), expires: this.now() + LIFETIME_S, proofs: about ? "" : this.key.proofs,
      };
      const authorization = await this.key.signed(order);
      const init = { method: "POST", body, headers: { ...headers, authorization }, signal };
      const response = await reach(() => fetch(path, init));
      if (response.ok) return response;
      const problem = await response.json().catch(() => ({ detail: `the node answered ${response.status}` }));
      const stale = response.status === 401 && problem.epoch;
      if (stale) {
        this.epoch = problem.epoch;
        this.skew = problem.time - Date.now() / 1000;
      }
      if (!stale || !again) throw new Problem(response.status, problem);
    }
  }

  /** A short delegation to this node, so that it may ask another one for us. */
  async forward(ability, at) {
    const name = `${ability} ${at}`;
    const known = this.forwards.get(name);
    if (known && known.expires > this.now() + LIFETIME_S) return known.token;
    const expires = this.now() + FORWARD_S;
    const question = { do: "delegate", to: this.node, can: [ability], with: `macula:${at}`, nonce: hex(random(16)), expires };
    const token = await this.key.signed(question);
    this.forwards.set(name, { token, expires });
    return token;
  }

  /** The audit log, verified here. */
  async audit() {
    const response = await this.post("/macula/os/audit", "/control/os/audit");
    return (await ask({ do: "audit", ...(await response.json()) })).ok;
  }
}

async function reach(request) {
  try {
    return await request();
  } catch (e) {
    if (e.name === "AbortError") throw e;
    const next = "See whether it is on and on your network. After a restart its certificate is another: reload the page.";
    throw new Problem(0, { detail: "The node does not answer.", next });
  }
}
