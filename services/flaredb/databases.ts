import { create, type DescMessage, type MessageShape, toBinary } from "@bufbuild/protobuf";
import { EmptySchema } from "@bufbuild/protobuf/wkt";
import { backoffMs, type Clock, Fault, fault, type Rng, uniform } from "@ultracloud/base";
import type { Health, Logger } from "@ultracloud/observe";
import type { Group, ReplicaNode } from "@ultracloud/replica";
import type { CallContext } from "@ultracloud/rpc";
import { LoggedPlacedSchema } from "@ultracloud/proto/flaredb/v1";
import { createHash } from "node:crypto";
import { type DedupeKey, encodeEntry, type EntryKind, entryKinds, noSeed } from "./domain/log_entry.ts";
import { checkDatabase, databaseNotFound } from "./domain/names.ts";
import { CatalogMachine, type CatalogRow, holds, systemGroup } from "./state/catalog_machine.ts";
import { DatabaseMachine } from "./state/database_machine.ts";
import { misplacedLeader, stepPlacement } from "./placement.ts";
import { type CheckedReplicas, ReplicaChecks } from "./replica_checks.ts";
import { receivedBytes } from "./received.ts";
import { removeFiles } from "./state/store.ts";

/** A database of this replica: its log and its state. */
export interface OpenDatabase {
  readonly row: CatalogRow;
  readonly group: Group;
  readonly machine: DatabaseMachine;
}

/** Who proposes, and the key under which the answer is stored with the effect. */
export type Proposer = Pick<CallContext, "principal" | "idempotencyKey" | "received">;

/** The same caller without its key: for what is not the call's one effect. */
export function unkeyed({ principal }: Proposer): Proposer {
  return { principal, idempotencyKey: undefined };
}

export interface DatabasesOptions {
  readonly stateDir: string;
  /** Which of the members this is. */
  readonly memberId: number;
  /** All members; they found the system group. */
  readonly voters: readonly number[];
  /** Client address of each member. */
  readonly clientUrls: Readonly<Record<number, string>>;
}

export interface DatabasesDeps {
  readonly node: ReplicaNode;
  readonly clock: Clock;
  readonly rng: Rng;
  readonly log: Logger;
  readonly health: Health;
  /** The disk or the logic is broken: end the process at once. */
  readonly onFatal: (error: Error) => void;
}

/** How often overdue keys are looked for; a key is gone at most this long after its time. */
const sweepEveryMs = 1_000;
/** One step of each move, and at most one leader handed over, this often. */
const placeEveryMs = 500;
/** Kinds whose effect draws on chance. */
const drawing: ReadonlySet<EntryKind> = new Set<EntryKind>([
  entryKinds.execute,
  entryKinds.batch,
  entryKinds.checkedBatch,
  entryKinds.migrate,
  entryKinds.createWebhook,
]);
const pollMs = { baseMs: 5, maxMs: 100, tries: Infinity };
/** How long a new database may take to get a leader before the call answers without. */
const leaderWaitMs = 5_000;

/**
 * The databases of this replica. The catalog says which there are; whatever was begun, by this process or by one that
 * was killed, is finished by opening and removing until both agree.
 */
export class Databases implements AsyncDisposable {
  readonly #options: DatabasesOptions;
  readonly #deps: DatabasesDeps;
  readonly #catalog: CatalogMachine;
  readonly #open = new Map<string, OpenDatabase>();
  readonly #checks: ReplicaChecks;
  readonly #removed = new Set<number>();
  readonly #stop = new AbortController();
  #system!: Group;
  #agreeing: Promise<void> = Promise.resolve();
  #loops: Promise<unknown> = Promise.resolve();

  private constructor(options: DatabasesOptions, deps: DatabasesDeps) {
    this.#options = options;
    this.#deps = deps;
    this.#checks = new ReplicaChecks(options, deps);
    this.#catalog = new CatalogMachine({
      path: `${options.stateDir}/catalog.db`,
      members: options.voters,
      onChange: () => this.#agree(),
    });
  }

  /** Opens the catalog and every database in it. Owns `node` from here on. */
  static async open(options: DatabasesOptions, deps: DatabasesDeps): Promise<Databases> {
    Deno.mkdirSync(`${options.stateDir}/databases`, { recursive: true, mode: 0o700 });
    const databases = new Databases(options, deps);
    databases.#system = await deps.node.openGroup({ group: systemGroup, voters: options.voters }, databases.#catalog);
    databases.#agree();
    await databases.#agreeing;
    databases.#loops = Promise.all([databases.#sweep(), databases.#watchHealth(), databases.#keepPlaces()]);
    return databases;
  }

  get system(): Group {
    return this.#system;
  }
  get catalog(): CatalogMachine {
    return this.#catalog;
  }
  /** Databases open here, the newest last. */
  opened(): OpenDatabase[] {
    return [...this.#open.values()];
  }

  /** The database of that name, opened and fit to be used. */
  find(name: string): Promise<OpenDatabase> {
    const known = this.#open.get(name);
    // Nothing to wait for and nothing to refuse: each function that waits costs turns of the event loop.
    const fit = known !== undefined && !known.machine.parts.importer.restoring && !known.machine.diverged;
    return fit ? Promise.resolve(known) : this.#findFit(name);
  }

  async #findFit(name: string): Promise<OpenDatabase> {
    const database = await this.findAny(name);
    if (database.machine.parts.importer.restoring) {
      throw fault(
        "failed_precondition",
        "database_restoring",
        `Cannot use database ${name} while it is being restored`,
      );
    }
    if (database.machine.diverged) {
      // Others are as they should be: callers are to go there.
      const { leader, voters } = database.group.status();
      const other = leader !== this.#options.memberId ? leader : voters.find((id) => id !== leader);
      const url = other === undefined ? undefined : this.#options.clientUrls[other];
      throw fault(
        "unavailable",
        "database_diverged",
        `Cannot use database ${name} here as this replica's content differs from that of most: remove the replica`,
        { retryAfterMs: 100, ...(url === undefined ? {} : { leaderHint: url }) },
      );
    }
    return database;
  }

  /** The database of that name, opened, whatever state it is in. */
  async findAny(name: string): Promise<OpenDatabase> {
    checkDatabase(name);
    const known = this.#open.get(name);
    if (known !== undefined) return known;
    // This replica may lag behind the one that created it.
    if (this.#catalog.find(name) === undefined) await this.#system.readBarrier();
    await this.#agreeing;
    const opened = this.#open.get(name);
    if (opened !== undefined) return opened;
    const row = this.#catalog.find(name);
    if (row === undefined) throw databaseNotFound(name);
    if (!holds(row, this.#options.memberId)) {
      const urls = row.replicas.map((id) => this.#options.clientUrls[id]).filter((known) => known !== undefined);
      // Another one each time: the first may just be cut off.
      const url = urls.length === 0 ? undefined : urls[uniform(this.#deps.rng, urls.length)];
      throw fault("unavailable", "database_elsewhere", `Cannot use database ${name} here: ${row.replicas} hold it`, {
        retryAfterMs: 50,
        ...(url === undefined ? {} : { leaderHint: url }),
      });
    }
    throw fault("unavailable", "database_opening", `Cannot use database ${name} yet as it is being opened`, {
      retryAfterMs: 100,
    });
  }

  /** Proposes a change of the catalog; the answer comes once this replica has followed it. */
  async changeCatalog<D extends DescMessage>(
    kind: EntryKind,
    schema: D,
    request: MessageShape<D>,
    context: Proposer,
  ): Promise<unknown> {
    const result = await this.#propose(this.#system, kind, schema, request, context);
    await this.#agreeing;
    return result;
  }

  /** Resolves once the database has a leader, or after a while without. */
  async waitForLeader(name: string, signal: AbortSignal): Promise<void> {
    const giveUpMs = this.#deps.clock.monotonicMs() + leaderWaitMs;
    for (let attempt = 1; this.#deps.clock.monotonicMs() < giveUpMs; attempt++) {
      const opened = this.#open.get(name);
      if (opened === undefined || opened.group.status().leader !== 0) return;
      await this.#deps.clock.sleep(backoffMs(pollMs, attempt, this.#deps.rng), signal);
    }
  }

  /** Proposes a request to a database; resolves with what applying it answered, rejects with its refusal. */
  propose<D extends DescMessage>(
    database: OpenDatabase,
    kind: EntryKind,
    schema: D,
    request: MessageShape<D>,
    context: Proposer,
  ): Promise<unknown> {
    return this.#propose(database.group, kind, schema, request, context, database.machine);
  }

  /** Compares the content of all replicas, as `ReplicaChecks.ask` says. */
  checkReplicas(database: OpenDatabase, signal: AbortSignal): Promise<CheckedReplicas> {
    return this.#checks.ask(database, signal);
  }

  /** The refusal of whoever does not lead, with a hint at who does. */
  async leaderOnly({ group }: OpenDatabase): Promise<void> {
    const { barrier: kind } = entryKinds;
    const base = { kind, timeMs: this.#deps.clock.nowMs(), seed: noSeed, dedupe: undefined };
    await group.propose(encodeEntry({ ...base, payload: new Uint8Array() }));
  }

  /** Resolves with the index of an entry of its own, once that is applied here; refused unless this replica leads. */
  async barrier(database: OpenDatabase, context: Proposer): Promise<number> {
    const request = create(EmptySchema);
    // Under a key it would answer an old index.
    const proposer = unkeyed(context);
    const answer = await this.propose(database, entryKinds.barrier, EmptySchema, request, proposer);
    return Number((answer as { index: bigint }).index);
  }

  async #propose<D extends DescMessage>(
    group: Group,
    kind: EntryKind,
    schema: D,
    request: MessageShape<D>,
    context: Proposer,
    machine?: DatabaseMachine,
  ): Promise<unknown> {
    const asReceived = receivedBytes(schema, context, request);
    const payload = asReceived ?? toBinary(schema, request, { writeUnknownFields: false });
    const random = drawing.has(kind);
    const data = encodeEntry({
      kind,
      timeMs: this.#deps.clock.nowMs(),
      seed: random ? this.#deps.rng.fill(new Uint8Array(16)) : noSeed,
      dedupe: dedupeKey(context, kind, payload),
      payload,
    });
    // What these very bytes were read as is what reading them once more would give.
    if (asReceived !== undefined) machine?.expect(data, request);
    try {
      const result = await group.propose(data, { forward: true });
      if (result instanceof Fault) throw result;
      return result;
    } finally {
      if (asReceived !== undefined) machine?.forget(data);
    }
  }

  #path(row: { readonly name: string; readonly group: number }): string {
    return `${this.#options.stateDir}/databases/${row.name}.${row.group}.db`;
  }

  /** Brings what is open in line with the catalog, one run after the other. */
  #agree(): void {
    this.#agreeing = this.#agreeing.then(() => this.#openAndRemove()).catch((error) => {
      if (!this.#stop.signal.aborted) this.#deps.log.error("cannot follow the catalog", { error });
    });
  }

  async #openAndRemove(): Promise<void> {
    if (this.#stop.signal.aborted) return;
    const { node, log, onFatal } = this.#deps;
    for (const row of this.#catalog.deleted()) {
      if (this.#removed.has(row.group)) continue;
      const opened = this.#open.get(row.name);
      const mine = opened?.row.group === row.group ? opened : undefined;
      if (mine !== undefined || exists(this.#path(row))) await this.#remove(row, mine);
      this.#removed.add(row.group);
    }
    for (const row of this.#catalog.list()) {
      const mine = holds(row, this.#options.memberId);
      const opened = this.#open.get(row.name);
      if (opened?.row.group === row.group) {
        if (mine || !row.placed) continue;
        // The group goes on without this replica.
        await this.#remove(row, opened);
        continue;
      }
      if (!mine && !exists(this.#path(row))) continue;
      if (!mine && row.placed) {
        await this.#remove(row, undefined);
        continue;
      }
      // One that was placed anew is there already, elsewhere: what is new here learns from that.
      const join = row.moved || !row.replicas.includes(this.#options.memberId);
      const onLost = (error: Error) => {
        log.error("cannot go on with a database", { database: row.name, error });
        onFatal(error);
      };
      const machine = new DatabaseMachine({ path: this.#path(row), onLost });
      const group = await node.openGroup({ group: row.group, voters: row.replicas, join }, machine);
      const database = { row, group, machine };
      this.#open.set(row.name, database);
      this.#checks.follow(database);
    }
  }

  async #remove(
    row: { readonly name: string; readonly group: number },
    opened: OpenDatabase | undefined,
  ): Promise<void> {
    if (opened !== undefined) this.#open.delete(row.name);
    // The log first: while the file is there, a killed process comes back to this.
    await this.#deps.node.removeGroup(row.group);
    opened?.machine.close();
    removeFiles(this.#path(row));
    this.#deps.log.info("database removed", { database: row.name, group: row.group });
  }

  /** Says through the catalog that a group has the members that were asked for. */
  async placed(row: CatalogRow): Promise<void> {
    const { placed: kind } = entryKinds;
    const request = create(LoggedPlacedSchema, {
      group: BigInt(row.group),
      replicas: row.replicas.map(BigInt),
      learners: row.learners.map(BigInt),
    });
    const nobody = { principal: { kind: "workload", id: "flaredb" }, idempotencyKey: undefined } as const;
    await this.#propose(this.#system, kind, LoggedPlacedSchema, request, nobody);
  }

  /** Removes overdue keys through the log, on the leader of each database. */
  async #sweep(): Promise<void> {
    const { clock, log } = this.#deps;
    while (await this.#pause(sweepEveryMs)) {
      for (const { row, group, machine } of this.#open.values()) {
        if (group.status().role !== "leader") continue;
        const dueMs = machine.parts.kv.nextExpireMs();
        if (dueMs === undefined || dueMs > clock.nowMs()) continue;
        const entry = { kind: entryKinds.sweep, timeMs: clock.nowMs(), seed: noSeed, dedupe: undefined };
        await group.propose(encodeEntry({ ...entry, payload: new Uint8Array() })).catch((error) =>
          log.debug("cannot remove overdue keys", { database: row.name, error })
        );
      }
    }
  }

  /** Moves replicas and leaders where they are wanted. */
  async #keepPlaces(): Promise<void> {
    const { log } = this.#deps;
    const { memberId } = this.#options;
    while (await this.#pause(placeEveryMs)) {
      for (const { row, group } of this.#open.values()) {
        const now = this.#catalog.find(row.name);
        if (now === undefined || now.group !== row.group || now.placed) continue;
        await stepPlacement(group, now, memberId).then((done) => done ? this.placed(now) : undefined)
          .catch((error) => log.debug("cannot move a replica yet", { database: row.name, error }));
      }
      const misplaced = misplacedLeader(this.opened(), memberId);
      if (misplaced === undefined) continue;
      try {
        misplaced.group.transferLeader(misplaced.to);
      } catch (error) {
        log.debug("cannot hand a leader over", { error });
      }
    }
  }

  async #watchHealth(): Promise<void> {
    const { health } = this.#deps;
    let led = false;
    do {
      const { leader } = this.#system.status();
      if (leader !== 0) {
        led = true;
        health.set("raft", "ready");
      } else health.set("raft", led ? "degraded" : "starting", "the system group has no leader");
    } while (await this.#pause(led ? 500 : 20));
  }

  /** False once stopped. */
  #pause(ms: number): Promise<boolean> {
    return this.#deps.clock.sleep(ms, this.#stop.signal).then(() => true, () => false);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#loops;
    await this.#agreeing;
    await this.#checks[Symbol.asyncDispose]();
    await this.#deps.node[Symbol.asyncDispose]();
    for (const { machine } of this.#open.values()) machine.close();
    this.#catalog.close();
  }
}

function dedupeKey(context: Proposer, kind: EntryKind, payload: Uint8Array): DedupeKey | undefined {
  if (context.idempotencyKey === undefined) return undefined;
  const sha256 = new Uint8Array(createHash("sha256").update(Uint8Array.of(kind)).update(payload).digest());
  return { key: `${context.principal.id}\n${context.idempotencyKey}`, sha256 };
}

function exists(path: string): boolean {
  try {
    Deno.statSync(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}
