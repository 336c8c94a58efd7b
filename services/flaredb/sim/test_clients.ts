import { create, type DescMessage, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { type Rng, uniform } from "@ultracloud/base";
import {
  BatchRequestSchema,
  CompareAndSwapRequestSchema,
  type ExpectedResultSchema,
  GetRequestSchema,
  PutRequestSchema,
  StatementSchema,
} from "@ultracloud/proto/flaredb/v1";
import { checkLinearizable, type RegisterAction, type RegisterOperation, type SimClock } from "@ultracloud/testing";
import { createHash } from "node:crypto";
import { encodeEntry, type EntryKind, entryKinds } from "../domain/log_entry.ts";
import { digestOf } from "../state/result_digest.ts";
import type { PlantedBug } from "./test_bugs.ts";
import type { SimNode } from "./test_node.ts";

const keys = 2;
const timeoutMs = 300;
const triesMax = 4;
const utf8 = new TextEncoder();

interface Pending {
  readonly id: string;
  readonly group: number;
  readonly data: Uint8Array;
  /** What the register held before, for a swap. */
  readonly action: RegisterAction | undefined;
  readonly key: string;
  readonly invokedAt: number;
}

/** Clients of all groups: registers by key, and rows by SQL under a key each, retried anywhere until answered. */
export class SimClients {
  /** Acknowledged writes by their id. */
  readonly acknowledged = new Set<string>();
  reads = 0;
  stopped = false;
  readonly #history: RegisterOperation[] = [];
  readonly #performed = new Map<string, { at: number; swapped: boolean }>();
  readonly #unknown: Pending[] = [];
  readonly #versions = new Map<string, { version: bigint; value: number }>();
  readonly #nodes: readonly SimNode[];
  readonly #clock: SimClock;
  readonly #rng: Rng;
  readonly #groups: readonly number[];
  readonly #bug: PlantedBug;
  #value = 0;
  #instant = 0;

  constructor(
    nodes: readonly SimNode[],
    deps: { readonly clock: SimClock; readonly rng: Rng; readonly groups: readonly number[]; readonly bug: PlantedBug },
  ) {
    this.#nodes = nodes;
    this.#clock = deps.clock;
    this.#rng = deps.rng;
    this.#groups = deps.groups;
    this.#bug = deps.bug;
  }

  start(count: number): void {
    for (let i = 0; i < count; i++) this.#clock.after(uniform(this.#rng, 100), () => this.#next());
  }

  /** A write took effect somewhere for the first time. */
  performed(id: string, swapped: boolean): void {
    if (!this.#performed.has(id)) this.#performed.set(id, { at: this.#instant++, swapped });
  }

  /** Registers whose history has no order that explains it. */
  broken(): string[] {
    const settled = this.#unknown.flatMap((pending): RegisterOperation[] => {
      const effect = this.#performed.get(pending.id);
      if (pending.action === undefined || effect === undefined) return [];
      const { key, invokedAt } = pending;
      const action = pending.action.kind === "cas" ? { ...pending.action, swapped: effect.swapped } : pending.action;
      return [{ key, action, invokedAt, returnedAt: effect.at }];
    });
    return checkLinearizable([...this.#history, ...settled]);
  }

  #next(): void {
    if (this.stopped) return;
    const group = this.#pick(this.#groups);
    const kind = uniform(this.#rng, 100);
    if (kind < 35) return this.#read(group);
    const value = ++this.#value;
    const id = `op-${value}`;
    if (kind < 60) return this.#write(this.#sqlWrite(group, id, value));
    const bucketKey = `k${uniform(this.#rng, keys)}`;
    const key = `${group}/${bucketKey}`;
    const base = { database: "t_sim", bucket: "b", key: bucketKey, value: utf8.encode(`${id} ${value}`) };
    const seen = this.#versions.get(key);
    const swap = kind >= 85 && seen !== undefined;
    const data = swap
      ? this.#entry(
        entryKinds.compareAndSwap,
        CompareAndSwapRequestSchema,
        { ...base, expectedVersion: seen.version },
        id,
      )
      : this.#entry(entryKinds.put, PutRequestSchema, base, id);
    const action: RegisterAction = swap
      ? { kind: "cas", expected: seen.value, value, swapped: true }
      : { kind: "write", value };
    this.#write({ id, group, data, action, key, invokedAt: this.#instant++ });
  }

  #sqlWrite(group: number, id: string, value: number): Pending {
    const text = (value: string) => ({ kind: { case: "text" as const, value } });
    const seen = value % 4 === 1 ? this.#counter(group) : undefined;
    const statements = [
      { sql: "INSERT INTO entry(op, r, at) VALUES(?, random(), CURRENT_TIMESTAMP)", positional: [text(id)] },
      { sql: "UPDATE counter SET n = n + 1" },
    ];
    // Refused as a whole: nothing of it may be left.
    if (value % 5 === 0) statements.push({ sql: "INSERT INTO counter VALUES(1, 1)" });
    const kind = seen === undefined ? entryKinds.batch : entryKinds.checkedBatch;
    const expectedResults = seen === undefined ? [] : [seen];
    const data = this.#entry(kind, BatchRequestSchema, { database: "t_sim", statements, expectedResults }, id);
    return { id, group, data, action: undefined, key: "", invokedAt: this.#instant++ };
  }

  /** What some replica says of the counter, as a condition; the parameter tells whoever replays what it was. */
  #counter(group: number): MessageInitShape<typeof ExpectedResultSchema> | undefined {
    const machine = this.#node(group).replicas.get(group)?.machine;
    const row = machine?.closed === false && machine.index > 0 && machine.db.get<{ n: number }>(
      "SELECT 1 AS n FROM sqlite_schema WHERE name = 'counter'",
    );
    if (!machine || !row) return undefined;
    const { n } = machine.db.get<{ n: number }>("SELECT n FROM counter")!;
    const seen = { kind: { case: "text" as const, value: String(n) } };
    const statement = create(StatementSchema, { sql: "SELECT n, ? FROM counter", positional: [seen] });
    const limits = { rowsMax: 10, costRowsMax: 1_000_000, tick: () => {} };
    const frozen = { timeMs: machine.timeMs, seed: new Uint8Array(16) };
    return { statement, digest: digestOf(machine.parts.effects.query(statement, frozen, limits).result) };
  }

  #entry<D extends DescMessage>(kind: EntryKind, schema: D, request: MessageInitShape<D>, id: string): Uint8Array {
    const payload = toBinary(schema, create(schema, request));
    const sha256 = new Uint8Array(createHash("sha256").update(payload).digest());
    const seed = new Uint8Array(16);
    for (let i = 0; i < 16; i++) seed[i] = this.#rng.uint32() & 0xff;
    const dedupe = this.#bug.noKeys ? undefined : { key: id, sha256 };
    return encodeEntry({ kind, timeMs: Math.round(this.#clock.nowMs()), seed, dedupe, payload });
  }

  #pick<T>(from: readonly T[]): T {
    return from[uniform(this.#rng, from.length)]!;
  }

  #node(group: number): SimNode {
    const leading = this.#nodes.filter(({ replicas }) => replicas.get(group)?.driver.status().role === "leader");
    // While two believe that they lead, both are asked.
    return leading.length > 0 && uniform(this.#rng, 10) < 8 ? this.#pick(leading) : this.#pick(this.#nodes);
  }

  #write(pending: Pending, tries = 0): void {
    const { group, data } = pending;
    const later = () => this.#clock.after(uniform(this.#rng, 40), () => this.#next());
    const again = () => {
      if (tries >= triesMax) {
        this.#unknown.push(pending);
        later();
      } else this.#clock.after(10 + uniform(this.#rng, 80), () => this.#write(pending, tries + 1));
    };
    let over = false;
    const once = (run: () => void) => {
      if (over) return;
      over = true;
      run();
    };
    this.#clock.after(timeoutMs, () => once(again));
    this.#clock.after(1 + uniform(this.#rng, 5), () => {
      const driver = this.#node(group).replicas.get(group)?.driver;
      driver?.propose(data, (outcome) =>
        this.#clock.after(1 + uniform(this.#rng, 5), () =>
          once(() => {
            if ("refused" in outcome) return again();
            this.#answered(pending, outcome.result);
            later();
          })));
    });
  }

  #answered(pending: Pending, result: unknown): void {
    if (result instanceof Error) {
      // A refusal of the batch that was to be refused.
      return;
    }
    this.acknowledged.add(`${pending.group} ${pending.id}`);
    if (pending.action === undefined) return;
    const { key, action, invokedAt } = pending;
    const told = action.kind === "cas" ? { ...action, swapped: (result as { swapped: boolean }).swapped } : action;
    this.#history.push({ key, action: told, invokedAt, returnedAt: this.#instant++ });
  }

  #read(group: number): void {
    const bucketKey = `k${uniform(this.#rng, keys)}`;
    const key = `${group}/${bucketKey}`;
    const invokedAt = this.#instant++;
    const request = create(GetRequestSchema, { bucket: "b", key: bucketKey });
    const replica = this.#node(group).replicas.get(group);
    const next = () => this.#clock.after(uniform(this.#rng, 40), () => this.#next());
    let over = false;
    const finish = (look: boolean) => {
      if (over) return;
      over = true;
      if (look && replica !== undefined && !replica.machine.closed) {
        const row = replica.machine.parts.kv.get(request.bucket, request.key, replica.machine.timeMs);
        const value = row === undefined ? 0 : Number(new TextDecoder().decode(row.value).split(" ")[1]);
        this.#versions.set(key, { version: BigInt(row?.version ?? 0), value });
        this.#history.push({ key, action: { kind: "read", value }, invokedAt, returnedAt: this.#instant++ });
        this.reads++;
      }
      next();
    };
    this.#clock.after(timeoutMs, () => finish(false));
    if (replica === undefined) return;
    if (this.#bug.localReads) this.#clock.after(1, () => finish(true));
    else replica.driver.read((outcome) => finish(!("refused" in outcome)));
  }
}
