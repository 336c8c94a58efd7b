import type { Client } from "@connectrpc/connect";
import { backoffMs, type Clock, type Rng } from "@ultracloud/base";
import { serviceSchema } from "@ultracloud/cluster-state";
import type { Health, Logger } from "@ultracloud/observe";
import { type Assigned, type FleetNodeService, InstancePhase } from "@ultracloud/proto/fleetscheduler/v1";
import type { Template } from "./domain/files.ts";
import type { Instances, Phase } from "./instances.ts";
import type { AssignedInstance } from "./store.ts";

const backoff = { baseMs: 200, maxMs: 2_000, tries: Number.POSITIVE_INFINITY };
const attemptsCounted = 8;
/** Kept free of the lease's time: clocks are whole seconds, and a launcher looks ten times a second. */
const leaseMarginMs = 1_500;

export const phases: Record<Phase, InstancePhase> = {
  pending: InstancePhase.PENDING,
  starting: InstancePhase.STARTING,
  running: InstancePhase.RUNNING,
  healthy: InstancePhase.HEALTHY,
  unhealthy: InstancePhase.UNHEALTHY,
  backing_off: InstancePhase.BACKING_OFF,
  failed: InstancePhase.FAILED,
  stopped: InstancePhase.STOPPED,
};

export interface NodeDescription {
  readonly name: string;
  readonly agentUrl: string;
  readonly class: string;
  readonly pool: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly capacity: { readonly cpuMillis: number; readonly memoryBytes: number };
  readonly version: string;
}

export interface LinkDeps {
  readonly nodes: Pick<Client<typeof FleetNodeService>, "registerNode" | "heartbeat" | "watchAssignment">;
  readonly instances: Instances;
  readonly clock: Clock;
  readonly rng: Rng;
  readonly log: Logger;
  readonly health: Health;
}

/** Keeps the node known to the scheduler, says how its instances are, and holds the lease that they run under. */
export class SchedulerLink {
  readonly #node: NodeDescription;
  readonly #deps: LinkDeps;
  #wake = () => {};
  #registered = false;
  /** Aborted at a registration: what is assigned is asked for anew. */
  #watch = new AbortController();

  constructor(node: NodeDescription, deps: LinkDeps) {
    this.#node = node;
    this.#deps = deps;
    deps.health.set("fleet-scheduler", "starting", "not yet registered");
  }

  /** Something changed: tell at once. */
  poke(): void {
    this.#wake();
  }

  async heartbeats(signal: AbortSignal): Promise<void> {
    const { clock, health, log, rng } = this.#deps;
    let failures = 0, ttlMs = 0;
    while (!signal.aborted) {
      const woken = new Promise<void>((resolve) => this.#wake = resolve);
      let pauseMs: number;
      try {
        if (!this.#registered) ttlMs = await this.#register(signal);
        const answered = await this.#beat(ttlMs, signal);
        this.#registered = answered;
        if (answered && failures > 0) log.info("fleet-scheduler answers again", {});
        if (answered) health.set("fleet-scheduler", "ready");
        failures = 0;
        if (!answered) continue;
        pauseMs = ttlMs / 4;
      } catch (error) {
        if (signal.aborted) return;
        failures++;
        if (failures === 1) log.warn("fleet-scheduler does not answer", { error });
        health.set(
          "fleet-scheduler",
          this.#registered ? "degraded" : "starting",
          `fleet-scheduler does not answer (${failures} tries)`,
        );
        pauseMs = backoffMs(backoff, Math.min(failures, attemptsCounted), rng);
        await clock.sleep(pauseMs, signal).catch(() => {});
        continue;
      }
      const timer = new AbortController();
      const sleep = clock.sleep(pauseMs, AbortSignal.any([signal, timer.signal])).catch(() => {});
      await Promise.race([woken, sleep]);
      timer.abort();
    }
  }

  async #register(signal: AbortSignal): Promise<number> {
    const { name, agentUrl, labels, capacity, version } = this.#node;
    const answer = await this.#deps.nodes.registerNode({
      node: {
        name,
        agentUrl,
        class: this.#node.class,
        pool: this.#node.pool,
        labels: { ...labels },
        capacity: { cpuMillis: BigInt(capacity.cpuMillis), memoryBytes: BigInt(capacity.memoryBytes) },
        agentVersion: version,
      },
    }, { signal });
    // While the node was away its instances may have been given to others.
    this.#deps.instances.doubt();
    this.#watch.abort();
    this.#watch = new AbortController();
    this.#deps.log.info("registered", { node: name, leaseTtlMs: Number(answer.leaseTtlMs) });
    return Number(answer.leaseTtlMs);
  }

  /** False: the node must register again. */
  async #beat(ttlMs: number, signal: AbortSignal): Promise<boolean> {
    const { instances, nodes, clock } = this.#deps;
    // What counts is when it was asked for: the answer may be late.
    const askedUptime = Deno.osUptime(), askedMs = clock.monotonicMs();
    const answer = await nodes.heartbeat({
      node: this.#node.name,
      assignmentVersion: instances.version,
      instances: instances.views.map(({ id, phase, reason, restarts, pid }) => ({
        id,
        phase: phases[phase],
        reason,
        restarts,
        pid,
      })),
    }, { signal, timeoutMs: Math.max(1_000, ttlMs / 3) });
    if (answer.reregister) return false;
    const heldMs = Number(answer.leaseTtlMs) - leaseMarginMs;
    instances.renewLease(askedUptime - 1 + heldMs / 1000, askedMs + heldMs - 1_000);
    return true;
  }

  /** Follows what this node shall run. */
  async assignments(signal: AbortSignal): Promise<void> {
    const { nodes, instances, clock, log, rng } = this.#deps;
    let failures = 0;
    while (!signal.aborted) {
      const watch = this.#watch.signal;
      try {
        for await (
          const { version, instances: assigned } of nodes.watchAssignment({
            node: this.#node.name,
            knownVersion: instances.version,
          }, { signal: AbortSignal.any([signal, watch]), timeoutMs: 0 })
        ) {
          // Said before the node was there again.
          if (watch.aborted) break;
          failures = 0;
          instances.apply({ version, instances: assigned.map((one) => this.#toAssigned(one)) });
        }
      } catch (error) {
        if (signal.aborted) return;
        if (watch.aborted) continue;
        if (++failures === 1) log.debug("the assignment is not to be had", { error });
      }
      await clock.sleep(backoffMs(backoff, Math.min(failures + 1, attemptsCounted), rng), signal).catch(() => {});
    }
  }

  #toAssigned({ id, service, revision, template, stop }: Assigned): AssignedInstance {
    // It becomes the name of a directory.
    if (!/^[a-z0-9][a-z0-9-]{0,80}$/.test(id)) throw new TypeError(`Cannot use ${JSON.stringify(id)} as an instance`);
    // The same schema on both ends: a scheduler that is newer than this agent may know more, never less.
    const spec = serviceSchema.parse(template);
    const { command, closure, program, args, env, secrets, ports, volumes, healthCheck, restart } = spec;
    const { stopGraceMs, resources, limits } = spec;
    const own: Template = {
      command,
      closure,
      program,
      args,
      env,
      secrets,
      ports,
      volumes,
      healthCheck,
      restart,
      stopGraceMs,
      resources,
      limits,
    };
    return { spec: { id, service, revision: String(revision), node: this.#node.name, template: own }, stop };
  }
}
