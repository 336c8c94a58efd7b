import type { Client } from "@connectrpc/connect";
import type { Registry } from "@ultracloud/observe";
import type { NodeLeases, Platform } from "@ultracloud/platform";
import type { NodeAgentService } from "@ultracloud/proto/nodeagent/v1";
import { toFault } from "@ultracloud/rpc";
import { commit } from "./commit.ts";
import { decide } from "./domain/decide.ts";
import { closed } from "./domain/placement.ts";
import type { Phase, Unplaced } from "./domain/types.ts";
import type { DrainDesk } from "./drain_desk.ts";
import type { AssignmentFeed } from "./feed.ts";
import { nodeKind } from "./kinds.ts";
import { readSnapshot, type Snapshot } from "./store.ts";

export type AgentClient = Pick<Client<typeof NodeAgentService>, "readLog">;

export interface SchedulerDeps {
  readonly platform: Platform;
  readonly leases: NodeLeases;
  readonly registry: Registry;
  /** Client of the agent at a URL. */
  readonly agents: (url: string) => AgentClient;
}

/** What the fleet is like, as of the leader's last look. */
export class FleetMetrics {
  readonly #instances;
  readonly #nodes;
  readonly #unplaced;
  readonly #looks;

  constructor(registry: Registry) {
    this.#instances = registry.gauge("fleet_instances", "Instances by what their nodes say", ["phase"]);
    this.#nodes = registry.gauge("fleet_nodes", "Nodes by whether they take work", ["state"]);
    this.#unplaced = registry.gauge("fleet_instances_unplaced", "Wanted instances without a place");
    this.#looks = registry.histogram("fleet_decide_seconds", "Time that one look's decisions took", []);
  }

  look(snapshot: Snapshot, unplaced: readonly Unplaced[], seconds: number): void {
    const phases = new Map<string, number>(allPhases.map((phase) => [phase, 0]));
    for (const { instances } of snapshot.services) {
      for (const { id } of instances) {
        const phase = snapshot.observed.get(id)?.phase ?? "pending";
        phases.set(phase, phases.get(phase)! + 1);
      }
    }
    for (const [phase, count] of phases) this.#instances.set(count, { phase });
    const open = snapshot.nodes.filter((node) => closed(node) === undefined).length;
    const lost = snapshot.nodes.filter((node) => node.lostMs !== 0).length;
    this.#nodes.set(open, { state: "open" });
    this.#nodes.set(lost, { state: "lost" });
    this.#nodes.set(snapshot.nodes.length - open - lost, { state: "closed" });
    this.#unplaced.set(unplaced.reduce((sum, { count }) => sum + count, 0));
    this.#looks.observe(seconds);
  }
}

const allPhases: readonly Phase[] = [
  "pending",
  "starting",
  "running",
  "healthy",
  "unhealthy",
  "backing_off",
  "failed",
  "stopped",
];

/** Writes down which nodes have lost their lease; answers how many have just now. */
async function markLost(deps: SchedulerDeps): Promise<number> {
  const { platform, leases } = deps;
  // Records first: a node that registers gets its lease before its record says that it is back.
  const nodes = await platform.list(nodeKind, "");
  if (nodes.every((node) => node.value.lostMs !== 0)) return 0;
  const alive = await leases.alive();
  let lost = 0;
  for (const seen of nodes) {
    if (seen.value.lostMs !== 0 || alive.has(seen.name)) continue;
    await platform.transact(async (tx) => {
      const node = await tx.find(nodeKind, "", seen.name);
      if (!node || node.etag !== seen.etag) return;
      tx.update(nodeKind, node, { value: { ...node.value, lostMs: tx.nowMs } });
      tx.afterCommit(() => {
        lost++;
        platform.log.warn("node lost: its lease has ended", { node: node.name });
      });
    });
  }
  return lost;
}

/** One look at the fleet: what is found to do is done. Answers how much that was. */
export async function reconcileOnce(
  deps: SchedulerDeps,
  feed: AssignmentFeed,
  metrics: FleetMetrics,
): Promise<number> {
  const { platform } = deps;
  const lost = await markLost(deps);
  const snapshot = await readSnapshot(platform);
  const startMs = platform.clock.monotonicMs();
  const { decisions, unplaced } = decide(snapshot);
  metrics.look(snapshot, unplaced, (platform.clock.monotonicMs() - startMs) / 1000);
  for (const decision of decisions) {
    if (decision.kind === "change" && decision.to.update.phase !== "none") {
      const { phase, reason } = decision.to.update;
      platform.log.info("update goes on", { service: decision.service, phase, reason });
    }
    if (decision.kind === "forget") platform.log.info("instance given up", { ...decision });
  }
  const written = await commit(platform, snapshot, decisions);
  if (written > 0) feed.poke();
  return lost + written;
}

/** Looks again and again until the signal aborts; run it where this replica leads. */
export async function reconcile(
  deps: SchedulerDeps,
  parts: { readonly feed: AssignmentFeed; readonly desk: DrainDesk; readonly metrics: FleetMetrics },
  o: { readonly tickMs: number },
  signal: AbortSignal,
): Promise<void> {
  const { platform } = deps;
  const running = platform.sagas.run(signal);
  let told = "";
  while (!signal.aborted) {
    let found = 0;
    try {
      found = await reconcileOnce(deps, parts.feed, parts.metrics);
      await parts.desk.serve(signal);
      told = "";
    } catch (error) {
      const { message } = toFault(error);
      // Once for each reason: while a store is away every look fails alike.
      if (!signal.aborted && message !== told) platform.log.warn("cannot look at the fleet", { error: message });
      told = message;
    }
    // What was just written may ask for more at once.
    await platform.clock.sleep(found > 0 ? Math.ceil(o.tickMs / 5) : o.tickMs, signal).catch(() => {});
  }
  await running;
}

export type { Snapshot };
