import assert from "node:assert/strict";
import { SystemState } from "@ultracloud/proto/deployer/v1";
import { NixAgentService } from "@ultracloud/proto/nixagent/v1";
import type { Lane } from "../harness/lane.ts";
import { healthy, prepareNix, rolledOut, sick, Site, workers } from "./deployer_site.ts";

const profile = "deployer";
const [first, second] = workers;
const notProven =
  "NixOS, systemd's transient units and a boot loader: the hosts are roots in directories of one machine";

/** nix-agent takes a prebuilt closure from the cache; nothing is built on the host. */
export const deployerVmSmoke: Lane = {
  name: "deployer-vm-smoke",
  summary:
    "a signed closure goes over two hosts with real Nix stores, one after the other, without building anything there",
  profile,
  prepare: prepareNix,
  async run(run) {
    await using site = await Site.open(run);
    let a = "";
    await run.check("agents report before anything is desired of them", async () => {
      a = await site.system("system-a");
      await site.apply(a);
      await site.boot(first, "boot-1");
      await site.observed(first, SystemState.ACTIVE, a);
      assert.deepEqual(await site.activations(second), [], "the second is not there yet");
      // The first asks the deployer, the second reads in chainfire: one rollout over both.
      await run.cluster.configure(second, "nix-agent", { source: "chainfire" });
      await site.boot(second, "boot-1");
      return await rolledOut(site, a);
    });
    await run.check("a new generation goes over the hosts one at a time", async () => {
      const b = await site.system("system-b");
      const { affectedNodes } = await site.apply(b);
      assert.deepEqual(affectedNodes, [...workers]);
      const seen = await rolledOut(site, b);
      await run.evidence("rollout.json", await site.rollouts.getRollout({ rollout: "workers" }));
      return seen;
    });
    await run.check(
      "one host asks the deployer, the other reads in chainfire; each says what carries its trials",
      async () => {
        const said: string[] = [];
        for (const [node, source] of [[first, "deployer"], [second, "chainfire"]] as const) {
          const agent = run.cluster.clients.of(NixAgentService, "nix-agent", { node });
          const status = await agent.getStatus({});
          assert.deepEqual([status.source, status.nixFound, status.state], [source, true, "active"]);
          said.push(`${node}: ${status.source}, ${status.launcher} (${status.launcherReason}), ${status.nix}`);
        }
        await run.evidence("nix-agents.json", said);
        return said.join("; ");
      },
    );
    await site.scope("deployer -> nix-agent: a prebuilt signed closure becomes the system of two hosts", notProven);
  },
};

/** A generation that is not healthy does not stay, on any host, whatever happens in the middle. */
export const deployerVmRollback: Lane = {
  name: "deployer-vm-rollback",
  summary:
    "a bad generation is rolled back and kept from its class; a host that loses power in mid-trial goes back too",
  profile,
  prepare: prepareNix,
  async run(run) {
    await using site = await Site.open(run);
    const a = await site.system("system-a");
    await run.check("both hosts run a good generation", async () => {
      await site.apply(a);
      for (const node of workers) await site.boot(node, "boot-1");
      return await rolledOut(site, a);
    });
    await run.check("a failing health check rolls back, and the class keeps away", async () => {
      const bad = await site.system("system-bad", sick);
      await site.apply(bad);
      const { observed } = await site.observed(first, SystemState.ROLLED_BACK, bad, /health check failed 2 times/);
      assert.equal(observed!.currentSystem, a);
      assert.equal(await site.bootDefault(first), a);
      assert.deepEqual(await site.activations(first), ["switch system-a", "switch system-bad", "switch system-a"]);
      const rollout = await site.rollouts.getRollout({ rollout: "workers" });
      assert.deepEqual(rollout.quarantines.map(({ node, targetSystem }) => [node, targetSystem]), [[first, bad]]);
      assert.deepEqual(await site.activations(second), ["switch system-a"]);
      await run.evidence("rolled-back.json", rollout);
      return observed!.reason;
    });
    await run.check("an unsigned closure is refused before the profile is touched", async () => {
      const unsigned = await site.system("system-unsigned", healthy, { unsigned: true });
      await site.apply(unsigned);
      const before = await site.activations(first);
      const { observed } = await site.observed(first, SystemState.FAILED, unsigned, /lacks a signature/);
      assert.equal(observed!.currentSystem, a);
      assert.deepEqual(await site.activations(first), before);
      return observed!.reason;
    });
    await run.check(
      "power goes in mid-trial: the next boot goes back, however healthy the generation was",
      async () => {
        const c = await site.system("system-c");
        await site.apply(c, { health_check_grace_ms: 600_000, intent: "power" });
        await site.trialPhase(first, "verifying");
        assert.equal(await site.bootDefault(first), c);
        await run.cluster.substrate.powerOff(first);
        assert.deepEqual(await run.cluster.substrate.processes(first), []);
        await run.cluster.substrate.powerOn(first);
        await site.boot(first, "boot-2");
        const { observed } = await site.observed(first, SystemState.ROLLED_BACK, c, /restarted in the middle/);
        assert.equal(observed!.bootId, "boot-2");
        assert.equal(await site.bootDefault(first), a);
        return observed!.reason;
      },
    );
    await run.check("another intent goes through", async () => {
      const d = await site.system("system-d");
      await site.apply(d);
      return await rolledOut(site, d);
    });
    await site.scope(
      "health check, rollback, boot default, quarantine and a power cut in mid-trial on real stores",
      notProven,
    );
  },
};
