import assert from "node:assert/strict";
import { SystemState } from "@ultracloud/proto/deployer/v1";
import { waitFor } from "../harness/wait.ts";
import type { BareSite, NodeName } from "./site.ts";

type Fault = (site: BareSite, node: NodeName) => Promise<string>;

/** Waits for the failure of a step on the console; answers what it said. */
async function failed(
  site: BareSite,
  node: NodeName,
  name: Parameters<BareSite["marker"]>[1],
  detail: RegExp,
  cause: () => Promise<void>,
): Promise<string> {
  const after = await site.shown(node);
  await cause();
  return (await site.marker(node, name, { after, detail })).detail;
}

/** One after the other on a machine that is not installed yet; the installer goes on by itself after each. */
export const installFaults: Readonly<Record<string, Fault>> = {
  "wrong-token": async (site, node) => {
    await site.announce(node);
    await site.wish({ [node]: { system: "uc-base", plan: { expected_disk_serial: "another-disk" } } });
    const machine = await site.machine(node);
    const said = await failed(site, node, "pre-install.phone-home.failed", /^token_/, async () => {
      machine.powerOn(await site.medium(node, "not-the-token-of-this-node"));
    });
    assert.equal((await site.nodes.getNode({ node })).phoneHomeTime, undefined, "nothing was enrolled");
    await machine.powerOff();
    return said;
  },
  "wrong-disk-serial": (site, node) =>
    failed(site, node, "install.disko.failed", /^disk_serial_mismatch: /, async () => {
      await onMedium(site, node, { system: "uc-base", plan: { expected_disk_serial: "another-disk" } });
    }),
  "unsigned-closure": (site, node) =>
    failed(site, node, "install.nixos-install.failed", /^closure_untrusted: /, async () => {
      await onMedium(site, node, { system: "uc-unsigned" });
    }),
  "truncated-closure": async (site, node) => {
    try {
      return await failed(site, node, "install.nixos-install.failed", /^closure_damaged: /, async () => {
        site.brokenCache.fault = (path) => path.startsWith("/nar/") ? "truncated" : undefined;
        await onMedium(site, node, { system: "uc-base" });
      });
    } finally {
      site.brokenCache.fault = () => undefined;
    }
  },
  "cache-down-in-mid-copy": async (site, node) => {
    try {
      return await failed(
        site,
        node,
        "install.nixos-install.failed",
        /^(copy_failed|cache_unreachable): /,
        async () => {
          const before = site.brokenCache.narsServed;
          site.brokenCache.fault = (path) =>
            path.startsWith("/nar/") && site.brokenCache.narsServed > before ? "down" : undefined;
          await onMedium(site, node, { system: "uc-base" });
        },
      );
    } finally {
      site.brokenCache.fault = () => undefined;
      site.brokenCache.start();
    }
  },
  "power-cut-during-install": async (site, node) => {
    const machine = await site.machine(node);
    const after = await site.shown(node);
    await onMedium(site, node, { system: "uc-base" });
    await site.marker(node, "install.disko.complete", { after });
    const before = site.brokenCache.narsServed;
    await waitFor(
      { timeoutMs: 600_000, what: "the copy to have begun", everyMs: 50, signal: site.run.signal },
      () => Promise.resolve(site.brokenCache.narsServed > before || undefined),
    );
    await machine.powerOff();
    const again = await site.shown(node);
    machine.powerOn(await site.medium(node));
    let at = again;
    const steps = ["pre-install.boot", "install.nixos-install.complete", "post-install.boot", "desired-system-active"];
    for (const name of steps as Parameters<BareSite["marker"]>[1][]) {
      at = (await site.marker(node, name, { after: at })).index + 1;
    }
    await site.observed(node, SystemState.ACTIVE, "uc-base");
    return "cut while the closure was copied; booted again, it installed itself and is active";
  },
};

/** The machine runs the installer with this wish; nothing is done when it runs already. */
async function onMedium(
  site: BareSite,
  node: NodeName,
  wish: Parameters<BareSite["wish"]>[0][NodeName],
): Promise<void> {
  await site.wish({ [node]: wish });
  const machine = await site.machine(node);
  if (machine.powered) return;
  if (!site.hasToken(node)) await site.announce(node);
  machine.powerOn(await site.medium(node));
}

/** One after the other on a machine that runs an installed system. */
export const runningFaults: Readonly<Record<string, Fault>> = {
  "health-failure": async (site, node) => {
    const said = await failed(site, node, "desired-system-rolled-back", /health check failed/, async () => {
      await site.wish({ [node]: { system: "uc-sick", desired: { intent: "once more" } } });
    });
    const { observed } = await site.observed(node, SystemState.ROLLED_BACK, "uc-sick");
    assert.equal(observed!.currentSystem, site.pathOf("uc-base"));
    return said;
  },
  "agent-crash-in-mid-trial": async (site, node) => {
    const machine = await site.machine(node);
    const after = await site.shown(node);
    await site.wish({ [node]: { system: "uc-crash" } });
    await site.marker(node, "desired-system-active", { after, detail: /uc-crash$/ });
    await site.observed(node, SystemState.ACTIVE, "uc-crash");
    assert.match(await machine.console(), /init: nix-agent ended with 137/);
    return "killed by its own generation's health check; the next agent followed the trial to its end";
  },
  "power-cut-during-switch": async (site, node) => {
    const machine = await site.machine(node);
    const before = (await site.nodes.getNode({ node })).observed!;
    const said = await failed(site, node, "desired-system-rolled-back", /restarted in the middle/, async () => {
      await site.wish({ [node]: { system: "uc-slow", desired: { health_check_timeout_ms: 600_000 } } });
      await waitFor(
        { timeoutMs: 600_000, what: "a trial under way", everyMs: 250, signal: site.run.signal },
        async () => (await machine.console()).includes("ULTRACLOUD_TEST slow-health") || undefined,
      );
      await machine.powerOff();
      machine.powerOn();
    });
    const { observed } = await site.observed(node, SystemState.ROLLED_BACK, "uc-slow");
    assert.equal(observed!.currentSystem, before.currentSystem);
    assert.notEqual(observed!.bootId, before.bootId);
    return said;
  },
  "boot-failure": async (site, node) => {
    const machine = await site.machine(node);
    const before = (await site.nodes.getNode({ node })).observed!;
    const said = await failed(site, node, "desired-system-rolled-back", /did not boot it/, async () => {
      await site.wish({ [node]: { system: "uc-dead", desired: { activation: "reboot" } } });
    });
    assert.match(await machine.console(), /init: this system does not start/);
    const { observed } = await site.observed(node, SystemState.ROLLED_BACK, "uc-dead");
    assert.equal(observed!.currentSystem, before.currentSystem);
    return said;
  },
};
