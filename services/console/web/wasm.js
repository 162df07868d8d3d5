// The node's own code (services/console/wasm): one question in JSON, one answer in JSON.

let module;

async function load() {
  return (await WebAssembly.instantiateStreaming(fetch("/console/macula.wasm"))).instance.exports;
}

/** Throws what is wrong as an Error; answers what is under `ok`, or `{sign}` when something has to be signed first. */
export async function ask(question) {
  const wasm = await (module ??= load());
  const text = new TextEncoder().encode(JSON.stringify(question));
  const at = wasm.alloc(text.length);
  new Uint8Array(wasm.memory.buffer, at, text.length).set(text);
  const packed = wasm.call(at, text.length);
  const [from, length] = [Number(packed >> 32n & 0xffffffffn), Number(packed & 0xffffffffn)];
  const answer = JSON.parse(new TextDecoder().decode(new Uint8Array(wasm.memory.buffer, from, length)));
  wasm.free(from, length);
  if (answer.error !== undefined) throw Object.assign(new Error(answer.error), { word: answer.word });
  return answer;
}

export function hex(bytes) {
  return [...bytes].map((b) => b.toString(16).padStart(2, "0")).join("");
}

export function unhex(text) {
  return new Uint8Array((text.match(/../g) ?? []).map((pair) => parseInt(pair, 16)));
}

export function random(length) {
  return crypto.getRandomValues(new Uint8Array(length));
}
