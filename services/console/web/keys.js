// The key of whoever sits here. It is kept in this browser's database for this origin, made by WebCrypto where that knows Ed25519
// (and then signs), else by the node's own code. Its file is maculactl's `owner.key`: 64 hexadecimal digits and a newline.

import { ask, hex, random, unhex } from "./wasm.js";

// PKCS#8 of an Ed25519 seed (RFC 8410) is this and the seed.
const PKCS8 = unhex("302e020100300506032b657004220420");
const ED25519 = { name: "Ed25519" };

function store(mode, work) {
  return new Promise((resolve, reject) => {
    const open = indexedDB.open("macula", 1);
    open.onupgradeneeded = () => open.result.createObjectStore("keys");
    open.onerror = () => reject(open.error);
    open.onsuccess = () => {
      const transaction = open.result.transaction("keys", mode);
      const request = work(transaction.objectStore("keys"));
      transaction.oncomplete = () => {
        open.result.close();
        resolve(request.result);
      };
      transaction.onerror = () => reject(transaction.error);
    };
  });
}

async function subtle(seed) {
  try {
    return await crypto.subtle.importKey("pkcs8", new Uint8Array([...PKCS8, ...seed]), ED25519, true, ["sign"]);
  } catch {
    return null;
  }
}

export class Key {
  constructor(record, did) {
    Object.assign(this, record, { did });
  }

  static async of(record) {
    return new Key(record, (await ask({ do: "did", public: record.public })).ok);
  }

  /** The key in this browser, or null. */
  static async load() {
    const record = await store("readonly", (keys) => keys.get("owner"));
    return record ? Key.of(record) : null;
  }

  static async create() {
    try {
      const pair = await crypto.subtle.generateKey(ED25519, true, ["sign", "verify"]);
      const raw = new Uint8Array(await crypto.subtle.exportKey("raw", pair.publicKey));
      return await Key.keep({ public: hex(raw), secret: pair.privateKey, proofs: "" });
    } catch {
      return Key.from(random(32));
    }
  }

  /** From the text of a key file. */
  static async parse(text) {
    const digits = text.trim().toLowerCase();
    if (!/^[0-9a-f]{64}$/.test(digits)) {
      throw new Error("This is not a key file: it should hold 64 hexadecimal digits, as `maculactl key new` writes it.");
    }
    return Key.from(unhex(digits));
  }

  static async from(seed) {
    const made = (await ask({ do: "key", seed: hex(seed) })).ok;
    return Key.keep({ public: made, secret: (await subtle(seed)) ?? hex(seed), proofs: "" });
  }

  static async keep(record) {
    const put = (kept) => store("readwrite", (keys) => keys.put(kept, "owner"));
    try {
      await put(record);
      return await Key.of(record);
    } catch {
      // There are browsers that make such keys, and cannot keep them.
      const plain = { ...record, secret: await new Key(record).seed() };
      await put(plain);
      return Key.of(plain);
    }
  }

  static forget() {
    return store("readwrite", (keys) => keys.delete("owner"));
  }

  /** With other delegations, as text. */
  with(proofs) {
    return Key.keep({ public: this.public, secret: this.secret, proofs });
  }

  async seed() {
    if (typeof this.secret === "string") return this.secret;
    return hex(new Uint8Array(await crypto.subtle.exportKey("pkcs8", this.secret)).slice(PKCS8.length));
  }

  /** The key file. */
  async file() {
    return `${await this.seed()}\n`;
  }

  /** Signs exactly these bytes, in hexadecimal. */
  async sign(bytes) {
    if (typeof this.secret === "string") return (await ask({ do: "sign", seed: this.secret, bytes })).ok;
    return hex(new Uint8Array(await crypto.subtle.sign(ED25519, this.secret, unhex(bytes))));
  }

  /** Has something made that this key signs. */
  async signed(question) {
    const asked = { ...question, public: this.public };
    const { sign } = await ask(asked);
    return (await ask({ ...asked, signature: await this.sign(sign) })).ok;
  }

  /** Offers the key file to whoever sits here. */
  async save() {
    const url = URL.createObjectURL(new Blob([await this.file()], { type: "application/octet-stream" }));
    const link = Object.assign(document.createElement("a"), { href: url, download: "owner.key" });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  }
}
