import assert from "node:assert/strict";
import { fault } from "@ultracloud/base";
import { markerNames } from "@ultracloud/cluster-state";
import { SystemState } from "@ultracloud/proto/deployer/v1";
import type { Lane, LaneRun } from "../harness/lane.ts";
import { clockText } from "../harness/terminal.ts";
import { installFaults, runningFaults } from "./faults.ts";
import { prepareBareMetal } from "./prepared.ts";
import { BareSite, type NodeName } from "./site.ts";

const pair = ["control01", "worker01"] as const satisfies readonly NodeName[];
const faultNames = [...Object.keys(installFaults), ...Object.keys(runningFaults)];

/**
 * From bare metal to a converged node, with the real deployer, installer, nix-agent and chainfire. The machines are
 * QEMU's, their processors emulated; what they run is made of Debian packages as signed Nix closures. It is not NixOS.
 */
export const baremetalIso: Lane = {
  name: "baremetal-iso",
  summary:
    "a control-plane and a worker machine boot the installer's medium, install themselves, converge, and go back from a bad generation",
  profile: "baremetal",
  ownComponents: ["installer", "install-target", "first-boot-automation", "nix-agent"],
  options: {
    path: "`no` leaves out the two machines of the path: for fault cases of an installation alone",
    faults: `all, none (default), or some of ${faultNames.join(",")}`,
  },
  prepare: prepareBareMetal,
  async run(run) {
    const wanted = faultsOf(run);
    await using site = await BareSite.open(run);
    run.facts.vm_accelerator_mode = site.prepared.accelerator.mode;
    run.facts.vm_accelerator_reason = site.prepared.accelerator.reason;
    run.facts.iso = site.prepared.iso;
    run.facts.systems = site.prepared.systems.paths;
    try {
      if (run.args.path === "no") run.skip("the path of two machines", "--path no");
      else {
        await path(run, site);
        await badGeneration(run, site);
      }
      if (wanted.size > 0) {
        // Two machines, one for each processor: what happens before a system runs, and what happens to one that does.
        const ended = await Promise.allSettled([
          cases(run, installFaults, wanted, (work) => work(site, "spare01")),
          cases(run, runningFaults, wanted, (work) => work(site, "worker01")),
        ]);
        for (const end of ended) if (end.status === "rejected") throw end.reason;
      }
    } finally {
      await site.keepEvidence();
    }
    for (const name of faultNames.filter((name) => !wanted.has(name))) {
      run.skip(name, "wanted --faults all, or its name");
    }
    await run.evidence(
      "baremetal-scope-fixed.txt",
      "proves: medium -> phone-home -> bundle -> partitions by id -> signed closure -> boot -> active -> rolled-back\n" +
        "not: NixOS, systemd, KVM, hardware; process 1 and switch-to-configuration of the installed systems are the lane's own\n",
    );
  },
};

function faultsOf(run: LaneRun): ReadonlySet<string> {
  const given = run.args.faults ?? "none";
  if (given === "none") return new Set();
  if (given === "all") return new Set(run.args.path === "no" ? Object.keys(installFaults) : faultNames);
  const names = given.split(",");
  const running = run.args.path === "no" && names.find((name) => Object.hasOwn(runningFaults, name));
  if (running) {
    throw fault("invalid_argument", "usage", `Cannot use --path no with ${running}: it needs an installed node`);
  }
  const unknown = names.find((name) => !faultNames.includes(name));
  if (unknown === undefined) return new Set(names);
  throw fault("invalid_argument", "usage", `Cannot use --faults ${unknown}: wanted all or some of ${faultNames}`);
}

async function cases<T>(
  run: LaneRun,
  known: Readonly<Record<string, T>>,
  wanted: ReadonlySet<string>,
  work: (one: T) => Promise<string>,
): Promise<void> {
  for (const [name, one] of Object.entries(known)) {
    if (wanted.has(name)) await run.check(name, () => work(one));
  }
}

/** Every step of both machines, in order, on the console and at the deployer. */
async function path(run: LaneRun, site: BareSite): Promise<void> {
  await site.wish(Object.fromEntries(pair.map((node) => [node, { system: "uc-base" }])));
  const begun = performance.now();
  const seconds: Record<string, Record<string, number>> = {};
  for (const node of pair) {
    await site.announce(node);
    (await site.machine(node)).powerOn(await site.medium(node));
    seconds[node] = {};
  }
  run.facts.secondsFromPowerOn = seconds;
  const at = Object.fromEntries(pair.map((node) => [node, 0]));
  for (const name of markerNames) {
    await run.check(`${name} on both machines`, async () => {
      const seen = await Promise.all(pair.map(async (node) => {
        const { index } = await site.marker(node, name, { after: at[node]! });
        // Nothing but the steps, each once: a failure in between is none of them.
        assert.equal(index, at[node], `${node} showed something else before ${name}`);
        at[node] = index + 1;
        seconds[node]![name] = Math.round((performance.now() - begun) / 100) / 10;
        return `${node} ${clockText(performance.now() - begun)}`;
      }));
      return `${seen.join(", ")} after power-on`;
    });
  }
  await run.check("the deployer has the same steps, and both nodes run what they should", async () => {
    for (const node of pair) {
      const found = await site.observed(node, SystemState.ACTIVE, "uc-base");
      assert.deepEqual(site.stepsOf(found), [...markerNames]);
      assert.equal(found.observed!.currentSystem, site.pathOf("uc-base"));
      assert.equal(found.tokenValid, false, `the bootstrap token of ${node} opens nothing any more`);
    }
    return pair.join(", ");
  });
}

async function badGeneration(run: LaneRun, site: BareSite): Promise<void> {
  await run.check("a generation that is not healthy is rolled back on both", async () => {
    const after = Object.fromEntries(
      await Promise.all(pair.map(async (node) => [node, await site.shown(node)] as const)),
    );
    await site.wish(Object.fromEntries(pair.map((node) => [node, { system: "uc-sick" }])));
    const seen = await Promise.all(pair.map(async (node) => {
      const { detail } = await site.marker(node, "desired-system-rolled-back", { after: after[node]! });
      const { observed } = await site.observed(node, SystemState.ROLLED_BACK, "uc-sick", /health check failed 2 times/);
      assert.equal(observed!.currentSystem, site.pathOf("uc-base"));
      return `${node}: ${detail}`;
    }));
    return seen.join("; ");
  });
}
