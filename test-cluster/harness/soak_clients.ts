import { Fault, type Rng, uniform, utf8 } from "@ultracloud/base";
import { CompareResult, Consistency, KvService as CoordinationService } from "@ultracloud/proto/chainfire/v1";
import { KvService, Level } from "@ultracloud/proto/flaredb/v1";
import type { RegisterAction, RegisterOperation } from "@ultracloud/testing";
import type { Cluster } from "./cluster.ts";
import { laneDatabase } from "./stores.ts";

/** Failures that promise that nothing was done. */
const untouched: ReadonlySet<string> = new Set(["not_leader", "connect_failed", "too_many_calls", "overloaded"]);
/** A call that takes longer is given up; what became of it is unknown. */
const callTimeoutMs = 3_000;
/** Pause after a refusal, so that a cluster without leader is not flooded. */
const refusedPauseMs = 50;

/** A register as a store keeps it, through one of its replicas. */
export interface Register {
  write(node: string, key: string, value: number): Promise<void>;
  /** 0 when it was never written. */
  read(node: string, key: string): Promise<number>;
  /** Answers whether the value was `expected` and is `value` now. */
  swap(node: string, key: string, expected: number, value: number): Promise<boolean>;
}

export function chainfireRegister(cluster: Cluster): Register {
  const kv = (node: string) =>
    cluster.clients.of(CoordinationService, "chainfire", { node, retries: 0, timeoutMs: callTimeoutMs });
  const bytes = (value: number) => utf8.encode(String(value));
  return {
    write: async (node, key, value) => void await kv(node).put({ key: utf8.encode(key), value: bytes(value) }),
    async read(node, key) {
      const { kvs } = await kv(node).range({ key: utf8.encode(key), consistency: Consistency.LINEARIZABLE });
      return kvs[0] === undefined ? 0 : Number(utf8.decode(kvs[0].value));
    },
    async swap(node, key, expected, value) {
      const at = utf8.encode(key);
      const target = expected === 0
        ? { case: "version" as const, value: 0n }
        : { case: "value" as const, value: bytes(expected) };
      const { succeeded } = await kv(node).txn({
        compare: [{ key: at, result: CompareResult.EQUAL, target }],
        success: [{ request: { case: "put", value: { key: at, value: bytes(value) } } }],
      });
      return succeeded;
    },
  };
}

/** flaredb compares versions; every value is written once, so the version stands for the value that was read with it. */
export function flaredbRegister(cluster: Cluster): Register {
  const kv = (node: string) => cluster.clients.of(KvService, "flaredb", { node, retries: 0, timeoutMs: callTimeoutMs });
  const [database, bucket] = [laneDatabase, "soak"];
  const versions = new Map<string, bigint>();
  return {
    async write(node, key, value) {
      const { version } = await kv(node).put({ database, bucket, key, value: utf8.encode(String(value)) });
      versions.set(`${key} ${value}`, version);
    },
    async read(node, key) {
      const { item } = await kv(node).get({ database, bucket, key, read: { level: Level.LINEARIZABLE } });
      if (item === undefined) return 0;
      const value = Number(utf8.decode(item.value));
      versions.set(`${key} ${value}`, item.version);
      return value;
    },
    async swap(node, key, expected, value) {
      const expectedVersion = expected === 0 ? 0n : versions.get(`${key} ${expected}`);
      if (expectedVersion === undefined) {
        throw new TypeError(`Cannot swap ${key}: the version of ${expected} is unknown`);
      }
      const answer = await kv(node).compareAndSwap({
        database,
        bucket,
        key,
        expectedVersion,
        value: utf8.encode(String(value)),
      });
      if (answer.swapped) versions.set(`${key} ${value}`, answer.version);
      return answer.swapped;
    },
  };
}

export interface SoakClientOptions {
  readonly store: string;
  readonly nodes: readonly string[];
  /** Key of the moment; it changes, so that no history grows without bound. */
  readonly key: () => string;
  /** Never the same twice, over all clients. */
  readonly nextValue: () => number;
  readonly signal: AbortSignal;
}

export interface SoakCounts {
  done: number;
  refused: number;
  unknown: number;
}

/** One client: reads, writes and swaps at random replicas until told to stop, and writes down what it saw. */
export async function soakClient(
  options: SoakClientOptions,
  register: Register,
  rng: Rng,
  history: RegisterOperation[],
  counts: SoakCounts,
): Promise<void> {
  const { nodes, signal } = options;
  let lastRead: { readonly key: string; readonly value: number } | undefined;
  while (!signal.aborted) {
    const key = options.key();
    const node = nodes[uniform(rng, nodes.length)]!;
    const die = uniform(rng, 10);
    const invokedAt = performance.now();
    const record = (action: RegisterAction, returnedAt: number) =>
      void history.push({ key: `${options.store} ${key}`, action, invokedAt, returnedAt });
    let action: RegisterAction | undefined;
    try {
      if (die < 4) {
        const value = await register.read(node, key);
        lastRead = { key, value };
        action = { kind: "read", value };
      } else if (die < 7 || lastRead?.key !== key) {
        const value = options.nextValue();
        action = { kind: "write", value };
        await register.write(node, key, value);
      } else {
        const { value: expected } = lastRead;
        const value = options.nextValue();
        // Should it end unknown, it counts as one that may have happened.
        action = { kind: "cas", expected, value, swapped: true };
        const swapped = await register.swap(node, key, expected, value);
        action = { kind: "cas", expected, value, swapped };
      }
      record(action, performance.now());
      counts.done++;
    } catch (error) {
      if (!(error instanceof Fault)) throw error;
      if (untouched.has(error.code)) counts.refused++;
      else {
        counts.unknown++;
        if (action !== undefined && action.kind !== "read") record(action, Infinity);
      }
      await new Promise((resolve) => setTimeout(resolve, refusedPauseMs));
    }
  }
}
