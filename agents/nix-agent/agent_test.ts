import assert from "node:assert/strict";
import { openNixBox, testUnless } from "@ultracloud/testing";
import { type NixWorld, openNixWorld, sick } from "./test_world.ts";

const box = await openNixBox();
const reason = typeof box === "string" ? box : undefined;

/** A test in a world of its own, with a real Nix store for each host. */
function nixTest(name: string, body: (world: NixWorld) => Promise<void>): void {
  testUnless(name, reason, async () => {
    await using world = await openNixWorld(box as Exclude<typeof box, string>);
    await body(world);
  });
}

nixTest(
  "a signed closure is copied from the cache, switched to, found healthy and kept; then the next one",
  async (world) => {
    const [a, b] = [await world.system("system-a"), await world.system("system-b")];
    const host = await world.host("host");
    const first = host.wish(a);
    await host.start();
    assert.equal((await host.reached("active", first)).currentSystem, a);
    assert.deepEqual(host.reports, ["idle", "preflight", "copying", "activating", "verifying", "active"]);
    const second = host.wish(b);
    const seen = await host.reached("active", second);
    assert.deepEqual([seen.currentSystem, seen.generation], [b, 2]);
    assert.deepEqual(await host.activations(), ["switch system-a", "switch system-b"]);
    assert.equal(await host.bootDefault(), b);
  },
);

nixTest(
  "a generation that is not healthy is rolled back with its boot default, and tried again only by a new intent",
  async (world) => {
    const [a, b] = [await world.system("system-a"), await world.system("system-b", sick)];
    const host = await world.host("host");
    await host.start();
    await host.reached("active", host.wish(a));
    const bad = host.wish(b);
    const seen = await host.reached("rolled-back", bad);
    assert.match(seen.reason, /health check failed 2 times, at last with code 3: disk controller missing/);
    assert.deepEqual([seen.currentSystem, seen.generation], [a, 1]);
    const all = ["switch system-a", "switch system-b", "switch system-a"];
    assert.deepEqual(await host.activations(), all);
    assert.equal(await host.bootDefault(), a);
    // Another agent with the same journal knows it too.
    await host.kill();
    await host.start();
    await host.reached("rolled-back", bad);
    assert.deepEqual(await host.activations(), all);
    await host.reached("rolled-back", host.wish(b));
    assert.equal((await host.activations()).length, 5);
  },
);

nixTest("an unsigned, a truncated and a missing closure are refused before the profile is touched", async (world) => {
  const [a, b] = [await world.system("system-a"), await world.system("system-b")];
  const unsigned = await world.workshop.build({ name: "system-c", library: "unsigned" });
  await world.workshop.publish(unsigned, world.cacheDir, { unsigned: true });
  const host = await world.host("host");
  await host.start();
  await host.reached("active", host.wish(a));
  const untouched = async (wanted: RegExp, target: string, change = {}, url?: string) => {
    const seen = await host.reached("failed", host.wish(target, change, url));
    assert.match(seen.reason, wanted);
    assert.deepEqual([seen.currentSystem, seen.generation], [a, 1]);
    assert.deepEqual(await host.activations(), ["switch system-a"]);
  };
  await untouched(/lacks a signature by a trusted key/, unsigned);
  world.cache.fault = (path) => path.startsWith("/nar/") ? "truncated" : undefined;
  await untouched(/Cannot copy .*system-b/, b);
  const library = /\/(\w{32})-library/.exec(
    await Deno.readTextFile(`${world.cacheDir}/${b.slice(11, 43)}.narinfo`).then((text) =>
      text.replace(/ (\w{32}-library)/, " /$1")
    ),
  )![1];
  world.cache.fault = (path) => path.includes(library!) ? "missing" : undefined;
  await untouched(/Cannot find the whole of .*system-b/, b);
  world.cache.fault = () => undefined;
  await untouched(/Cannot find the whole of .*\/nix\/store\/0{32}-none/, `/nix/store/${"0".repeat(32)}-none`);
  await untouched(/Cannot reach the cache/, b, {}, "http://127.0.0.1:9");
  await untouched(/bytes are free, and 9007199254740991 must remain/, b, { free_bytes_min: Number.MAX_SAFE_INTEGER });
  await untouched(/Cannot switch: false ended with code 1/, b, { pre_switch_checks: [["false"]] });
  await untouched(/has no bin\/switch-to-configuration/, await plain(world));
  // The same closure, once it is whole again.
  await host.reached("active", host.wish(b));
});

/** A closure that is no system. */
async function plain(world: NixWorld): Promise<string> {
  const system = await world.system("system-a");
  const info = await Deno.readTextFile(`${world.cacheDir}/${system.slice(11, 43)}.narinfo`);
  return `/nix/store/${/References: .*?(\w{32}-library)/.exec(info)![1]}`;
}

nixTest(
  "a switch that fails is rolled back, and a first generation that fails leaves nothing to go back to",
  async (world) => {
    const broken = await world.system("broken", {
      "switch-to-configuration": "#!/bin/sh\necho no space for boot entry\nexit 4\n",
    });
    const a = await world.system("system-a");
    const host = await world.host("host");
    await host.start();
    const seen = await host.reached("failed", host.wish(broken));
    assert.match(seen.reason, /ended with code 4: no space for boot entry ?; there is no generation to go back to/);
    await host.reached("active", host.wish(a));
    assert.match((await host.reached("rolled-back", host.wish(broken))).reason, /ended with code 4/);
    assert.equal(await host.bootDefault(), a);
  },
);

nixTest(
  "an agent that is killed in mid-trial finds the trial again; one that stays away is a reason to go back",
  async (world) => {
    const [a, b] = [await world.system("system-a"), await world.system("system-b")];
    const c = await world.system("system-c");
    const host = await world.host("host");
    await host.start();
    await host.reached("active", host.wish(a));
    host.reachable = true;
    const slow = { health_check_grace_ms: 1_500 };
    const kept = host.wish(b, slow);
    await host.trialPhase("verifying");
    await host.kill();
    await host.start();
    assert.equal((await host.reached("active", kept)).currentSystem, b);

    const lost = host.wish(c, { ...slow, contact_timeout_ms: 1_000 });
    await host.trialPhase("verifying");
    await host.kill();
    await host.trialPhase("rolling-back");
    await host.start();
    const seen = await host.reached("rolled-back", lost);
    assert.match(seen.reason, /nobody confirmed it within 1 s/);
    assert.equal(seen.currentSystem, b);
    assert.equal(await host.bootDefault(), b);
  },
);

nixTest("a host that is restarted in mid-trial goes back, however healthy the generation was", async (world) => {
  const [a, b] = [await world.system("system-a"), await world.system("system-b")];
  const host = await world.host("host");
  await host.start();
  await host.reached("active", host.wish(a));
  const intent = host.wish(b, { health_check_grace_ms: 60_000 });
  await host.trialPhase("verifying");
  await host.powerCut("boot-2");
  assert.equal(await host.bootDefault(), b, "the power went while the new one was the boot default");
  await host.start();
  const seen = await host.reached("rolled-back", intent);
  assert.match(seen.reason, /restarted in the middle/);
  assert.deepEqual([seen.currentSystem, seen.bootId], [a, "boot-2"]);
  assert.equal(await host.bootDefault(), a);
});

nixTest("a generation that cuts the node off from the deployer is not kept", async (world) => {
  const [a, b] = [await world.system("system-a"), await world.system("system-b")];
  const host = await world.host("host");
  await host.start();
  await host.reached("active", host.wish(a));
  const intent = host.wish(b, { health_check_grace_ms: 500, contact_timeout_ms: 1_000 });
  await host.trialPhase("verifying");
  host.reachable = false;
  await host.trialPhase("rolling-back");
  host.reachable = true;
  assert.match((await host.reached("rolled-back", intent)).reason, /out of reach/);
  assert.equal(await host.bootDefault(), a);
});

nixTest("a quarantined generation is not begun", async (world) => {
  const [a, b] = [await world.system("system-a"), await world.system("system-b")];
  const host = await world.host("host");
  await host.start();
  await host.reached("active", host.wish(a));
  host.quarantine = "it failed on node09";
  const held = await host.reached("idle", host.wish(b));
  assert.match(held.reason, /it failed on node09/);
  assert.deepEqual(await host.activations(), ["switch system-a"]);
});

nixTest("a switch waits for its drain: refused or unanswered there is none, and the status says why", async (world) => {
  const [a, b] = [await world.system("system-a"), await world.system("system-b")];
  const host = await world.host("host");
  await host.start();
  await host.reached("active", host.wish(a));
  host.answer = ({ id }) => ({ requestId: id, state: "refused", reason: "the last replica of web is here" });
  const intent = host.wish(b, { drain: "required", drain_timeout_ms: 1_000 });
  await host.says(/drain was refused: the last replica of web is here/, intent);
  assert.equal((await host.reached("preflight", intent)).currentSystem, a);
  const { reason, targetSystem } = host.drains[0]!;
  assert.deepEqual([reason, targetSystem], ["switch", b]);
  // Granted to an earlier request: that grants nothing.
  const stale = host.drains[0]!.id;
  host.answer = () => ({ requestId: stale, state: "granted", reason: "" });
  await host.says(/drain was not granted within 1000 ms/, intent);
  host.answer = ({ id }) => ({ requestId: id, state: "draining", reason: "web moves" });
  await host.says(/waits for the drain: .*web moves/, intent);
  assert.deepEqual(await host.activations(), ["switch system-a"]);
  host.answer = ({ id }) => ({ requestId: id, state: "granted", reason: "" });
  await host.reached("active", intent);
  assert.deepEqual(await host.activations(), ["switch system-a", "switch system-b"]);
  await host.released();
});

nixTest("activation by restart: kept when the host boots it, given up when it boots something else", async (world) => {
  const [a, b] = [await world.system("system-a"), await world.system("system-b")];
  const host = await world.host("host");
  await host.start();
  await host.reached("active", host.wish(a));
  const booted = async (system: string, boot: string) => {
    await host.kill();
    await host.boot(boot);
    await Deno.remove(`${host.root}/run/booted-system`).catch(() => {});
    await Deno.symlink(system, `${host.root}/run/booted-system`);
    await host.start({ retryMs: 5_000 });
  };
  await host.kill();
  await host.start({ retryMs: 5_000 });
  const good = host.wish(b, { activation: "reboot" });
  await host.says(/restarting/, good);
  assert.deepEqual(await host.activations(), ["switch system-a", "boot system-b"]);
  await booted(b, "boot-2");
  assert.equal((await host.reached("active", good)).currentSystem, b);
  const back = host.wish(a, { activation: "reboot" });
  await host.says(/restarting/, back);
  await booted(b, "boot-3");
  assert.match((await host.reached("rolled-back", back)).reason, /did not boot it but .*system-b/);
  assert.equal(await host.bootDefault(), b);
});
