import type { Clock } from "@ultracloud/base";
import { createTestCa } from "@ultracloud/testing";
import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import { type MockBmc, startMockBmc } from "../mock/bmc.ts";
import { SwitchesOnly } from "../mock/machine.ts";
import { type QuirkProfile, quirkProfiles, type Quirks } from "../mock/quirks.ts";
import {
  bootOnceFromMedia,
  discover,
  ejectMedia,
  insertMedia,
  openTransport,
  planReset,
  readLogs,
  readMedia,
  Redfish,
  resetSystem,
} from "./mod.ts";

const credentials = { username: "operator", password: "cörrect horse:battery" };

interface World extends AsyncDisposable {
  readonly bmc: MockBmc;
  readonly machine: SwitchesOnly;
  readonly imageUrl: string;
  readonly dir: string;
}

async function world(quirks: Quirks, tls?: { certPem: string; keyPem: string }): Promise<World> {
  const dir = await Deno.makeTempDir({ prefix: "uc-bmc-" });
  const machine = new SwitchesOnly();
  const bmc = startMockBmc({ quirks, ...credentials, serial: "SN-1", dir, ...(tls ? { tls } : {}) }, machine);
  const images = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen: () => {} },
    (request) =>
      new URL(request.url).pathname === "/uc.iso" ? new Response("image") : new Response("", { status: 404 }),
  );
  return {
    bmc,
    machine,
    dir,
    imageUrl: `http://127.0.0.1:${(images.addr as Deno.NetAddr).port}/uc.iso`,
    async [Symbol.asyncDispose]() {
      await bmc[Symbol.asyncDispose]();
      await images.shutdown();
      await Deno.remove(dir, { recursive: true });
    },
  };
}

/** Seconds of waiting pass in milliseconds; the BMC gets real time to work in between. */
function hurriedClock(): Clock {
  let skippedMs = 0;
  return {
    nowMs: () => Date.now() + skippedMs,
    monotonicMs: () => performance.now() + skippedMs,
    sleep: async (ms) => {
      skippedMs += ms;
      await new Promise((resolve) => setTimeout(resolve, 5));
    },
  };
}

const open = (bmc: MockBmc, more: Partial<Parameters<typeof openTransport>[0]> = {}) =>
  Redfish.open({ credentials }, { transport: openTransport({ url: bmc.url, ...more }), clock: hurriedClock() });
const quiet = { ours: () => false, say: () => {} };

for (const name of Object.keys(quirkProfiles) as QuirkProfile[]) {
  Deno.test(`${name}: a machine is found, filled, started once from the image and emptied again`, async () => {
    await using w = await world(quirkProfiles[name]);
    await using redfish = await open(w.bmc);
    const found = await discover(redfish);
    assert.equal(found.serial, "SN-1");
    const said: string[] = [];
    const slot = await insertMedia(redfish, found.slots, {
      image: w.imageUrl,
      ours: () => false,
      say: (line) => said.push(line),
    });
    assert.equal((await readMedia(redfish, slot)).inserted, true);
    assert.equal(
      said.filter((line) => /without an attached image/.test(line)).length,
      quirkProfiles[name].emptySuccesses,
    );
    await bootOnceFromMedia(redfish, found);
    await resetSystem(redfish, found);
    // The machine runs now, so the second start is a restart, and comes from the disk again.
    await resetSystem(redfish, found);
    await ejectMedia(redfish, slot);
    assert.equal((await readMedia(redfish, slot)).inserted, false);
    const restart = name === "older" ? ["off", "on disk"] : ["reset disk"];
    assert.deepEqual(w.machine.done, ["insert", "on media", ...restart, "empty"]);
    // What was taken out may stay named; the drive must be usable all the same.
    await insertMedia(redfish, found.slots, { image: w.imageUrl, ...quiet });
    const logs = await readLogs(redfish, found);
    assert.ok(logs.some(({ entries }) => entries.some((entry) => entry["Message"] === "virtual media ejected")));
  });
}

Deno.test("the drives of the system are tried before those of its manager", async () => {
  await using w = await world(quirkProfiles["idrac-like"]);
  await using redfish = await open(w.bmc);
  const { slots } = await discover(redfish);
  assert.deepEqual(slots.map(({ path }) => path.split("/")[3]), ["Systems", "Managers"]);
});

Deno.test("an image that the BMC cannot fetch is told, not taken for attached", async () => {
  for (const quirks of [quirkProfiles.standard, quirkProfiles["supermicro-like"]]) {
    await using w = await world(quirks);
    await using redfish = await open(w.bmc);
    const { slots } = await discover(redfish);
    const image = w.imageUrl.replace("uc.iso", "absent.iso");
    await assert.rejects(insertMedia(redfish, slots, { image, ...quiet }), /cannot be read from its URL/);
    assert.deepEqual(w.machine.done, []);
  }
});

Deno.test("what somebody else inserted is left alone and named; what we left behind is taken out", async () => {
  await using w = await world(quirkProfiles.standard);
  await using redfish = await open(w.bmc);
  const { slots } = await discover(redfish);
  await insertMedia(redfish, slots, { image: w.imageUrl, ...quiet });
  await assert.rejects(
    insertMedia(redfish, slots, { image: w.imageUrl, ...quiet }),
    (error: Error) => error.message.includes("all drives are taken") && error.message.includes(w.imageUrl),
  );
  await insertMedia(redfish, slots, { image: w.imageUrl, ours: (image) => image === w.imageUrl, say: () => {} });
  assert.deepEqual(w.machine.done, ["insert", "empty", "insert"]);
});

Deno.test("a BMC that never attaches is given up after three tries, with what to look at", async () => {
  const stubborn = { ...quirkProfiles.standard, emptySuccesses: 100 };
  await using w = await world(stubborn);
  await using redfish = await Redfish.open({ credentials }, {
    transport: openTransport({ url: w.bmc.url }),
    clock: hurriedClock(),
  });
  const { slots } = await discover(redfish);
  await assert.rejects(
    insertMedia(redfish, slots, { image: w.imageUrl, ...quiet }),
    /accepted it 3 times and attached nothing; wanted a URL that the BMC's own network reaches/,
  );
});

Deno.test("a wrong password is told as such, before anything is changed", async () => {
  for (const quirks of [quirkProfiles.standard, quirkProfiles.older]) {
    await using w = await world(quirks);
    const opened = async () => {
      const transport = openTransport({ url: w.bmc.url });
      const wrong = { username: "operator", password: "wrong" };
      await using redfish = await Redfish.open({ credentials: wrong }, { transport, clock: hurriedClock() });
      await discover(redfish);
    };
    await assert.rejects(opened, (error: Error & { code?: string }) => error.code === "bmc_denied");
    assert.deepEqual(w.bmc.bodies, []);
  }
});

Deno.test("a session that the BMC forgot is renewed once, and ended at the end", async () => {
  await using w = await world(quirkProfiles.standard);
  {
    await using redfish = await open(w.bmc);
    assert.equal(redfish.hasSession, true);
    w.bmc.forgetSessions();
    await discover(redfish);
  }
  assert.equal(w.bmc.calls.filter((call) => call.startsWith("POST /redfish/v1/SessionService/Sessions")).length, 2);
  assert.match(w.bmc.calls.at(-1)!, /^DELETE \/redfish\/v1\/SessionService\/Sessions\/\d+ 204$/);
});

Deno.test("ETags are sent where they are demanded and nowhere else", async () => {
  for (const [name, patches] of [["standard", 1], ["idrac-like", 2], ["supermicro-like", 3]] as const) {
    await using w = await world(quirkProfiles[name]);
    await using redfish = await open(w.bmc);
    await bootOnceFromMedia(redfish, await discover(redfish));
    // Without, with the ETag as it was read, and with its strong form where letters are compared.
    assert.equal(w.bmc.calls.filter((call) => call.startsWith("PATCH")).length, patches, name);
  }
});

Deno.test("planReset() takes what is advertised for the state the machine is in", () => {
  assert.deepEqual(planReset(true, ["ForceOff", "On"]), ["On"]);
  assert.deepEqual(planReset(true, ["ForceOn"]), ["ForceOn"]);
  assert.deepEqual(planReset(false, ["On", "PowerCycle"]), ["PowerCycle"]);
  assert.deepEqual(planReset(false, ["On", "ForceOff"]), ["ForceOff", "On"]);
  assert.equal(planReset(false, ["On", "GracefulShutdown"]), undefined);
  assert.equal(planReset(true, ["ForceRestart"]), undefined);
});

Deno.test("a BMC is trusted by its CA or its fingerprint, and a stranger gets no byte", async () => {
  const ca = await createTestCa();
  const leaf = await ca.issue();
  await using w = await world(quirkProfiles.standard, leaf);
  const fingerprint = new X509Certificate(leaf.certPem).fingerprint256;
  for (const trust of [{ caPem: ca.caPem }, { fingerprint }, { caPem: ca.caPem, fingerprint }]) {
    await using redfish = await open(w.bmc, trust);
    assert.equal((await discover(redfish)).serial, "SN-1");
  }
  const seen = w.bmc.calls.length;
  const other = await createTestCa();
  for (const trust of [{ caPem: other.caPem }, { fingerprint: "ab".repeat(32) }, { caPem: other.caPem, fingerprint }]) {
    await assert.rejects(open(w.bmc, trust), (error: Error & { code?: string }) => error.code === "bmc_untrusted");
  }
  await assert.rejects(open(w.bmc, { caPem: ca.caPem, serverName: "other.example" }), /Cannot trust/);
  assert.equal(w.bmc.calls.length, seen);
});

Deno.test("openTransport() refuses what would tell the password to the network", () => {
  const refused = (address: Parameters<typeof openTransport>[0], pattern: RegExp) =>
    assert.throws(() => openTransport(address), pattern);
  refused({ url: "http://10.0.0.9" }, /credentials would cross the network in clear: wanted https/);
  refused({ url: "https://10.0.0.9" }, /wanted the CA of the BMC or the fingerprint/);
  refused({ url: "https://root:calvin@10.0.0.9", fingerprint: "00".repeat(32) }, /wanted them in a file/);
  refused({ url: "ftp://10.0.0.9" }, /wanted an https URL/);
});

Deno.test("a path that leads to another host is not followed", async () => {
  await using w = await world(quirkProfiles.standard);
  await using redfish = await open(w.bmc);
  await assert.rejects(redfish.get("//evil.example/redfish/v1"), /wanted a path of this BMC/);
  await assert.rejects(redfish.get("https://evil.example/redfish/v1"), /wanted a path of this BMC/);
});
