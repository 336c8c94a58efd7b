import { type Rng, systemClock, uniform } from "@ultracloud/base";
import type { Cluster } from "./cluster.ts";
import type { Faults } from "./faults.ts";

export interface FaultRecord {
  readonly kind: string;
  readonly target: string;
  readonly atMs: number;
  readonly heldMs: number;
}

interface Place {
  readonly cluster: Cluster;
  readonly faults: Faults;
  readonly nodes: readonly string[];
  readonly rng: Rng;
  /** Holds the fault for a while. */
  hold(minMs: number, maxMs: number): Promise<void>;
}

const pick = <T>(rng: Rng, from: readonly T[]): T => from[uniform(rng, from.length)]!;

/** Starts what belongs on the nodes, and waits until it is ready. */
const back = (place: Place, nodes: readonly string[]) => place.cluster.startAll({ nodes });

/** Each does harm, holds it for a while, undoes it and answers whom it hit. */
export const soakFaults: Readonly<Record<string, (place: Place) => Promise<string>>> = {
  async kill_process(place) {
    const node = pick(place.rng, place.nodes);
    const component = pick(place.rng, place.cluster.componentsOf(node));
    await place.cluster.kill(node, component);
    await place.hold(0, 3_000);
    await back(place, [node]);
    return `${component} on ${node}`;
  },
  async lose_node(place) {
    const node = pick(place.rng, place.nodes);
    await place.cluster.substrate.powerOff(node);
    await place.hold(1_000, 6_000);
    await back(place, [node]);
    return node;
  },
  async lose_all_nodes(place) {
    await Promise.all(place.nodes.map((node) => place.cluster.substrate.powerOff(node)));
    await place.hold(0, 1_000);
    await back(place, place.nodes);
    return place.nodes.join(", ");
  },
  async pause_node(place) {
    const node = pick(place.rng, place.nodes);
    await place.cluster.substrate.pause(node);
    await place.hold(500, 8_000);
    await place.cluster.substrate.resume(node);
    return node;
  },
  async isolate_node(place) {
    const node = pick(place.rng, place.nodes);
    await place.faults.partition([node]);
    await place.hold(1_000, 8_000);
    await place.faults.heal();
    return node;
  },
  async cut_one_way(place) {
    const from = pick(place.rng, place.nodes);
    const to = pick(place.rng, place.nodes.filter((node) => node !== from));
    await place.faults.cutOneWay(from, to);
    await place.hold(1_000, 8_000);
    await place.faults.heal();
    return `${from} to ${to}`;
  },
};

const quietMsMin = 1_500;
const quietMsMax = 4_000;

/** Injects faults one after the other until told to stop; the first rounds try every kind once. */
export async function injectFaults(
  options: { readonly nodes: readonly string[]; readonly signal: AbortSignal },
  deps: {
    readonly cluster: Cluster;
    readonly faults: Faults;
    readonly rng: Rng;
    readonly onFault: (record: FaultRecord) => void;
  },
): Promise<void> {
  const { rng } = deps;
  const begin = performance.now();
  const kinds = Object.keys(soakFaults);
  const sleep = (minMs: number, maxMs: number) =>
    systemClock.sleep(minMs + uniform(rng, maxMs - minMs + 1), options.signal).catch(() => {});
  for (let round = 0; !options.signal.aborted; round++) {
    await sleep(quietMsMin, quietMsMax);
    if (options.signal.aborted) return;
    const kind = round < kinds.length ? kinds[round]! : pick(rng, kinds);
    const atMs = Math.round(performance.now() - begin);
    const target = await soakFaults[kind]!({ ...deps, ...options, hold: sleep });
    deps.onFault({ kind, target, atMs, heldMs: Math.round(performance.now() - begin - atMs) });
  }
}
