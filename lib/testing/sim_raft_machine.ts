import type { Done, Entry, Snapshot, StateMachine } from "@ultracloud/raft";
import { sum } from "./sim_raft_log.ts";

/** A change to one of the registers, as it stands in the log, with the client's session that asked for it. */
export interface Command {
  readonly client: number;
  /** Counts a client's operations; a retry has the number of what it repeats. */
  readonly sequence: number;
  readonly key: number;
  readonly kind: "write" | "cas";
  readonly value: number;
  readonly expected: number;
}

/** How the machine breaks its promises, for planted bugs. */
export interface SimMachineBugs {
  readonly forgetSessions?: "at once" | "in snapshots";
}

/** The length is drawn by the caller, so that limits by bytes are met at odd places. */
function encodeCommand(command: Command, padding: number): Uint8Array {
  const bytes = new Uint8Array(15 + padding);
  const view = new DataView(bytes.buffer);
  bytes[0] = command.key;
  bytes[1] = command.kind === "cas" ? 1 : 0;
  view.setUint32(2, command.value);
  view.setUint32(6, command.expected);
  bytes[10] = command.client;
  view.setUint32(11, command.sequence);
  return bytes;
}

function decodeCommand(data: Uint8Array): Command {
  const view = new DataView(data.buffer, data.byteOffset, data.length);
  return {
    key: data[0]!,
    kind: data[1] === 1 ? "cas" : "write",
    value: view.getUint32(2),
    expected: view.getUint32(6),
    client: data[10]!,
    sequence: view.getUint32(11),
  };
}

/** What a command came to. `repeated` when an earlier entry had done it: then this one had no effect. */
export interface Performed {
  readonly command: Command;
  readonly result: boolean;
  readonly repeated: boolean;
}

/** The last operation of a client and its answer. */
interface Session {
  readonly sequence: number;
  readonly result: boolean;
}

interface Registers {
  readonly index: number;
  readonly hash: number;
  readonly values: ReadonlyMap<number, number>;
  readonly sessions: ReadonlyMap<number, Session>;
}

const initial: Registers = { index: 0, hash: 0, values: new Map(), sessions: new Map() };

export interface SimMachineEvents {
  /** `hash` is that of the state after the entry; `performed` is undefined for entries without a command. */
  applied(index: number, hash: number, entry: Entry, performed: Performed | undefined): void;
  restored(index: number, hash: number): void;
}

/** A state machine that a simulated replica can carry: registers that clients write, and what survives its end. */
export interface SimulatedMachine extends StateMachine {
  read(key: number): number;
  /** Of the whole state: equal on replicas that have applied the same. */
  readonly hash: number;
  /** Makes what is applied durable; answers its index. */
  checkpoint(): number;
  /** What is left after a crash; nothing else is asked of the machine then. */
  survivors(writtenBack: boolean): unknown;
}

/** Builds the machine of a replica that starts, and writes what clients ask for the way it reads it. */
export interface MachineKit {
  encode(command: Command, padding: number): Uint8Array;
  start(survivors: unknown, bugs: SimMachineBugs, events: SimMachineEvents): SimulatedMachine;
}

/** The registers below. */
export const registerKit: MachineKit = {
  encode: encodeCommand,
  start: (survivors, bugs, events) => new SimMachine(survivors as Registers | undefined, bugs, events),
};

/**
 * A few registers, client sessions, and a hash over everything ever applied. `checkpoint` is what a power cut leaves; a
 * crash may leave more, since the system writes back when it likes.
 */
class SimMachine implements SimulatedMachine {
  #now: Registers;
  #durable: Registers;
  readonly #bugs: SimMachineBugs;
  readonly #events: SimMachineEvents;

  constructor(survived: Registers | undefined, bugs: SimMachineBugs, events: SimMachineEvents) {
    this.#now = this.#durable = survived ?? initial;
    this.#bugs = bugs;
    this.#events = events;
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
    const values = new Map(this.#now.values), sessions = new Map(this.#now.sessions);
    let { index, hash } = this.#now;
    const results = entries.map((entry) => {
      if (entry.index !== index + 1) throw new Error(`Cannot apply entry ${entry.index} behind ${index}`);
      index = entry.index;
      const performed = entry.kind === "config" || entry.data.length === 0
        ? undefined
        : this.#perform(values, sessions, decodeCommand(entry.data));
      hash = Math.imul(hash ^ entry.term, 0x01000193) ^ sum(entry.data);
      if (performed) hash = Math.imul(hash ^ (performed.repeated ? 1 : 2), 0x01000193) ^ (performed.result ? 4 : 8);
      hash >>>= 0;
      this.#events.applied(index, hash, entry, performed);
      return performed?.result;
    });
    this.#now = { index, hash, values, sessions };
    done(results);
  }

  /** A command of a session takes effect once; its repetition gets the first answer. */
  #perform(values: Map<number, number>, sessions: Map<number, Session>, command: Command): Performed {
    const { client, sequence, key, kind, expected, value } = command;
    const known = sessions.get(client);
    if (known && sequence <= known.sequence && this.#bugs.forgetSessions !== "at once") {
      // The client has gone on since: nobody waits for the answer to an older one.
      return { command, result: sequence === known.sequence && known.result, repeated: true };
    }
    const result = kind === "write" || (values.get(key) ?? 0) === expected;
    if (result) values.set(key, value);
    sessions.set(client, { sequence, result });
    return { command, result, repeated: false };
  }

  snapshot(done: (taken: { index: number; data: Uint8Array }) => void): void {
    const { index, hash, values, sessions } = this.#now;
    const kept = this.#bugs.forgetSessions === "in snapshots" ? [] : [...sessions];
    done({ index, data: new TextEncoder().encode(JSON.stringify([index, hash, [...values], kept])) });
  }

  restore(snapshot: Snapshot, done: Done): void {
    const [index, hash, values, sessions] = JSON.parse(new TextDecoder().decode(snapshot.data));
    if (index !== snapshot.meta.index) throw new Error(`Snapshot at ${snapshot.meta.index} holds state of ${index}`);
    this.#now = { index, hash, values: new Map(values), sessions: new Map(sessions) };
    this.#events.restored(index, hash);
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
