// A person with a phone who has scanned the code. Prints what came of it as JSON, on the last line.

const assert = require("node:assert/strict");
const fs = require("node:fs");
const path = require("node:path");
const { chromium } = require("playwright-core");

const [what, url, words] = process.argv.slice(2);
// `MAP <address in the code> <address of this host>`: the way from here to the node.
const way = process.env.MACULA_WAY;
const pictures = process.env.MACULA_PICTURES;
const axe = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

async function look(page, name) {
  await page.evaluate(axe);
  const found = await page.evaluate(() => axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] }));
  assert.deepEqual(found.violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.html)}`), [], name);
  if (!pictures) return;
  fs.mkdirSync(pictures, { recursive: true });
  await page.screenshot({ path: path.join(pictures, `console-${name}.png`) });
}

async function connect(page) {
  await page.goto(url);
  await page.getByRole("heading", { name: "Whose node will it be?" }).waitFor();
  assert.equal(new URL(page.url()).hash, "", "the code is out of the address");
  if (what === "pair") await look(page, "pair-key");
  await page.getByRole("button", { name: "Make a key" }).click();
  await page.getByRole("button", { name: "Connect" }).first().click();
}

async function pair(page) {
  await connect(page);
  await page.getByRole("heading", { name: "What is the node to be?" }).waitFor();
  await page.getByLabel("Name", { exact: true }).fill("porch");
  await page.getByLabel("Realm").fill("acme");
  await page.getByLabel("Channel").fill("stable");
  await look(page, "pair-setup");
  await page.getByRole("button", { name: "Make it mine" }).click();
  await page.getByRole("heading", { name: "It is yours" }).waitFor();
  await look(page, "pair-done");
  const saving = page.waitForEvent("download");
  await page.getByRole("button", { name: "Save the key file" }).click();
  assert.match(fs.readFileSync(await (await saving).path(), "utf8"), /^[0-9a-f]{64}\n$/);
  const owner = await page.locator("code[title^='did:key:']").first().getAttribute("title");
  // The node's mesh starts anew with its owner.
  for (let n = 0; ; n += 1) {
    await page.waitForTimeout(2000);
    await page.goto(new URL("/", page.url()).href).catch(() => {});
    const live = page.getByRole("status").filter({ hasText: "live" });
    if (await live.waitFor({ timeout: 5000 }).then(() => true, () => false)) break;
    assert.ok(n < 15, "the console opens with the new key");
  }
  return { owner };
}

async function refused(page) {
  await connect(page);
  await page.getByRole("alert").filter({ hasText: words }).waitFor();
  await page.getByRole("button", { name: "Try again" }).waitFor();
  await look(page, "pair-refused");
  return { said: true };
}

async function main() {
  const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox", "--disable-quic", ...(way ? [`--host-resolver-rules=${way}`] : [])] });
  try {
    const options = { ignoreHTTPSErrors: true, bypassCSP: true, viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true, deviceScaleFactor: 2, acceptDownloads: true };
    const page = await (await browser.newContext(options)).newPage();
    page.setDefaultTimeout(60000);
    page.on("pageerror", (e) => console.error(String(e)));
    console.log(JSON.stringify(await (what === "pair" ? pair(page) : refused(page))));
  } finally {
    await browser.close();
  }
}

main().catch((e) => {
  console.error(e);
  process.exit(1);
});
