import { assert, concatBytes, Fault, unreachable } from "@ultracloud/base";
import type { AppliedEntry, GroupStateMachine } from "@ultracloud/replica";
import { type Database, LastingTransaction, openDatabase } from "@ultracloud/sqlite";
import type {
  Alarm,
  AlarmType,
  Command,
  CommandResult,
  KeyRange,
  KvEvent,
  LeaseEvent,
  LogEntry,
  MemberInfo,
  OpResult,
  RangeOp,
  RangeResult,
  TxnOp,
} from "../domain/types.ts";
import { rejections } from "../errors.ts";
import { type AdminState, applyAdmin } from "./admin.ts";
import { isAdmin } from "./admin_codec.ts";
import { Calls } from "./calls.ts";
import { decodeDump, dumpPieces } from "./dump.ts";
import { readPieces, writePieces } from "./dump_file.ts";
import { decodeEntry } from "./entry_codec.ts";
import { backupPieces } from "./backup.ts";
import { KvHash } from "./kv_hash.ts";
import { HashChecks } from "./hash_checks.ts";
import { KeyValues } from "./key_values.ts";
import { type Lease, Leases } from "./leases.ts";
import { Quotas } from "./quotas.ts";
import { type Counters, openSchema, readCounters, writeCounters } from "./schema.ts";
import { Sessions } from "./sessions.ts";
import { Alarms, Members } from "./small_tables.ts";
import { sweep } from "./sweep.ts";
import { applyOp, readsTables } from "./txn.ts";

/** Told after the changes of a batch are in the state. */
export interface StateListener {
  /** In order; whole revisions. */
  changed?(events: readonly KvEvent[]): void;
  /** Leases came, went or were renewed; in order. */
  leasesChanged?(events: readonly LeaseEvent[]): void;
  /** The state was replaced: anything may have changed. */
  replaced?(): void;
  /** At this check of the state's hash it was this. */
  hashChecked?(check: number, hash: number): void;
  /** A member came, went or moved. */
  membersChanged?(): void;
}

/** A commit writes each changed page once: a few milliseconds for this many. */
const entriesPerCommit = 1_024;

/** Keys, leases and remembered calls in one SQLite database. Deterministic: the log is its only input. */
export class ChainfireState implements GroupStateMachine {
  readonly #db: Database;
  readonly #path: string | undefined;
  readonly #transaction: LastingTransaction;
  readonly #counters: Counters;
  /** The counters as the database has them. */
  readonly #written: Counters;
  readonly #keys: KeyValues;
  readonly #leases: Leases;
  readonly #calls: Calls;
  readonly #admin: AdminState;
  /** Entries whose effect is not committed to the database yet. */
  #uncommitted = 0;
  /** Backups that are being read. */
  #backups = 0;
  readonly #listeners: StateListener[] = [];

  /**
   * `path` is the file of the database, where it has one. `onLost` is told once when what was applied is lost, or cannot
   * be written: the process must end at once, and the log brings it back.
   */
  constructor(db: Database, path?: string, onLost: (error: Error) => void = () => {}) {
    this.#db = db;
    this.#path = path;
    this.#transaction = new LastingTransaction(db, onLost);
    this.#counters = openSchema(db);
    this.#written = { ...this.#counters };
    const counters = this.#counters;
    this.#admin = {
      counters,
      sessions: new Sessions(db, counters),
      quotas: new Quotas(db),
      alarms: new Alarms(db),
      members: new Members(db, counters),
      checks: new HashChecks(db, counters),
      onMembers: () => this.#tell((listener) => listener.membersChanged?.()),
      onHashCheck: (check) => this.#tell((listener) => listener.hashChecked?.(check, counters.stateHash)),
    };
    this.#keys = new KeyValues(db, this.#counters, this.#admin.quotas);
    this.#leases = new Leases(db, this.#counters, this.#keys);
    this.#calls = new Calls(db, this.#counters);
  }

  listen(listener: StateListener): void {
    this.#listeners.push(listener);
  }

  #tell(what: (listener: StateListener) => void): void {
    for (const listener of this.#listeners) what(listener);
  }

  get revision(): number {
    return this.#counters.revision;
  }

  get compactRevision(): number {
    return this.#counters.compactRevision;
  }

  get clockMs(): number {
    return this.#counters.clockMs;
  }

  appliedIndex(): number {
    return this.#counters.applied;
  }

  range(op: RangeOp, bytesMax?: number): RangeResult {
    this.#transaction.check();
    return this.#keys.range(op, bytesMax);
  }

  /** A transaction that writes nothing, whichever branch it takes. */
  read(op: TxnOp): OpResult {
    this.#transaction.check();
    return applyOp({ keys: this.#keys, leases: this.#leases, counters: this.#counters }, op);
  }

  changes(range: KeyRange, from: number, rows: number, prevKv: boolean): { events: KvEvent[]; next: number } {
    this.#transaction.check();
    return this.#keys.changes(range, from, rows, prevKv);
  }

  get stateHash(): number {
    return this.#counters.stateHash;
  }

  get quotas(): Pick<Quotas, "count" | "get" | "list" | "of"> {
    return this.#admin.quotas;
  }

  get members(): ReadonlyMap<number, MemberInfo> {
    return this.#admin.members.all();
  }

  /** Members that get their vote as soon as they have caught up. */
  get promoting(): ReadonlySet<number> {
    return this.#admin.members.promoting;
  }

  get nextMemberId(): number {
    return this.#admin.members.nextId;
  }

  get alarms(): readonly Alarm[] {
    return this.#admin.alarms.list();
  }

  hasAlarm(type: AlarmType, member?: number): boolean {
    return this.#admin.alarms.has(type, member);
  }

  /** Keys that exist; reads all of them, so count changes from here on. */
  countKeys(): number {
    this.#keys.fresh.flush();
    return this.#db.get<{ n: number }>("SELECT COUNT(*) AS n FROM live")!.n;
  }

  lease(id: bigint): Lease | undefined {
    return this.#leases.get(id);
  }

  leases(): Lease[] {
    return this.#leases.all();
  }

  leaseIds(): bigint[] {
    return this.#leases.ids();
  }

  leaseKeys(id: bigint): Uint8Array[] {
    return this.#keys.keysOfLease(id);
  }

  nextDeadlineMs(): number | undefined {
    return this.#leases.nextDeadlineMs();
  }

  /**
   * Several batches share one transaction of the database, as writing the pages they change costs more than changing
   * them. A killed process loses the open one as a whole and the log brings it back; an error in a batch ends the
   * process before a commit.
   */
  applyBatch(entries: readonly AppliedEntry[]): readonly unknown[] {
    const results = this.#transaction.within(() => entries.map((entry) => this.#apply(decodeEntry(entry.data))));
    this.#counters.applied = entries.at(-1)!.index;
    this.#uncommitted += entries.length;
    if (this.#uncommitted >= entriesPerCommit) this.#commit();
    const events = this.#keys.takeEvents();
    if (events.length > 0) this.#tell((listener) => listener.changed?.(events));
    const leaseEvents = this.#leases.takeEvents();
    if (leaseEvents.length > 0) this.#tell((listener) => listener.leasesChanged?.(leaseEvents));
    return results;
  }

  #commit(): void {
    this.#transaction.check();
    this.#uncommitted = 0;
    if (!this.#db.inTransaction) return;
    this.#transaction.commit(() => {
      this.#keys.fresh.flush();
      writeCounters(this.#db, this.#counters, this.#written);
    });
  }

  skipTo(index: number): void {
    this.#transaction.check();
    this.#counters.applied = index;
    writeCounters(this.#db, this.#counters, this.#written);
  }

  #apply(entry: LogEntry): CommandResult | Fault {
    const { command, call, session } = entry;
    this.#counters.clockMs = Math.max(this.#counters.clockMs, entry.clockMs);
    // Several steps may have to be undone together; a single put or delete rejects before it writes.
    if (call !== undefined || session !== undefined || command.kind === "txn") {
      return this.#undoable(command, () => this.#answer(entry));
    }
    try {
      return this.#perform(command);
    } catch (error) {
      if (error instanceof Fault) return error;
      throw error;
    }
  }

  #answer({ call, session, command }: LogEntry): CommandResult {
    if (session !== undefined) {
      const { sessions } = this.#admin;
      const known = sessions.answerOf(session);
      if (known) return known;
      const result = this.#perform(command);
      sessions.remember(session, result);
      return result;
    }
    if (call === undefined) return this.#perform(command);
    const known = this.#calls.answerOf(call);
    if (known) return known;
    const result = this.#perform(command);
    this.#calls.remember(call, result);
    return result;
  }

  #undoable(command: Command, work: () => CommandResult): CommandResult | Fault {
    const { revision, compactRevision, stateHash } = this.#counters;
    const events = this.#keys.eventCount;
    const leaseEvents = this.#leases.eventCount;
    const { fresh } = this.#keys;
    if (readsTables(command)) fresh.flush();
    fresh.mark();
    try {
      const result = this.#db.transaction(work);
      fresh.settle();
      return result;
    } catch (error) {
      if (!(error instanceof Fault)) throw error;
      fresh.undo();
      Object.assign(this.#counters, { revision, compactRevision, stateHash });
      this.#keys.dropEvents(events);
      this.#leases.dropEvents(leaseEvents);
      this.#calls.reload();
      return error;
    }
  }

  #perform(command: Command): CommandResult {
    const counters = this.#counters;
    if (isAdmin(command)) {
      // A new quota counts the keys there are.
      if (command.kind === "set_quota") this.#keys.fresh.flush();
      return applyAdmin(this.#admin, command);
    }
    switch (command.kind) {
      case "put":
      case "delete":
      case "txn":
        return applyOp({ keys: this.#keys, leases: this.#leases, counters }, command);
      case "compact":
        if (command.revision <= counters.compactRevision) {
          throw rejections.compacted(command.revision, counters.compactRevision);
        }
        if (command.revision > counters.revision) throw rejections.futureRevision(command.revision, counters.revision);
        counters.compactRevision = command.revision;
        return { kind: "revision", revision: counters.revision };
      case "grant":
        this.#leases.grant(command.id, command.ttlMs);
        return { kind: "lease", revision: counters.revision, id: command.id, ttlMs: command.ttlMs };
      case "keep_alive": {
        const ttlMs = this.#leases.keepAlive(command.id);
        return { kind: "lease", revision: counters.revision, id: command.id, ttlMs };
      }
      case "revoke":
        this.#leases.revoke(command.id);
        return { kind: "revision", revision: counters.revision };
      case "expire":
        this.#leases.expire();
        return { kind: "revision", revision: counters.revision };
      default:
        return unreachable(command);
    }
  }

  checkpoint(): number {
    this.#commit();
    this.#db.checkpoint();
    return this.#counters.applied;
  }

  /** Hash of everything up to a revision, 0 for now, to be done in steps. */
  hashKv(revision: number): KvHash {
    this.#keys.fresh.flush();
    return new KvHash(this.#db, this.#counters, revision);
  }

  /** The state as of now, piece by piece; nothing is swept until `end`. */
  backup(): { readonly revision: number; readonly pieces: Iterable<Uint8Array>; readonly end: () => void } {
    this.#keys.fresh.flush();
    this.#backups++;
    let open = true;
    return {
      revision: this.#counters.revision,
      pieces: backupPieces(this.#db, { ...this.#counters }),
      end: () => {
        if (open) this.#backups--;
        open = false;
      },
    };
  }

  /** True when the database can give free pages back step by step. */
  get canReclaim(): boolean {
    return this.#db.get<{ auto_vacuum: number }>("PRAGMA auto_vacuum")!.auto_vacuum === 2;
  }

  /** Gives back up to so many free pages; answers whether there are more. */
  reclaim(pages: number): boolean {
    // In the open transaction, if there is one. It frees a page a step, and only `all` steps to the end.
    this.#db.all(`PRAGMA incremental_vacuum(${Math.trunc(pages)})`);
    return this.#db.get<{ free: number }>("SELECT freelist_count AS free FROM pragma_freelist_count()")!.free > 0;
  }

  /** One bounded step of removing what compaction made unreachable; answers whether there is more. */
  sweep(): boolean {
    if (this.#backups > 0) return true;
    this.#transaction.check();
    this.#keys.fresh.flush();
    return this.#db.transaction(() => {
      const more = sweep(this.#db, this.#counters);
      writeCounters(this.#db, this.#counters, this.#written);
      return more;
    });
  }

  /** Bytes of the database, and of those the ones in use. */
  bytes(): { total: number; used: number } {
    const row = this.#db.get<{ pages: number; free: number; size: number }>(
      "SELECT page_count AS pages, freelist_count AS free, page_size AS size" +
        " FROM pragma_page_count(), pragma_freelist_count(), pragma_page_size()",
    )!;
    return { total: row.pages * row.size, used: (row.pages - row.free) * row.size };
  }

  /** What is yet to be written into the database, about. */
  get unwrittenBytes(): number {
    return this.#keys.fresh.bytes;
  }

  snapshot(): Uint8Array {
    this.#commit();
    return concatBytes([...dumpPieces(this.#db)]);
  }

  restore(index: number, bytes: Uint8Array): void {
    this.#replace(index, [bytes]);
  }

  /** Read through a connection of its own, which keeps seeing this moment while entries are applied. */
  async snapshotTo(path: string): Promise<number> {
    this.#commit();
    const { applied } = this.#counters;
    if (this.#path === undefined) {
      // In memory there is no other connection: everything is read now.
      await writePieces(path, [...dumpPieces(this.#db)]);
      return applied;
    }
    using reader = openDatabase(this.#path, { readOnly: true });
    reader.begin();
    assert(readCounters(reader).applied === applied, "The first read must see what was just committed");
    await writePieces(path, dumpPieces(reader));
    return applied;
  }

  restoreFrom(index: number, path: string): Promise<void> {
    this.#replace(index, readPieces(path));
    return Promise.resolve();
  }

  #replace(index: number, pieces: Iterable<Uint8Array>): void {
    this.#commit();
    this.#db.transaction(() => {
      decodeDump(this.#db, pieces);
      Object.assign(this.#written, readCounters(this.#db));
      Object.assign(this.#counters, this.#written, { applied: index });
      writeCounters(this.#db, this.#counters, this.#written);
    });
    this.#calls.reload();
    this.#keys.fresh.reset();
    this.#keys.takeEvents();
    this.#leases.takeEvents();
    const { sessions, quotas, alarms, members } = this.#admin;
    for (const part of [sessions, quotas, alarms, members]) part.reload();
    this.#tell((listener) => listener.replaced?.());
    this.#tell((listener) => listener.membersChanged?.());
  }
}
