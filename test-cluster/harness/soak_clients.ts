import { Fault, type Rng, uniform, utf8 } from "@ultracloud/base";
import { CompareResult, Consistency, KvService as CoordinationService } from "@ultracloud/proto/chainfire/v1";
import { KvService, Level } from "@ultracloud/proto/flaredb/v1";
import { OrgService, type Project, ProjectService } from "@ultracloud/proto/iam/v1";
import type { RegisterAction, RegisterOperation } from "@ultracloud/testing";
import type { Cluster } from "./cluster.ts";
import { laneDatabase } from "./stores.ts";

/** Failures of a store's own replica that promise that nothing was done. */
const untouched: ReadonlySet<string> = new Set(["not_leader", "connect_failed", "too_many_calls", "overloaded"]);
/** Organisation whose projects are iam's registers. */
const soakOrg = "soak";
/** A call that takes longer is given up; what became of it is unknown. */
const callTimeoutMs = 3_000;
/** Pause after a refusal, so that a cluster without leader is not flooded. */
const refusedPauseMs = 50;

/** A register as a replicated service keeps it, through one of its replicas. */
export interface Register {
  /** Codes of failures that promise that nothing was done. */
  readonly untouched: ReadonlySet<string>;
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
    untouched,
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
    untouched,
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

/** Makes what iam's registers live in. */
export async function createSoakOrg(cluster: Cluster): Promise<void> {
  const orgs = cluster.clients.of(OrgService, "iam");
  await orgs.createOrg({ name: soakOrg }).catch((error) => {
    if (!(error instanceof Fault && error.kind === "already_exists")) throw error;
  });
}

/**
 * iam keeps a register as the display name of a project, which is there from its first write on. It stands on flaredb, so
 * that none of its failures promises anything but the two that speak of the record itself.
 */
export function iamRegister(cluster: Cluster): Register {
  const projects = (node: string) =>
    cluster.clients.of(ProjectService, "iam", { node, retries: 0, timeoutMs: callTimeoutMs });
  const nameOf = (key: string) => `p-${key.replaceAll("/", "-")}`;
  const etags = new Map<string, string>();
  const keep = (key: string, project: Project) => {
    etags.set(`${key} ${project.displayName}`, project.meta!.etag);
    return Number(project.displayName);
  };
  /** Undefined when the call failed with the kind. */
  async function unless<T>(kind: Fault["kind"], call: Promise<T>): Promise<T | undefined> {
    try {
      return await call;
    } catch (error) {
      if (error instanceof Fault && error.kind === kind) return undefined;
      throw error;
    }
  }
  const create = (node: string, key: string, value: number) =>
    unless(
      "already_exists",
      projects(node).createProject({ org: soakOrg, name: nameOf(key), displayName: String(value) }),
    );
  const update = (node: string, key: string, value: number, etag: string) =>
    projects(node).updateProject({
      project: `${soakOrg}/${nameOf(key)}`,
      value: { displayName: String(value) },
      updateMask: { paths: ["display_name"] },
      etag,
    });
  return {
    untouched: new Set(["connect_failed"]),
    async write(node, key, value) {
      const project = await unless("not_found", update(node, key, value, "")) ?? await create(node, key, value) ??
        await update(node, key, value, "");
      keep(key, project);
    },
    async read(node, key) {
      const project = await unless("not_found", projects(node).getProject({ project: `${soakOrg}/${nameOf(key)}` }));
      return project === undefined ? 0 : keep(key, project);
    },
    async swap(node, key, expected, value) {
      if (expected === 0) {
        const made = await create(node, key, value);
        if (made) keep(key, made);
        return made !== undefined;
      }
      const etag = etags.get(`${key} ${expected}`);
      if (etag === undefined) throw new TypeError(`Cannot swap ${key}: the etag of ${expected} is unknown`);
      try {
        keep(key, await update(node, key, value, etag));
        return true;
      } catch (error) {
        if (error instanceof Fault && error.code === "etag_mismatch") return false;
        throw error;
      }
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
      if (register.untouched.has(error.code)) counts.refused++;
      else {
        counts.unknown++;
        if (action !== undefined && action.kind !== "read") record(action, Infinity);
      }
      await new Promise((resolve) => setTimeout(resolve, refusedPauseMs));
    }
  }
}
