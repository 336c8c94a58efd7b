import assert from "node:assert/strict";
import { fault } from "@ultracloud/base";
import { type Node, SystemState } from "@ultracloud/proto/deployer/v1";
import { type CacheServer, openNixBox, serveCache, type Workshop } from "@ultracloud/testing";
import type { LaneRun } from "../harness/lane.ts";
import { waitFor } from "../harness/wait.ts";
import { DeployerDesk, workers } from "./deployer_desk.ts";

export { diskName, factsOf, serialOf, workers } from "./deployer_desk.ts";

export const healthy = { health: "#!/bin/sh\nexit 0\n" };
export const sick = { health: "#!/bin/sh\necho disk controller missing\nexit 3\n" };

/** Unpacks Nix below the work root; a lane that has none is red and says why. */
export async function prepareNix(): Promise<void> {
  const box = await openNixBox();
  if (typeof box === "string") throw fault("failed_precondition", "nix_missing", `Cannot run the lane: ${box}`);
}

/** The deployer of the cluster under test, and hosts with real Nix stores that fetch from a cache of the lane. */
export class Site extends DeployerDesk implements AsyncDisposable {
  readonly workshop: Workshop;
  readonly cache: CacheServer;
  readonly #dir: string;

  constructor(run: LaneRun, dir: string, workshop: Workshop, cache: CacheServer) {
    super(run, { url: cache.url, key: workshop.publicKey });
    this.#dir = dir;
    this.workshop = workshop;
    this.cache = cache;
  }

  static async open(run: LaneRun): Promise<Site> {
    const box = await openNixBox();
    if (typeof box === "string") throw new Error(`Cannot run the lane: ${box}`);
    // Agents are started with the environment of the harness.
    Deno.env.set("PATH", `${box.binDir}:${Deno.env.get("PATH") ?? ""}`);
    const dir = await Deno.makeTempDir({ prefix: "uc-lane-nix-" });
    await Deno.mkdir(`${dir}/cache`);
    const { operatorAddress } = run.cluster.file.network;
    return new Site(run, dir, await box.workshop(`${dir}/workshop`), serveCache(`${dir}/cache`, operatorAddress));
  }

  async system(name: string, bin: Record<string, string> = healthy, o: { unsigned?: boolean } = {}): Promise<string> {
    const system = await this.workshop.build({ name, bin, library: name });
    await this.workshop.publish(system, `${this.#dir}/cache`, o);
    return system;
  }

  #hostDir(node: string): string {
    return `${this.run.cluster.substrate.dirs(node).state}/nix-agent/host`;
  }

  /** Starts the host's agent on a new boot. */
  async boot(node: string, bootId: string): Promise<void> {
    await Deno.mkdir(`${this.#hostDir(node)}/run`, { recursive: true });
    await Deno.writeTextFile(`${this.#hostDir(node)}/boot_id`, `${bootId}\n`);
    await this.run.cluster.start(node, "nix-agent");
  }

  /** What the host was switched to, in order, by the names of the systems. */
  async activations(node: string): Promise<string[]> {
    const text = await Deno.readTextFile(`${this.#hostDir(node)}/run/activations`).catch(() => "");
    return text.split("\n").filter((line) => line !== "").map((line) => line.replace(/ \w{32}-/, " "));
  }

  async bootDefault(node: string): Promise<string> {
    return (await Deno.readTextFile(`${this.#hostDir(node)}/boot/default`).catch(() => "")).trim();
  }

  /** Waits until the deployer has observed the state with the system. */
  async observed(node: string, state: SystemState, system: string, reason = /^/): Promise<Node> {
    let seen = "nothing";
    try {
      return await waitFor(
        { timeoutMs: 120_000, what: `${SystemState[state]} on ${node}`, everyMs: 200, signal: this.run.signal },
        async () => {
          const found = await this.nodes.getNode({ node });
          const { observed } = found;
          seen = observed ? `${SystemState[observed.state]} ${observed.targetSystem}: ${observed.reason}` : "nothing";
          const matches = observed?.state === state && observed.targetSystem === system && reason.test(observed.reason);
          return matches ? found : undefined;
        },
      );
    } catch (cause) {
      throw new Error(`Cannot see ${SystemState[state]} of ${system} on ${node}: saw ${seen}`, { cause });
    }
  }

  /** Waits until the process of a trial says this phase. */
  async trialPhase(node: string, phase: string): Promise<void> {
    const path = `${this.run.cluster.substrate.dirs(node).state}/nix-agent/trial/phase`;
    await waitFor(
      { timeoutMs: 60_000, what: `phase ${phase} on ${node}`, everyMs: 50, signal: this.run.signal },
      async () => (await Deno.readTextFile(path).catch(() => "")).trim() === phase || undefined,
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const node of workers) await this.run.cluster.stop(node, "nix-agent").catch(() => {});
    await this.cache[Symbol.asyncDispose]();
    await new Deno.Command("rm", { args: ["-rf", this.#dir] }).output();
  }
}

/** Both workers run the system, each switched to it once and in turn. */
export async function rolledOut(site: Site, system: string): Promise<string> {
  for (const node of workers) await site.observed(node, SystemState.ACTIVE, system);
  const starts = [];
  for (const node of workers) {
    assert.equal(await site.bootDefault(node), system);
    starts.push(`${node}: ${(await site.activations(node)).join(", ")}`);
  }
  return starts.join("; ");
}
