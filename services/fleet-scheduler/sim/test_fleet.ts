import { fraction, type Rng, uniform } from "@ultracloud/base";
import { serviceSchema, type ServiceSpec } from "@ultracloud/cluster-state";
import { splitRng } from "@ultracloud/testing";
import { decide } from "../domain/decide.ts";
import { applied } from "../domain/rollout.ts";
import type {
  Decision,
  Drain,
  Instance,
  NodeView,
  Observed,
  Phase,
  Service,
  ServiceView,
  World,
} from "../domain/types.ts";

export const leaseTtlMs = 10_000;
/** A node-agent stops what it runs when this much of the lease is left. */
const leaseMarginMs = 2_000;
export const tickMs = 500;

/** A process on a simulated node. */
interface Process {
  readonly id: string;
  readonly service: string;
  readonly instance: Instance;
  phase: Phase;
  /** When it goes on to its next phase. */
  nextMs: number;
  restarts: number;
}

interface SimNode {
  readonly view: NodeView;
  /** Reaches the scheduler. */
  connected: boolean;
  lastBeatMs: number;
  readonly processes: Map<string, Process>;
}

/** Ways to spoil the scheduler, each of which the checks must find. */
export interface Bugs {
  /** Gives up a lost node's instances before its lease has ended. */
  readonly lostEarly?: boolean;
  /** Stops all of a draining node at once. */
  readonly drainAtOnce?: boolean;
  /** Does not see what is taken of a node. */
  readonly blindToRoom?: boolean;
  /** Takes a template for healthy whatever its instances say. */
  readonly blindToHealth?: boolean;
}

export interface FleetOptions {
  readonly seed: number;
  readonly nodes: number;
  readonly services: number;
  readonly replicas: number;
  readonly bugs?: Bugs;
  /** Nodes with little room: not everything has a place. */
  readonly tight?: boolean;
}

/** A spec as an operator would write it, with the defaults of the schema. */
export function specOf(input: Record<string, unknown>): ServiceSpec {
  return serviceSchema.parse({ command: ["/bin/work"], ...input });
}

/** A fleet in one thread: the scheduler's decisions on simulated nodes, agents, leases and processes. */
export class Fleet {
  readonly nodes = new Map<string, SimNode>();
  readonly services = new Map<
    string,
    { kept: Service; instances: Instance[] }
  >();
  readonly observed = new Map<string, Observed>();
  readonly #bugs: Bugs;
  readonly #rng: Rng;
  nowMs = 1_000_000;
  decisions = 0;
  placed = 0;
  forgotten = 0;
  decideMs = 0;
  #ids = 0;
  readonly seed: number;

  constructor(o: FleetOptions) {
    this.#bugs = o.bugs ?? {};
    this.seed = o.seed;
    this.#rng = splitRng(o.seed, 1);
    const size = o.tight ? 0.2 : 1;
    for (let i = 0; i < o.nodes; i++) {
      const name = `node${String(i).padStart(4, "0")}`;
      this.nodes.set(name, {
        connected: true,
        lastBeatMs: this.nowMs,
        processes: new Map(),
        view: {
          name,
          labels: {
            zone: `z${i % 5}`,
            ...(i % 3 === 0 ? { disk: "ssd" } : {}),
          },
          agentUrl: "",
          class: i % 4 === 0 ? "big" : "small",
          pool: `p${i % 2}`,
          capacity: {
            cpuMillis: size * (i % 4 === 0 ? 32_000 : 16_000),
            memoryBytes: size * (i % 4 === 0 ? 64 : 32) * 2 ** 30,
          },
          agentVersion: "0.1.0",
          cordoned: false,
          drain: null,
          lostMs: 0,
          registeredMs: this.nowMs,
        },
      });
    }
    for (let i = 0; i < o.services; i++) {
      this.apply(
        `svc${String(i).padStart(4, "0")}`,
        this.#randomSpec(o.replicas),
        "v1",
      );
    }
  }

  #randomSpec(replicas: number): ServiceSpec {
    const rng = this.#rng;
    return specOf({
      replicas,
      spread: uniform(rng, 2) === 0 ? ["zone", "node"] : ["node"],
      ...(uniform(rng, 4) === 0 ? { ports: { main: { port: 20_000 + uniform(rng, 1000) } } } : {}),
      ...(uniform(rng, 8) === 0 ? { constraints: [{ label: "disk", values: ["ssd"] }] } : {}),
      ...(uniform(rng, 8) === 0 ? { classes: ["big"] } : {}),
      resources: {
        cpuMillis: 100 * (1 + uniform(rng, 10)),
        memoryBytes: 2 ** 26 * (1 + uniform(rng, 16)),
      },
      update: {
        maxParallel: 1 + uniform(rng, 2),
        deadlineMs: 60_000,
        ...(uniform(rng, 3) === 0 ? { order: "stop-first" } : {}),
        ...(uniform(rng, 4) === 0 ? { strategy: "canary" } : {}),
      },
      lostReplaceDelayMs: 5_000,
    });
  }

  /** A new or changed service; a hash that begins with "bad" never becomes healthy. */
  apply(name: string, spec: ServiceSpec, hash: string): void {
    const before = this.services.get(name);
    const kept = applied(before?.kept, before ? { ...spec, env: { VERSION: hash } } : spec, hash, this.nowMs);
    if (before) before.kept = kept;
    else this.services.set(name, { kept, instances: [] });
  }

  setNode(name: string, change: Partial<NodeView>): void {
    const node = this.nodes.get(name)!;
    (node as { view: NodeView }).view = { ...node.view, ...change };
  }

  drain(name: string, drain: Partial<Drain> = {}): void {
    this.setNode(name, {
      drain: {
        startMs: this.nowMs,
        deadlineMs: 0,
        atDeadline: "abort",
        by: "test",
        phase: "draining",
        total: 0,
        reason: "",
        ...drain,
      },
    });
  }

  view(): World {
    const bugs = this.#bugs;
    return {
      nowMs: this.nowMs,
      nodes: [...this.nodes.values()].map(({ view }) => ({
        ...view,
        ...(bugs.blindToRoom ? { capacity: { cpuMillis: 2 ** 40, memoryBytes: 2 ** 50 } } : {}),
      })),
      services: [...this.services].map((
        [name, { kept, instances }],
      ): ServiceView => ({ ...kept, name, instances })),
      observed: bugs.blindToHealth
        ? new Map(
          [...this.observed].map((
            [id, o],
          ) => [id, {
            ...o,
            phase: "healthy" as const,
            restarts: 0,
            sinceMs: 0,
          }]),
        )
        : this.observed,
    };
  }

  /** One look of the scheduler; answers how much it found to do. */
  schedule(): number {
    const limitMs = this.#bugs.lostEarly ? leaseTtlMs / 4 : leaseTtlMs;
    for (const node of this.nodes.values()) {
      const lost = this.nowMs - node.lastBeatMs > limitMs;
      if (lost && node.view.lostMs === 0) {
        this.setNode(node.view.name, {
          lostMs: this.#bugs.lostEarly ? this.nowMs - 60_000 : this.nowMs,
        });
      }
      if (!lost && node.view.lostMs !== 0) {
        this.setNode(node.view.name, { lostMs: 0 });
      }
    }
    const started = performance.now();
    const { decisions } = decide(this.view());
    this.decideMs += performance.now() - started;
    for (const decision of decisions) this.#carryOut(decision);
    if (this.#bugs.drainAtOnce) {
      for (const { instances } of this.services.values()) {
        instances.forEach((instance, i) => {
          if (this.nodes.get(instance.node)!.view.drain) {
            instances[i] = { ...instance, desired: "stop" };
          }
        });
      }
    }
    this.decisions += decisions.length;
    return decisions.length;
  }

  #carryOut(decision: Decision): void {
    if (decision.kind === "drain") {
      return this.setNode(decision.node, { drain: decision.to });
    }
    const service = this.services.get(decision.service)!;
    switch (decision.kind) {
      case "place": {
        const { revision, hash, template, node } = decision;
        const id = `${decision.service}-${this.#ids++}`;
        this.placed++;
        service.instances.push({
          id,
          revision,
          hash,
          template,
          node,
          desired: "run",
          createMs: this.nowMs,
          reason: "",
        });
        break;
      }
      case "stop":
        service.instances = service.instances.map((i) =>
          i.id === decision.id ? { ...i, desired: "stop", reason: decision.reason } : i
        );
        break;
      case "forget": {
        const { node } = service.instances.find((i) => i.id === decision.id)!;
        if (this.nodes.get(node)!.processes.has(decision.id)) {
          throw new Error(
            `${decision.id} was given up (${decision.reason}) while it runs on ${node}`,
          );
        }
        this.forgotten++;
        service.instances = service.instances.filter((i) => i.id !== decision.id);
        this.observed.delete(decision.id);
        break;
      }
      case "change":
        service.kept = decision.to;
        break;
      case "remove":
        this.services.delete(decision.service);
    }
  }

  /** Time passes on the nodes. */
  tick(): void {
    this.nowMs += tickMs;
    const wanted = new Map<
      string,
      Map<string, { service: string; instance: Instance }>
    >();
    for (const [service, { instances }] of this.services) {
      for (const instance of instances) {
        const own = wanted.get(instance.node) ?? new Map();
        wanted.set(instance.node, own.set(instance.id, { service, instance }));
      }
    }
    for (const node of this.nodes.values()) {
      if (node.connected) {
        // Heartbeats come at a third of the lease; what counts is that the last one may be that old.
        if (this.nowMs - node.lastBeatMs >= leaseTtlMs / 3) {
          node.lastBeatMs = this.nowMs;
        }
        if (node.view.lostMs === 0) {
          this.#assign(node, wanted.get(node.view.name) ?? new Map());
        }
      } else if (this.nowMs - node.lastBeatMs >= leaseTtlMs - leaseMarginMs) {
        node.processes.clear();
      }
      for (const process of node.processes.values()) this.#step(node, process);
    }
    this.check();
  }

  #assign(
    node: SimNode,
    wanted: ReadonlyMap<string, { service: string; instance: Instance }>,
  ): void {
    for (const [id, process] of node.processes) {
      const desired = wanted.get(id)?.instance.desired;
      if (desired === "run") continue;
      // Stopping takes its time.
      if (process.phase !== "stopped") {
        process.phase = "stopped";
        process.nextMs = this.nowMs + 200 + uniform(this.#rng, 2000);
      }
    }
    for (const [id, { service, instance }] of wanted) {
      if (instance.desired === "run" && !node.processes.has(id)) {
        node.processes.set(id, {
          id,
          service,
          instance,
          phase: "starting",
          nextMs: this.nowMs + 200 + uniform(this.#rng, 1500),
          restarts: 0,
        });
      }
      const process = node.processes.get(id);
      const phase = process?.phase ?? "stopped";
      const reported = process && phase === "stopped" ? "running" : phase;
      const before = this.observed.get(id);
      if (
        before?.phase === reported &&
        before.restarts === (process?.restarts ?? 0)
      ) continue;
      this.observed.set(id, {
        id,
        phase: reported,
        reason: "",
        sinceMs: this.nowMs,
        restarts: process?.restarts ?? 0,
        pid: 0,
      });
    }
  }

  #step(node: SimNode, process: Process): void {
    if (this.nowMs < process.nextMs) return;
    const bad = process.instance.hash.startsWith("bad");
    if (process.phase === "stopped") node.processes.delete(process.id);
    else if (process.phase === "starting") {
      process.phase = bad ? "backing_off" : "running";
      process.nextMs = this.nowMs + 500;
    } else if (process.phase === "backing_off") {
      process.restarts++;
      process.phase = "starting";
      process.nextMs = this.nowMs + 500;
    } else if (process.phase === "running") process.phase = "healthy";
  }

  /** What must hold at every instant. */
  check(): void {
    for (const { view, processes } of this.nodes.values()) {
      let cpuMillis = 0, memoryBytes = 0;
      const ports = new Set<string>();
      for (const { instance } of processes.values()) {
        cpuMillis += instance.template.resources.cpuMillis;
        memoryBytes += instance.template.resources.memoryBytes;
        for (
          const { port, protocol } of Object.values(instance.template.ports)
        ) {
          const key = `${port}/${protocol}`;
          if (ports.has(key)) {
            throw new Error(`port ${key} of ${view.name} has two instances`);
          }
          ports.add(key);
        }
      }
      if (
        cpuMillis > view.capacity.cpuMillis ||
        memoryBytes > view.capacity.memoryBytes
      ) {
        throw new Error(
          `${view.name} runs more than it can: ${cpuMillis} mCPU, ${memoryBytes} bytes`,
        );
      }
    }
    const running = new Map<string, number>();
    for (const { processes } of this.nodes.values()) {
      for (const { service } of processes.values()) {
        running.set(service, (running.get(service) ?? 0) + 1);
      }
    }
    for (const [name, { kept }] of this.services) {
      const { spec } = kept;
      const most = spec.replicas +
        (spec.update.order === "stop-first" ? 0 : spec.update.maxParallel);
      // One that is over the number after scaling down may still be stopping.
      if (spec.mode === "replicas" && (running.get(name) ?? 0) > most) {
        throw new Error(
          `${name} runs ${running.get(name)} times, at most ${most} may`,
        );
      }
    }
  }

  /** Healthy instances of a service on nodes that are there. */
  serving(name: string): number {
    let count = 0;
    for (const { id, node } of this.services.get(name)!.instances) {
      const { processes, connected } = this.nodes.get(node)!;
      if (connected && processes.get(id)?.phase === "healthy") count++;
    }
    return count;
  }

  /** Looks and lets time pass until nothing is left to do; throws after `limitMs`. */
  settle(limitMs: number, each: () => void = () => {}): number {
    const from = this.nowMs;
    for (let quiet = 0; quiet < 3;) {
      // Nodes still start and stop, and health ripens, without a decision.
      const before = this.#trace();
      const found = this.schedule();
      this.tick();
      each();
      const ripening = this.#trace() !== before || this.#ripens();
      quiet = found === 0 && !ripening ? quiet + 1 : 0;
      if (this.nowMs - from > limitMs) {
        throw new Error(`no rest after ${limitMs} ms`);
      }
    }
    return this.nowMs - from;
  }

  #ripens(): boolean {
    for (const { sinceMs } of this.observed.values()) {
      if (this.nowMs - sinceMs < 4_000) return true;
    }
    for (const { view, connected } of this.nodes.values()) {
      if (
        !connected && (view.lostMs === 0 || this.nowMs - view.lostMs < 6_000)
      ) return true;
      if (connected && view.lostMs !== 0) return true;
    }
    return false;
  }

  #trace(): string {
    let text = "";
    for (const { processes } of this.nodes.values()) {
      for (const process of processes.values()) {
        text += `${process.id}${process.phase};`;
      }
    }
    return text;
  }

  /** Random number of the run. */
  chance(of: number): boolean {
    return fraction(this.#rng) < of;
  }

  pick<T>(from: readonly T[]): T {
    return from[uniform(this.#rng, from.length)]!;
  }
}
