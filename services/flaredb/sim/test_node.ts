import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { seededRng } from "@ultracloud/base";
import { BatchRequestSchema } from "@ultracloud/proto/flaredb/v1";
import {
  bootstrapBatch,
  type Entry,
  type Message,
  RaftDriver,
  type RaftOptions,
  type Snapshot,
  type SnapshotHeader,
  type StateMachine,
} from "@ultracloud/raft";
import type { SimClock } from "@ultracloud/testing";
import { decodeEntry, encodeEntry, entryKinds } from "../domain/log_entry.ts";
import { DatabaseMachine } from "../state/database_machine.ts";
import { contentOf } from "../state/store.ts";
import type { PlantedBug } from "./test_bugs.ts";
import { GroupLog, SharedLog } from "./test_log.ts";

export type Packet =
  | { readonly kind: "messages"; readonly group: number; readonly messages: readonly Message[] }
  | {
    readonly kind: "snapshot";
    readonly group: number;
    readonly header: SnapshotHeader;
    readonly data: Uint8Array;
    readonly answer: (installed: boolean) => void;
  };

export interface SimReplica {
  readonly driver: RaftDriver;
  readonly machine: DatabaseMachine;
}

export interface NodeDeps {
  readonly clock: SimClock;
  readonly send: (from: number, to: number, packet: Packet) => void;
  /** An entry was applied; `digest` is of the whole state, at some indexes. */
  readonly applied: (node: number, group: number, entry: Entry, result: unknown, digest: string | undefined) => void;
  readonly fatal: (node: SimNode, error: Error) => void;
}

const tickMs = 10;
const snapshotTimeoutMs = 400;
/** The whole state is compared at every index that this divides. */
const digestEvery = 8;

/** Few, so that kills come with entries of every age in an open transaction. */
const entriesMax = 12;

/** What a killed process leaves in its file: the open transaction is gone. */
function committed({ db }: DatabaseMachine): { readonly index: number; readonly bytes: Uint8Array } {
  if (db.raw.isTransaction) db.raw.exec("ROLLBACK");
  const row = db.get<{ value: number }>("SELECT value FROM _uc_meta WHERE key='applied_index'");
  return { index: row?.value ?? 0, bytes: contentOf(db) };
}

/** One machine of the cluster: a log and checkpoints that outlive crashes, and replicas of all groups that do not. */
export class SimNode {
  readonly id: number;
  readonly replicas = new Map<number, SimReplica>();
  pausedUntilMs = 0;
  syncMsMax = 2;
  readonly #log: SharedLog;
  /** What a checkpoint made durable, by group. */
  readonly #images = new Map<number, { readonly index: number; readonly bytes: Uint8Array }>();
  readonly #options: NodeOptions;
  readonly #deps: NodeDeps;
  #life = 0;

  constructor(options: NodeOptions, deps: NodeDeps) {
    this.id = options.id;
    this.#options = options;
    this.#deps = deps;
    const rng = seededRng(options.seed * 31 + options.id);
    this.#log = new SharedLog({ ackBeforeSync: options.bug.ackBeforeSync ?? false }, {
      after: (ms, run) => void deps.clock.after(ms, run),
      syncMs: () => this.syncMsMax * (rng.uint32() / 2 ** 32),
    });
    for (const group of options.groups) new GroupLog(this.#log, group).append(bootstrapBatch(options.voters), () => {});
    this.#log.crash(false, () => 0);
  }

  get up(): boolean {
    return this.replicas.size > 0;
  }

  boot(): void {
    this.#life++;
    for (const group of this.#options.groups) this.#start(group);
    const tick = this.#alive(() => {
      if (this.#deps.clock.monotonicMs() >= this.pausedUntilMs) {
        for (const { driver } of this.replicas.values()) driver.tick();
      }
      this.#deps.clock.after(tickMs, tick);
    });
    this.#deps.clock.after(tickMs, tick);
  }

  #alive<A extends unknown[]>(run: (...args: A) => void): (...args: A) => void {
    const life = this.#life;
    return (...args) => {
      if (life === this.#life) run(...args);
    };
  }

  #start(group: number): void {
    const { clock } = this.#deps;
    const { bug } = this.#options;
    const machine = new DatabaseMachine({ path: ":memory:", entriesMax });
    const image = this.#images.get(group);
    if (image !== undefined) machine.restore(image.index, image.bytes);
    const driver: RaftDriver = new RaftDriver({ ...this.#options.raft, id: this.id }, {
      log: new GroupLog(this.#log, group),
      machine: this.#machineOf(group, machine, image !== undefined && bug.appliesTwice === true),
      transport: {
        send: (messages) => {
          for (const m of messages) this.#deps.send(this.id, m.to, { kind: "messages", group, messages: [m] });
        },
        sendSnapshot: (header, data, done) => {
          let answered = false;
          const answer = this.#alive((installed: boolean) => {
            if (answered) return;
            answered = true;
            done(installed);
          });
          this.#deps.send(this.id, header.to, { kind: "snapshot", group, header, data, answer });
          clock.after(snapshotTimeoutMs, () => answer(false));
        },
      },
      events: {
        wake: () => void clock.after(0, this.#alive(() => driver.run())),
        fatal: (error) => this.#deps.fatal(this, error),
      },
      rng: seededRng(this.#options.seed * 1009 + this.id * 31 + group * 7 + this.#life),
    });
    this.replicas.set(group, { driver, machine });
    driver.start();
  }

  #machineOf(group: number, machine: DatabaseMachine, again: boolean): StateMachine {
    const { bug } = this.#options;
    let repeat = again;
    return {
      appliedIndex: () => machine.appliedIndex(),
      apply: (entries, done) => {
        const results: unknown[] = [];
        for (const entry of entries) {
          const effective = entry.kind === "normal" && entry.data.length > 0;
          const data = effective ? this.#spoiled(entry.data) : entry.data;
          const [result] = effective ? machine.applyBatch([{ ...entry, data }]) : [undefined];
          if (!effective) machine.skipTo(entry.index);
          else if (repeat) {
            repeat = false;
            machine.db.exec("UPDATE counter SET n = n + 1");
          }
          results.push(result);
          const digest = entry.index % digestEvery === 0 ? machine.hash() : undefined;
          this.#deps.applied(this.id, group, entry, result, digest);
        }
        done(results);
      },
      snapshot: (done) => {
        if (bug.forgetsAnswers === true) {
          const copy = new DatabaseMachine({ path: ":memory:" });
          copy.restore(machine.appliedIndex(), machine.snapshot());
          copy.db.exec("DELETE FROM _uc_dedupe");
          done({ index: machine.appliedIndex(), data: copy.snapshot() });
          copy.close();
        } else done({ index: machine.appliedIndex(), data: machine.snapshot() });
      },
      restore: (snapshot: Snapshot, done) => {
        machine.restore(snapshot.meta.index, snapshot.data);
        done();
      },
    };
  }

  /** The entry as this replica reads it, when that is the planted bug: format u8, kind u8, time f64, seed. */
  #spoiled(data: Uint8Array): Uint8Array {
    const { ownChance, ownClock, ignoresExpected } = this.#options.bug;
    if (ignoresExpected && data[1] === entryKinds.checkedBatch) {
      const entry = decodeEntry(data);
      const request = { ...fromBinary(BatchRequestSchema, entry.payload), expectedResults: [] };
      return encodeEntry({ ...entry, payload: toBinary(BatchRequestSchema, request) });
    }
    if (!ownChance && !ownClock) return data;
    const copy = data.slice();
    const view = new DataView(copy.buffer);
    if (ownClock) view.setFloat64(2, view.getFloat64(2, true) + this.id, true);
    if (ownChance) copy[10]! ^= this.id;
    return copy;
  }

  /** Ends the process; `power` takes what was not synced with it. */
  crash(power: boolean, kept: (waiting: number) => number): void {
    if (!this.up) return;
    this.#life++;
    this.pausedUntilMs = 0;
    for (const [group, { machine }] of this.replicas) {
      // Without a power cut the system still writes what SQLite gave it: what it was told to commit.
      if (!power) this.#images.set(group, committed(machine));
      machine.close();
    }
    this.replicas.clear();
    this.#log.crash(power, kept);
  }

  /** Makes state durable and cuts the log behind it. */
  checkpoint(): void {
    for (const [group, { driver, machine }] of this.replicas) {
      const index = machine.appliedIndex();
      if (index === 0) continue;
      if (this.#options.bug.cutApplied !== true) this.#images.set(group, { index, bytes: machine.snapshot() });
      driver.compact(index);
    }
  }

  deliver(packet: Packet): void {
    const waitMs = this.pausedUntilMs - this.#deps.clock.monotonicMs();
    if (waitMs > 0) {
      this.#deps.clock.after(Math.ceil(waitMs), this.#alive(() => this.deliver(packet)));
      return;
    }
    const replica = this.replicas.get(packet.group);
    if (replica === undefined) return;
    if (packet.kind === "messages") return replica.driver.receive(packet.messages);
    const { header, data, answer } = packet;
    replica.driver.receiveSnapshot(header, data, (installed) => this.#deps.clock.after(1, () => answer(installed)));
  }
}

export interface NodeOptions {
  readonly id: number;
  readonly seed: number;
  readonly groups: readonly number[];
  readonly voters: readonly number[];
  readonly raft: Omit<RaftOptions, "id">;
  readonly bug: PlantedBug;
}
