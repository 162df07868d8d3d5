// What the node tells as it changes: server-sent events over fetch, since EventSource cannot sign.

const PAUSES_MS = [500, 1000, 2000, 5000, 10000];
const LOG_LINES = 3000;

/** RFC 7396. */
function patched(value, patch) {
  if (patch === null || typeof patch !== "object" || Array.isArray(patch)) return patch;
  const result = value && typeof value === "object" && !Array.isArray(value) ? { ...value } : {};
  for (const [name, change] of Object.entries(patch)) {
    if (change === null) delete result[name];
    else result[name] = patched(result[name], change);
  }
  return result;
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (text + value).split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const [, name, data] = part.match(/^event: (.*)\ndata: (.*)$/s) ?? [];
      yield name ? { name, data: JSON.parse(data) } : null;
    }
  }
}

/** Watches until stopped; `seen` is filled, `changed` is called after each news. */
export class Live {
  constructor(api, watch, seen, changed) {
    Object.assign(this, { api, watch, seen, changed, attempts: 0 });
    this.online = () => this.retry?.();
    this.offline = () => this.abort?.abort();
    addEventListener("online", this.online);
    addEventListener("offline", this.offline);
    this.run();
  }

  stop() {
    this.stopped = true;
    removeEventListener("online", this.online);
    removeEventListener("offline", this.offline);
    this.abort?.abort();
    this.retry?.();
  }

  async run() {
    while (!this.stopped) {
      try {
        await this.once();
      } catch (problem) {
        if (this.stopped) return;
        this.seen.problem = problem;
        this.seen.connection = problem.status === 0 || problem.status >= 500 ? "offline" : "refused";
        this.changed();
      }
      if (this.stopped) return;
      await new Promise((resolve) => {
        this.retry = resolve;
        setTimeout(resolve, PAUSES_MS[Math.min(this.attempts, PAUSES_MS.length - 1)]);
      });
      this.attempts += 1;
    }
  }

  async once() {
    this.abort = new AbortController();
    const response = await this.api.post("/macula/live", "/control/live", { watch: this.watch }, { signal: this.abort.signal });
    // A stream that says nothing, not even that it lives, is one whose node has gone.
    let timer;
    const alive = () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.abort.abort(), 40000);
    };
    alive();
    try {
      for await (const event of events(response)) {
        alive();
        Object.assign(this, { attempts: 0 });
        Object.assign(this.seen, { connection: "live", problem: null });
        if (event) this.take(event);
        this.changed();
      }
    } catch (e) {
      if (this.stopped) throw e;
    } finally {
      clearTimeout(timer);
    }
    if (!this.stopped) this.seen.connection = "offline";
    this.changed();
  }

  take({ name, data }) {
    const { seen } = this;
    if (name === "refused" || name === "failed") {
      seen.trouble = { ...seen.trouble, [data.what]: { kind: name, detail: data.why } };
      delete seen[data.what];
      return;
    }
    const what = name.replace(/-patch$/, "");
    seen.trouble = { ...seen.trouble, [what]: undefined };
    seen.at = { ...seen.at, [what]: Date.now() };
    if (what === "logs") this.lines(data);
    else seen[what] = name === what ? data : patched(seen[what], data);
  }

  lines({ missed, lines }) {
    const gap = missed ? [{ gap: true, at_ms: lines[0]?.at_ms ?? 0, unit: "", text: "some lines are missing here" }] : [];
    const known = this.seen.logs ?? [];
    // After a new connection the newest come again.
    const last = known.at(-1);
    const fresh = last && !missed ? lines.filter((l) => l.at_ms > last.at_ms || !known.some((k) => same(k, l))) : lines;
    for (const line of [...gap, ...fresh]) line.id = this.seen.logged = (this.seen.logged ?? 0) + 1;
    this.seen.logs = [...known, ...gap, ...fresh].slice(-LOG_LINES);
  }
}

function same(a, b) {
  return a.at_ms === b.at_ms && a.unit === b.unit && a.text === b.text;
}
