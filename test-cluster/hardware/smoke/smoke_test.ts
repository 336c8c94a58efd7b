import { markerNames } from "@ultracloud/cluster-state";
import assert from "node:assert/strict";
import { tinyIso } from "../mock/tiny_boot.ts";
import { readInputs } from "./inputs.ts";
import { judgeInputs } from "./requirements.ts";
import { parseStatus, RunDir } from "./run_dir.ts";
import { isOurImage, serveIso } from "./serve_iso.ts";
import { siteBytes, siteConfig } from "../../baremetal/site_config.ts";
import { judgeIso, openSiteImage } from "./site_iso.ts";
import { parseNodeRecord, SerialTail } from "./sources.ts";
import { judgeDevice, writeStick } from "./usb.ts";
import { MarkerWatch } from "./watch.ts";

async function tempDir(): Promise<AsyncDisposable & { readonly dir: string }> {
  const dir = await Deno.makeTempDir({ prefix: "uc-smoke-" });
  return { dir, [Symbol.asyncDispose]: () => Deno.remove(dir, { recursive: true }) };
}

const marker = (name: (typeof markerNames)[number] | string, detail = "") =>
  ({ name, node: "node01", detail }) as Parameters<MarkerWatch["take"]>[0];

Deno.test("secrets on the command line are refused, with the file to use instead", () => {
  const read = (...argv: string[]) => () => readInputs(argv, () => undefined);
  assert.throws(read("run", "--token", "x"), /every process of this host would read it: wanted --token-file/);
  assert.throws(read("run", "--bmc-password", "x"), /wanted --bmc-credentials-file/);
  assert.throws(read("run", "--isoo", "x"), /Cannot use --isoo: wanted one of --deployer-url/);
  assert.throws(read("run", "capture"), /Cannot use capture/);
  const env = (name: string) => ({ ULTRACLOUD_SMOKE_NODE: "a", ULTRACLOUD_SMOKE_BMC_URL: "https://b" })[name];
  assert.deepEqual(readInputs(["run", "--node", "c", "--keep-media"], env), {
    command: "run",
    inputs: { "node": "c", "bmc-url": "https://b" },
    keepMedia: true,
  });
});

Deno.test("every lack is told at once, and what others may read is no secret", async () => {
  await using temp = await tempDir();
  const file = (name: string) => `${temp.dir}/${name}`;
  await Deno.writeTextFile(file("token"), "one-shot-token", { mode: 0o644 });
  await Deno.chmod(file("token"), 0o644);
  await Deno.writeTextFile(file("bmc.json"), `{"username": "root"}`, { mode: 0o600 });
  await Deno.writeTextFile(file("no.iso"), "text");
  const { plan, missing } = await judgeInputs({
    "deployer-url": "ftp://deployer",
    "node": "node01",
    "ca-cert-url": "https://deployer:7152/api/v1/ca.crt",
    "token-file": file("token"),
    "iso": file("no.iso"),
    "bmc-url": "http://10.0.0.9",
    "bmc-credentials-file": file("bmc.json"),
    "iso-url": "https://images/uc.iso",
    "timeout-seconds": "soon",
  });
  assert.equal(plan, undefined);
  const told = missing.map(({ input, reason }) => `${input}: ${reason.replaceAll(temp.dir, "DIR")}`);
  assert.deepEqual(told, [
    "--token-file: DIR/token can be read by others (mode 644): wanted chmod 600",
    "--ca-sha256: wanted the SHA-256 that pins the CA of --ca-cert-url",
    "ultracloud.deployer_url: wanted http:// or https://",
    "--iso: DIR/no.iso (4 bytes) is no ISO image",
    "--bmc-credentials-file: DIR/bmc.json is not JSON with the texts username and password",
    "--bmc-url: Cannot use http://10.0.0.9 as credentials would cross the network in clear: wanted https",
    "--iso-url: what is fetched elsewhere cannot be given parameters: wanted --iso-parameters baked with it",
    "--serial-log or --uc-context: wanted a place where the machine's markers can be read",
    "--timeout-seconds: soon is no number of seconds from 1 to 86400",
  ]);
});

Deno.test("parameters are written over the place that the image has for them, and over nothing else", async () => {
  await using temp = await tempDir();
  const file = `${temp.dir}/uc.iso`;
  // Across the border of two pieces of the search, and a second copy.
  const image = new Uint8Array(9 * 1024 * 1024);
  image.set(tinyIso("x", "stop"));
  const places = [4 * 1024 * 1024 - 7, 8 * 1024 * 1024];
  for (const place of places) image.set(siteConfig(""), place);
  await Deno.writeFile(file, image);
  assert.equal(await judgeIso(file, true), undefined);
  const site = await openSiteImage(file, "ultracloud.node_id=node01 ultracloud.bootstrap_token=tok");
  const read = new Uint8Array(await new Response(site.read(0, site.bytesCount)).arrayBuffer());
  for (const place of places) {
    const text = new TextDecoder().decode(read.subarray(place, place + siteBytes));
    assert.match(text, /\nset ultracloud_params="ultracloud\.node_id=node01 ultracloud\.bootstrap_token=tok"\n#/);
    read.set(image.subarray(place, place + siteBytes), place);
  }
  assert.ok(read.every((byte, i) => byte === image[i]));
  assert.deepEqual(await Deno.readFile(file), image);
  // Any part of it is the same part of the whole.
  const part = await new Response(site.read(places[1]! + 80, places[1]! + 150)).text();
  assert.match(part, /ultracloud_params="ultracloud\.node_id/);
});

Deno.test("the site file has its size whatever it holds, and nothing that the boot loader would obey", () => {
  for (const length of [0, 1, 40, 41, 42, 63, 64, 2000]) {
    assert.equal(siteConfig("a".repeat(length)).length, siteBytes);
  }
  for (const bad of [`a"b`, "a'b", "a$b", "a\\b", "a`b", "a\nb", "ä"]) {
    assert.throws(() => siteConfig(bad), /Cannot hand over/);
  }
  assert.throws(() => siteConfig("a".repeat(5000)), /parameters of 5000 characters/);
});

Deno.test("an image without a place for parameters is only good when they are baked in", async () => {
  await using temp = await tempDir();
  const file = `${temp.dir}/plain.iso`;
  await Deno.writeFile(file, tinyIso("x", "stop"));
  assert.match((await judgeIso(file, true))!, /no place for parameters: wanted one with \/boot\/grub\/site\.cfg/);
  assert.equal(await judgeIso(file, false), undefined);
  assert.match((await judgeIso(`${temp.dir}/absent.iso`, false))!, /cannot be read/);
});

Deno.test("the image is served whole and in ranges, under a path that cannot be guessed", async () => {
  await using temp = await tempDir();
  const file = `${temp.dir}/plain.iso`;
  const bytes = tinyIso("served", "stop");
  await Deno.writeFile(file, bytes);
  await using served = serveIso(await openSiteImage(file, undefined), "20260401T120000Z", "127.0.0.1:0");
  assert.ok(isOurImage(served.url) && !isOurImage("http://elsewhere/other.iso"));
  const get = async (range?: string, url = served.url, method = "GET") => {
    const answer = await fetch(url, { method, headers: range === undefined ? {} : { range } });
    return { status: answer.status, body: new Uint8Array(await answer.arrayBuffer()), headers: answer.headers };
  };
  assert.deepEqual((await get()).body, bytes);
  const head = await get(undefined, served.url, "HEAD");
  assert.equal(head.headers.get("content-length"), String(bytes.length));
  const part = await get("bytes=100-199");
  assert.equal(part.status, 206);
  assert.deepEqual(part.body, bytes.slice(100, 200));
  assert.equal(part.headers.get("content-range"), `bytes 100-199/${bytes.length}`);
  assert.deepEqual((await get("bytes=-16")).body, bytes.slice(-16));
  assert.deepEqual((await get(`bytes=${bytes.length - 8}-`)).body, bytes.slice(-8));
  assert.equal((await get(`bytes=${bytes.length}-`)).status, 416);
  assert.equal((await get(undefined, new URL("/ultracloud-smoke-20260401T120000Z.iso", served.url).href)).status, 404);
});

Deno.test("MarkerWatch passes the path in order, from two records of it", () => {
  const watch = new MarkerWatch("node01");
  assert.deepEqual(watch.verdict(), { state: "waiting", next: "pre-install.boot" });
  for (const name of markerNames) {
    watch.take(marker(name), "serial", 0);
    if (name !== "pre-install.boot" && name !== "desired-system-active") watch.take(marker(name), "deployer", 0);
  }
  assert.deepEqual(watch.verdict(), { state: "passed" });
});

Deno.test("MarkerWatch wants every marker, takes a power cut, and fails by the cause or by the order", () => {
  const through = (...names: string[]) => {
    const watch = new MarkerWatch("node01");
    for (const name of names) watch.take(marker(name, name.endsWith("failed") ? "disk_mismatch: no" : ""), "serial", 0);
    return watch;
  };
  const [boot, home, bundle, disko, install, reboot, post, active] = markerNames;
  const lost = through(boot, home, bundle, install, reboot, post, active);
  assert.deepEqual(lost.verdict(), { state: "waiting", next: disko });
  const cut = through(boot, home, bundle, boot, home, bundle, disko, install, reboot, post, active);
  assert.deepEqual([cut.verdict().state, cut.attempts], ["passed", 2]);
  assert.deepEqual(through(boot, home, "install.disko.failed").verdict(), {
    state: "failed",
    marker: "install.disko.failed",
    reason: "disk_mismatch: no",
  });
  assert.equal(through(...markerNames.slice(0, 7), "desired-system-rolled-back").verdict().state, "failed");
  const backwards = through(boot, home, bundle, disko, home).verdict();
  assert.match(backwards.state === "failed" ? backwards.reason : "", /out of order: after install\.disko\.complete/);
  const other = new MarkerWatch("node02");
  other.take(marker(boot), "serial", 0);
  assert.deepEqual(other.seen, []);
});

Deno.test("SerialTail gives each marker once, waits for whole lines, and begins anew with the log", async () => {
  await using temp = await tempDir();
  const file = `${temp.dir}/serial.log`;
  const names = async (tail: SerialTail) => (await tail.poll()).map(({ name }) => name);
  await Deno.writeTextFile(file, "ULTRACLOUD_MARKER reboot.node01\n");
  const tail = new SerialTail(file, (await Deno.stat(file)).size);
  assert.deepEqual(await names(tail), []);
  await Deno.writeTextFile(file, "[  1.0] ULTRACLOUD_MARKER pre-install.boot.node01\r\nULTRACLOUD_MA", {
    append: true,
  });
  assert.deepEqual(await names(tail), ["pre-install.boot"]);
  await Deno.writeTextFile(file, "RKER post-install.boot.node01 x\n", { append: true });
  assert.deepEqual(await names(tail), ["post-install.boot"]);
  await Deno.writeTextFile(file, "ULTRACLOUD_MARKER reboot.node01\n");
  assert.deepEqual(await names(tail), ["reboot"]);
  assert.deepEqual(await names(new SerialTail(`${temp.dir}/absent`, 0)), []);
});

Deno.test("of the deployer's record counts what is newer than the start", () => {
  const json = JSON.stringify({
    markers: [
      { name: "reboot", detail: "", time: "2026-04-01T10:00:00Z" },
      { name: "pre-install.boot", detail: "again", time: "2026-04-01T11:00:00.5Z" },
      { name: "unheard.of", time: "2026-04-01T12:00:00Z" },
    ],
  });
  const after = Date.parse("2026-04-01T10:30:00Z");
  const record = parseNodeRecord(json, "node01", after);
  assert.deepEqual(record.markers.map(({ name, detail }) => [name, detail]), [["pre-install.boot", "again"]]);
  assert.equal(record.newestMs, Date.parse("2026-04-01T12:00:00Z"));
  assert.deepEqual(parseNodeRecord("{}", "node01", 0), { markers: [], newestMs: 0, json: "{}" });
});

Deno.test("a run's files hold no secret in any writing, and its status survives a shell", async () => {
  await using temp = await tempDir();
  const run = await RunDir.make(temp.dir, new Date("2026-04-01T12:00:00Z"));
  run.hide(`pass"word/1`);
  await run.write(
    "a.json",
    JSON.stringify({ password: `pass"word/1`, url: `x?p=${encodeURIComponent(`pass"word/1`)}` }),
  );
  assert.equal(await run.read("a.json"), `{"password":"<secret>","url":"x?p=<secret>"}\n`);
  await run.setStatus({ status: "failed", reason: `it's "x" $HOME\nand pass"word/1`, count: 2 });
  const text = (await run.read("status.env"))!;
  const shell = await new Deno.Command("sh", {
    args: ["-c", `. ${run.dir}/status.env; printf %s "$reason"`],
  }).output();
  assert.equal(new TextDecoder().decode(shell.stdout), `it's "x" $HOME and <secret>`);
  assert.equal(parseStatus(text)["reason"], `it's "x" $HOME and <secret>`);
  const again = await RunDir.open(temp.dir, "latest");
  assert.deepEqual([again.id, again.status["status"], again.status["count"]], ["20260401T120000Z", "failed", "2"]);
  const next = await RunDir.make(temp.dir, new Date("2026-04-01T12:00:00Z"));
  assert.equal(next.id, "20260401T120000Z-1");
  await assert.rejects(RunDir.open(temp.dir, "../other"), /wanted the name of its directory/);
  await assert.rejects(RunDir.open(temp.dir, "20990101T000000Z"), /wanted preflight or run first/);
});

Deno.test("only a whole, removable, unused disk that was named twice is written", () => {
  const stick = { path: "/dev/sdz", type: "disk", rm: true, tran: "usb", size: 1000, ro: false, mountpoints: [null] };
  const judge = (change: Partial<typeof stick> & { children?: (typeof stick)[] }, confirm = "/dev/sdz") =>
    judgeDevice("/dev/sdz", { ...stick, ...change }, 500, confirm);
  assert.equal(judge({}), undefined);
  assert.match(judge({ type: "part" })!, /wanted a whole disk/);
  assert.match(judge({ rm: false, tran: "sata" })!, /neither removable nor on USB/);
  assert.match(judge({ ro: true })!, /read-only/);
  assert.match(judge({ children: [{ ...stick, mountpoints: ["/mnt"] as never }] })!, /mounted at \/mnt/);
  assert.match(judge({ size: 499 })!, /wanted the 500 of the image/);
  assert.match(judge({}, "/dev/sdy")!, /wanted --usb-confirm \/dev\/sdz/);
});

Deno.test("a stick that reads back differently is not trusted", async () => {
  await using temp = await tempDir();
  const iso = `${temp.dir}/uc.iso`;
  await Deno.writeFile(iso, tinyIso("stick", "stop"));
  const image = await openSiteImage(iso, undefined);
  const device = `${temp.dir}/stick`;
  await Deno.writeFile(device, new Uint8Array(image.bytesCount + 4096).fill(7));
  assert.match(await writeStick(image, device), /^[0-9a-f]{64}$/);
  assert.deepEqual((await Deno.readFile(device)).slice(0, image.bytesCount), tinyIso("stick", "stop"));
  const longer = { ...image, bytesCount: image.bytesCount + 10, read: () => image.read(0, image.bytesCount) };
  await assert.rejects(writeStick(longer, device), /Cannot trust .*stick: it reads back as [0-9a-f]{64}, wanted/);
});
