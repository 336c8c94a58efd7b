import { Fault } from "@ultracloud/base";
import type { Done, Entry, Snapshot } from "@ultracloud/raft";
import { type Database, openDatabase } from "@ultracloud/sqlite";
import type { Command, MachineKit, SimMachineEvents, SimulatedMachine } from "@ultracloud/testing";
import type { CommandResult, KvEvent, LogEntry, PutOp } from "../domain/types.ts";
import { decodeEntry, encodeEntry } from "../state/entry_codec.ts";
import { ChainfireState } from "../state/machine.ts";

/** A checkpoint: what SQLite holds durably. */
interface Image {
  readonly index: number;
  readonly bytes: Uint8Array;
}

/** chainfire's own state in SQLite as the state machine of one simulated cluster: a register is a key. */
export function chainfireKit(): MachineKit {
  const told = new Map<number, string>();
  return {
    encode: (command, padding) => encodeEntry(entryOf(command, padding)),
    start: (survivors, _bugs, events) => new SimChainfire(survivors as Image | undefined, told, events),
  };
}

const none = new Uint8Array(0);

function keyOf(register: number): Uint8Array {
  return new Uint8Array([114, register]);
}

/** The number in the first four bytes; the rest is there for its length. */
function bytesOf(value: number, padding = 0): Uint8Array {
  const bytes = new Uint8Array(4 + padding);
  new DataView(bytes.buffer).setUint32(0, value);
  return bytes;
}

function valueOf(bytes: Uint8Array): number {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length).getUint32(0);
}

/** A swap is a transaction that compares; a write of a client's session carries its idempotency key. */
function entryOf({ client, sequence, key, kind, value, expected }: Command, padding: number): LogEntry {
  const put: PutOp = {
    kind: "put",
    key: keyOf(key),
    // A value that is to be compared has one form.
    value: bytesOf(value),
    lease: 0n,
    prevKv: false,
    ignoreValue: false,
    ignoreLease: false,
  };
  const compare = expected === 0
    ? { key: put.key, end: none, result: "equal", target: "version", operand: 0n } as const
    : { key: put.key, end: none, result: "equal", target: "value", operand: bytesOf(expected) } as const;
  return {
    clockMs: 0,
    call: { caller: `client-${client}`, key: String(sequence), bodyHash: `${value}${"x".repeat(padding)}` },
    command: kind === "write" ? put : { kind: "txn", compares: [compare], success: [put], failure: [] },
  };
}

class SimChainfire implements SimulatedMachine {
  readonly #db: Database = openDatabase(":memory:");
  readonly #state = new ChainfireState(this.#db);
  readonly #events: SimMachineEvents;
  /** What watches were told of each revision, by whichever replica came there first. */
  readonly #told: Map<number, string>;
  /** The revision that watches here were told last. */
  #watched: number;
  #durable: Image | undefined;

  constructor(survived: Image | undefined, told: Map<number, string>, events: SimMachineEvents) {
    this.#events = events;
    this.#told = told;
    this.#durable = survived;
    if (survived) this.#state.restore(survived.index, survived.bytes);
    this.#watched = this.#state.revision;
    this.#state.listen({
      changed: (changes) => this.#watch(changes),
      replaced: () => this.#watched = this.#state.revision,
    });
  }

  /** A watch hears every revision, in order, once, whole, and the same on every replica. */
  #watch(changes: readonly KvEvent[]): void {
    for (const revision of new Set(changes.map(({ kv }) => kv.modRevision))) {
      if (revision !== this.#watched + 1) throw new Error(`Watches hear of ${revision} after ${this.#watched}`);
      this.#watched = revision;
      const whole = changes.filter(({ kv }) => kv.modRevision === revision);
      const text = whole.map(({ type, kv, prev }) => `${type} ${kv.key} ${kv.value} ${kv.version} ${prev?.value}`)
        .join();
      const before = this.#told.get(revision);
      if (before !== undefined && before !== text) {
        throw new Error(`Watches hear another revision ${revision}: ${text}`);
      }
      this.#told.set(revision, text);
    }
    if (this.#watched !== this.#state.revision) {
      throw new Error(`Watches have heard of ${this.#watched} at revision ${this.#state.revision}`);
    }
  }

  appliedIndex(): number {
    return this.#state.appliedIndex();
  }

  get hash(): number {
    return this.#state.stateHash;
  }

  read(key: number): number {
    const { kvs } = this.#state.range({
      kind: "range",
      key: keyOf(key),
      end: none,
      limit: 0,
      revision: 0,
      descending: false,
      target: "key",
      keysOnly: false,
      countOnly: false,
      minMod: 0,
      maxMod: 0,
      minCreate: 0,
      maxCreate: 0,
    });
    return kvs[0] ? valueOf(kvs[0].value) : 0;
  }

  apply(entries: readonly Entry[], done: (results: readonly unknown[]) => void): void {
    done(entries.map((entry) => this.#apply(entry)));
  }

  #apply(entry: Entry): boolean | undefined {
    if (entry.index !== this.appliedIndex() + 1) {
      throw new Error(`Cannot apply ${entry.index} at ${this.appliedIndex()}`);
    }
    if (entry.kind === "config" || entry.data.length === 0) {
      this.#state.skipTo(entry.index);
      this.#events.applied(entry.index, this.hash, entry, undefined);
      return undefined;
    }
    const before = this.#state.revision;
    const [result] = this.#state.applyBatch([entry]) as [CommandResult | Fault];
    if (result instanceof Fault) throw result;
    const swapped = result.kind === "put" || (result.kind === "txn" && result.succeeded);
    const changed = this.#state.revision > before;
    if (this.#state.revision > before + 1) throw new Error(`Entry ${entry.index} made more than one revision`);
    // A swap that found another value has no effect to be told from its repetition.
    const performed = changed || swapped
      ? { command: commandOf(decodeEntry(entry.data)), result: swapped, repeated: !changed }
      : undefined;
    this.#events.applied(entry.index, this.hash, entry, performed);
    return swapped;
  }

  snapshot(done: (taken: { index: number; data: Uint8Array }) => void): void {
    done({ index: this.appliedIndex(), data: this.#state.snapshot() });
  }

  restore({ meta, data }: Snapshot, done: Done): void {
    this.#state.restore(meta.index, data);
    this.#events.restored(meta.index, this.hash);
    done();
  }

  checkpoint(): number {
    const index = this.#state.checkpoint();
    this.#durable = { index, bytes: this.#state.snapshot() };
    return index;
  }

  /** In memory nothing outlives the process but what a checkpoint would have left on disk. */
  survivors(): Image | undefined {
    this.#db.close();
    return this.#durable;
  }
}

function commandOf({ call, command }: LogEntry): Command {
  const put = (command.kind === "txn" ? command.success[0] : command) as PutOp;
  return {
    client: Number(call!.caller.slice("client-".length)),
    sequence: Number(call!.key),
    key: put.key[1]!,
    kind: command.kind === "txn" ? "cas" : "write",
    value: valueOf(put.value),
    expected: 0,
  };
}
