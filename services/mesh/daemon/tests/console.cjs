// Drives the console in Chromium as a person would: with the key file, by mouse, by keyboard, on a large and a small screen, in light
// and dark. Prints what it did; ends with 1 at the first thing that is not as it must be.

const assert = require("node:assert/strict");
const fs = require("node:fs");
const path = require("node:path");
const { chromium } = require("playwright-core");

const [port, keyFile, attic] = process.argv.slice(2);
const origin = `https://localhost:${port}`;
const pictures = process.env.MACULA_PICTURES;
const axe = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const PAGES = ["node", "map", "content", "apps", "releases", "logs", "audit", "keys"];
const WAIT = { timeout: 60000 };
// axe is evaluated in the page, which its policy forbids. Where axe is not needed the policy holds.
const AXE = { bypassCSP: true };

let shown = null;
const started = Date.now();
function did(what) {
  console.log(`${((Date.now() - started) / 1000).toFixed(1).padStart(6)} s  ${what}`);
}

async function context(browser, options) {
  const made = await browser.newContext({ ignoreHTTPSErrors: true, ...options });
  const page = await made.newPage();
  page.setDefaultTimeout(30000);
  // That a request was refused is part of the play.
  const noise = (m) => ["error", "warning"].includes(m.type()) && !m.text().startsWith("Failed to load resource");
  page.on("console", (m) => noise(m) && page._noise?.push(m.text()));
  page.on("pageerror", (e) => page._noise?.push(String(e)));
  page._noise = [];
  shown = page;
  return page;
}

async function signIn(page) {
  await page.goto(origin);
  await page.getByLabel("Key file", { exact: true }).setInputFiles(keyFile);
  await page.getByRole("status").filter({ hasText: "live" }).waitFor(WAIT);
}

async function open(page, name) {
  await page.goto(`${origin}/#/${name}`);
  await page.locator(`nav a[aria-current][href="#/${name}"]`).waitFor();
  await page.locator(".wait").waitFor({ state: "detached" });
}

async function audit(page, what) {
  await page.evaluate(axe);
  const found = await page.evaluate(() => axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] }));
  const told = found.violations.map((v) => `${v.id}: ${v.help}\n${v.nodes.map((n) => `  ${n.html}\n  ${n.failureSummary}`).join("\n")}`);
  assert.equal(told.length, 0, `${what}\n${told.join("\n")}`);
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  assert.ok(wide <= 0, `${what}: the page is ${wide} px wider than the screen`);
}

async function picture(page, name) {
  if (!pictures) return;
  fs.mkdirSync(pictures, { recursive: true });
  await page.screenshot({ path: path.join(pictures, `console-${name}.png`) });
}

async function confirmed(page, button) {
  const dialog = page.getByRole("dialog");
  await dialog.waitFor();
  await dialog.getByRole("button", { name: button, exact: true }).click();
  await dialog.waitFor({ state: "detached" });
}

async function mainPaths(page) {
  const unit = page.getByRole("row").filter({ hasText: /^dht/ });
  await unit.getByText("ready").waitFor();
  await unit.getByRole("button", { name: "Restart dht" }).click();
  await confirmed(page, "Restart");
  await unit.getByText("restarting").waitFor();
  await unit.getByText("ready").waitFor();
  did("a unit restarts, and the page follows");

  await page.getByRole("button", { name: "Power off" }).click();
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "detached" });
  did("nothing is switched off without a yes");

  await open(page, "map");
  await page.locator(".map .dot.direct").nth(1).waitFor();
  await page.getByRole("link", { name: attic.slice(-8), exact: true }).click();
  await page.getByRole("heading", { name: `Node ${attic.slice(-8)}` }).waitFor();
  await page.getByRole("row").filter({ hasText: /^identity/ }).waitFor();
  did("another node is looked at through this one");

  await open(page, "content");
  await page.getByText("6.0 MB of 6.0 MB").first().waitFor();
  await open(page, "releases");
  await page.getByText("this node takes no release").waitFor();
  await page.getByLabel("Channel").fill("stable");
  await page.getByLabel("Publisher's id").fill(attic);
  await page.getByRole("button", { name: "Follow" }).click();
  await confirmed(page, "Follow");
  await page.getByText(`stable, of …${attic.slice(-8)}`).waitFor();
  did("a channel is followed, by one change of the configuration");

  await page.getByLabel("MCID of the release's metadata").fill("nonsense");
  await page.getByRole("button", { name: "Install", exact: true }).click();
  await page.getByText("64 hexadecimal digits").waitFor();
  await page.getByLabel("MCID of the release's metadata").fill(`mcid1-raw-blake3-${"ab".repeat(32)}`);
  await page.getByRole("button", { name: "Install", exact: true }).click();
  await confirmed(page, "Install");
  await page.getByRole("button", { name: "Roll back" }).click();
  await confirmed(page, "Roll back");
  await page.getByRole("alert").filter({ hasText: "there is no release to go back to" }).waitFor();
  await page.getByRole("button", { name: "Dismiss" }).click();
  await open(page, "node");
  await page.getByRole("progressbar", { name: /Installing 0.2.0/ }).waitFor();
  did("a release is installed, and what the node refuses is said");

  await open(page, "logs");
  const lines = page.locator("#log > div");
  const before = await lines.count();
  await page.waitForFunction((n) => document.querySelectorAll("#log > div").length > n, before);
  await page.getByLabel("Contains").fill("renewal");
  await page.waitForFunction(() => [...document.querySelectorAll("#log .text")].every((t) => t.textContent.includes("renewal")));
  await page.getByLabel("Contains").fill("");
  await page.getByLabel("Unit").selectOption("mesh");
  await page.waitForFunction(() => [...document.querySelectorAll("#log .unit")].every((t) => t.textContent === "mesh"));
  await page.getByLabel("Unit").selectOption("");
  did("logs come by themselves and are filtered");

  await open(page, "audit");
  await page.getByText("Every record follows from the one before.").waitFor();
  did("the audit log is verified in the browser");

  await open(page, "keys");
  const saving = page.waitForEvent("download");
  await page.getByRole("button", { name: "Save the key file" }).click();
  const file = await (await saving).path();
  assert.equal(fs.readFileSync(file, "utf8"), fs.readFileSync(keyFile, "utf8"), "the same file that came in");
  did("the key file that goes out is the one that came in");
}

async function keyboard(page) {
  await page.goto(`${origin}/#/node`);
  // So that the first Tab begins at the top.
  await page.reload();
  await page.getByRole("status").filter({ hasText: "live" }).waitFor(WAIT);
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.className), "skip", "the first stop leads past the navigation");
  const reached = [];
  for (let n = 0; n < 12; n += 1) {
    await page.keyboard.press("Tab");
    reached.push(await page.evaluate(() => document.activeElement.textContent.trim()));
  }
  for (const name of ["Map", "Logs", "Keys"]) assert.ok(reached.includes(name), `${name} is reached with Tab: ${reached}`);
  await page.getByRole("link", { name: "Releases" }).focus();
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { level: 1, name: "Releases" }).waitFor();
  await page.getByRole("button", { name: "Roll back" }).focus();
  await page.keyboard.press("Enter");
  await page.getByRole("dialog").waitFor();
  assert.ok(await page.evaluate(() => document.activeElement.closest("dialog")), "focus goes into the question");
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "detached" });
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Roll back", "and comes back");
  did("all of it with the keyboard");
}

async function offline(page) {
  await open(page, "node");
  await page.context().setOffline(true);
  await page.getByRole("status").filter({ hasText: "offline" }).waitFor();
  await page.getByRole("alert").filter({ hasText: "The node does not answer." }).waitFor();
  await page.getByRole("row").filter({ hasText: /^dht/ }).waitFor();
  await audit(page, "offline");
  await picture(page, "offline");
  await page.context().setOffline(false);
  await page.getByRole("status").filter({ hasText: "live" }).waitFor();
  await page.getByRole("alert").waitFor({ state: "detached" });
  did("a node that is away is said to be, what was seen stays, and it comes back by itself");
}

async function wrongKey(browser) {
  const page = await context(browser, AXE);
  await page.goto(origin);
  await page.getByRole("heading", { name: "Who are you?" }).waitFor();
  await audit(page, "sign in");
  await picture(page, "sign-in");
  await page.getByText("Type it instead").click();
  await page.getByLabel("64 hexadecimal digits").fill("abc");
  await page.getByRole("button", { name: "Use this key" }).click();
  await page.getByRole("alert").filter({ hasText: "not a key file" }).waitFor();
  await page.getByRole("button", { name: "Make a key" }).click();
  await page.getByRole("alert").filter({ hasText: "owner" }).first().waitFor();
  await page.getByRole("status").filter({ hasText: "refused" }).waitFor();
  await audit(page, "refused");
  await page.reload();
  await page.getByRole("status").filter({ hasText: "refused" }).waitFor();
  await open(page, "keys");
  assert.match(await page.textContent("main"), /did:key:z6Mk/);
  await page.getByRole("button", { name: "Forget it here" }).click();
  await confirmed(page, "Forget it");
  await page.getByRole("heading", { name: "Who are you?" }).waitFor();
  await page.context().close();
  did("a key that is not the owner's is refused, and kept until it is forgotten");
}

async function looks(browser, name, options) {
  const page = await context(browser, { ...AXE, ...options });
  await signIn(page);
  for (const at of PAGES) {
    await open(page, at);
    if (at === "audit") await page.getByText("Every record follows").waitFor();
    if (at === "map") await page.locator(".map .dot.direct").nth(1).waitFor();
    await audit(page, `${at}, ${name}`);
    await picture(page, `${at}-${name}`);
  }
  if (name === "light") await offline(page);
  const shift = await page.evaluate(() => new Promise((resolve) => {
    let sum = 0;
    new PerformanceObserver((list) => list.getEntries().forEach((e) => { if (!e.hadRecentInput) sum += e.value; })).observe({ type: "layout-shift", buffered: true });
    setTimeout(() => resolve(sum), 300);
  }));
  assert.ok(shift < 0.1, `${name}: things move about: ${shift}`);
  assert.deepEqual(page._noise, [], "nothing is wrong in the browser's own console");
  await page.context().close();
  did(`${name}: nothing for axe to find; layout shift ${shift.toFixed(3)}`);
}

async function main() {
  const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox", "--disable-quic"] });
  try {
    await wrongKey(browser);
    const page = await context(browser, { viewport: { width: 1280, height: 800 }, acceptDownloads: true });
    await signIn(page);
    did("signed in with the key file");
    await mainPaths(page);
    await keyboard(page);
    assert.deepEqual(page._noise, [], "nothing is wrong in the browser's own console, under the page's policy");
    await page.context().close();
    const wide = { viewport: { width: 1280, height: 800 } };
    const narrow = { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true, deviceScaleFactor: 2 };
    await looks(browser, "light", { ...wide, colorScheme: "light" });
    await looks(browser, "dark", { ...wide, colorScheme: "dark" });
    await looks(browser, "phone-light", { ...narrow, colorScheme: "light" });
    await looks(browser, "phone-dark", { ...narrow, colorScheme: "dark", reducedMotion: "reduce" });
    await looks(browser, "small", { viewport: { width: 360, height: 640 } });
  } catch (e) {
    console.error("the page says:", await shown.locator("main").innerText({ timeout: 1000 }).catch(String), shown._noise);
    throw e;
  } finally {
    await browser.close();
  }
}

main().catch((e) => {
  console.error(e);
  process.exit(1);
});
