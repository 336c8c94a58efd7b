import type { Done, Entry, Snapshot, StateMachine } from "@ultracloud/raft";
import { sum } from "./sim_raft_log.ts";

/** A change to one of the registers, as it stands in the log. */
export interface Command {
  readonly key: number;
  readonly kind: "write" | "cas";
  readonly value: number;
  readonly expected: number;
}

/** The length is drawn by the caller, so that limits by bytes are met at odd places. */
export function encodeCommand(command: Command, padding: number): Uint8Array {
  const bytes = new Uint8Array(10 + padding);
  const view = new DataView(bytes.buffer);
  bytes[0] = command.key;
  bytes[1] = command.kind === "cas" ? 1 : 0;
  view.setUint32(2, command.value);
  view.setUint32(6, command.expected);
  return bytes;
}

/** The value a command writes; no two commands of a run write the same one. */
export function valueOf(data: Uint8Array): number {
  return new DataView(data.buffer, data.byteOffset, data.length).getUint32(2);
}

interface Registers {
  readonly index: number;
  readonly hash: number;
  readonly values: ReadonlyMap<number, number>;
}

const initial: Registers = { index: 0, hash: 0, values: new Map() };

/**
 * A few registers and a hash over everything ever applied. `checkpoint` is what a power cut leaves; a crash may leave
 * more, since the system writes back when it likes.
 */
export class SimMachine implements StateMachine {
  #now: Registers;
  #durable: Registers;
  readonly #applied: (index: number, hash: number, entry: Entry, result: boolean | undefined) => void;

  constructor(
    survived: Registers | undefined,
    applied: (index: number, hash: number, entry: Entry, result: boolean | undefined) => void,
  ) {
    this.#now = this.#durable = survived ?? initial;
    this.#applied = applied;
  }

  appliedIndex(): number {
    return this.#now.index;
  }

  read(key: number): number {
    return this.#now.values.get(key) ?? 0;
  }

  get hash(): number {
    return this.#now.hash;
  }

  apply(entries: readonly Entry[], done: (results: readonly unknown[]) => void): void {
    const values = new Map(this.#now.values);
    let { index, hash } = this.#now;
    const results = entries.map((entry) => {
      if (entry.index !== index + 1) throw new Error(`Cannot apply entry ${entry.index} behind ${index}`);
      index = entry.index;
      hash = (Math.imul(hash ^ entry.term, 0x01000193) ^ sum(entry.data)) >>> 0;
      const result = entry.kind === "config" || entry.data.length === 0 ? undefined : perform(values, entry.data);
      this.#applied(index, hash, entry, result);
      return result;
    });
    this.#now = { index, hash, values };
    done(results);
  }

  snapshot(done: (taken: { index: number; data: Uint8Array }) => void): void {
    const { index, hash, values } = this.#now;
    done({ index, data: new TextEncoder().encode(JSON.stringify([index, hash, [...values]])) });
  }

  restore(snapshot: Snapshot, done: Done): void {
    const [index, hash, values] = JSON.parse(new TextDecoder().decode(snapshot.data));
    if (index !== snapshot.meta.index) throw new Error(`Snapshot at ${snapshot.meta.index} holds state of ${index}`);
    this.#now = { index, hash, values: new Map(values) };
    done();
  }

  /** Makes what is applied durable; answers its index. */
  checkpoint(): number {
    this.#durable = this.#now;
    return this.#now.index;
  }

  /** What is left after a crash. */
  survivors(writtenBack: boolean): Registers {
    return writtenBack ? this.#now : this.#durable;
  }
}

function perform(values: Map<number, number>, data: Uint8Array): boolean {
  const view = new DataView(data.buffer, data.byteOffset, data.length);
  const key = data[0]!, value = view.getUint32(2), expected = view.getUint32(6);
  if (data[1] === 1 && (values.get(key) ?? 0) !== expected) return false;
  values.set(key, value);
  return true;
}
