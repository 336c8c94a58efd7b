import { type Rng, uniform } from "@ultracloud/base";
import type { ProposalOutcome } from "@ultracloud/raft";
import type { RegisterAction, RegisterOperation } from "./history.ts";
import type { SimClock } from "./sim_clock.ts";
import type { RaftChecks } from "./sim_raft_checks.ts";
import type { MachineKit, Performed } from "./sim_raft_machine.ts";
import type { SimNode } from "./sim_raft_node.ts";

const KEYS = 2;
const TIMEOUT_MS = 400;
/** A write is asked for again this often before its outcome counts as unknown. */
const ATTEMPTS_MAX = 4;
/** How often it is looked whether two believe that they lead. */
const DUEL_MS = 10;
/** The client that makes use of it. */
const DUELLIST = 200;

export interface SimClientsDeps {
  readonly clock: SimClock;
  readonly rng: Rng;
  readonly checks: RaftChecks;
  /** Every replica that a client may know of. */
  readonly nodes: () => readonly SimNode[];
  readonly delayMs: () => number;
  readonly count: (fault: string) => void;
  readonly trace: (what: string, a: number, b: number) => void;
}

/** A write on its way: the same bytes, however often it is asked for. */
interface Write {
  readonly key: number;
  readonly value: number;
  readonly action: (swapped: boolean) => RegisterAction;
  readonly data: Uint8Array;
  readonly invokedAt: number;
  readonly ended: (acknowledged: boolean) => void;
  attempts: number;
}

/**
 * Clients that write, swap and read registers, one operation at a time each, and note what they were told. A write
 * belongs to a session: without an answer it is asked for again, elsewhere, and takes effect once.
 */
export class SimClients {
  readonly #history: RegisterOperation[] = [];
  acknowledgedWrites = 0;
  servedReads = 0;
  /** No new operations. */
  stopped = false;
  /** Share of writes that the network delivers once more, long after. */
  readonly #lateRepeats: number;
  #value = 0;
  /** Position in the order of everything that clients saw: finer than time, so that nothing ties. */
  #instant = 0;
  readonly #sequences = new Map<number, number>();
  /** When and how each command first took effect anywhere. */
  readonly #performed = new Map<number, { readonly at: number; readonly result: boolean }>();
  readonly #lastSeen = new Map<number, number>();
  readonly #encode: MachineKit["encode"];
  readonly #deps: SimClientsDeps;

  constructor(options: { readonly lateRepeats: number; readonly encode: MachineKit["encode"] }, deps: SimClientsDeps) {
    this.#lateRepeats = options.lateRepeats;
    this.#encode = options.encode;
    this.#deps = deps;
  }

  start(count: number): void {
    const { clock, rng } = this.#deps;
    for (let client = 1; client <= count; client++) clock.after(uniform(rng, 200), () => this.#next(client));
    clock.after(DUEL_MS, () => this.#duel());
  }

  /** While two believe that they lead, a write goes to the later one and then a read to the earlier: it must not miss it. */
  #duel(): void {
    if (this.stopped) return;
    const leaders = this.#leaders();
    const again = () => void this.#deps.clock.after(DUEL_MS, () => this.#duel());
    if (leaders.length < 2) return again();
    const key = uniform(this.#deps.rng, KEYS);
    this.#write(DUELLIST, key, leaders[0], (acknowledged) => {
      if (acknowledged) this.#read(key, leaders.at(-1)!, again);
      else again();
    });
  }

  /** Whoever believes to lead, the latest first. */
  #leaders(): SimNode[] {
    const leaders = this.#deps.nodes().filter(({ core }) => core?.role === "leader");
    return leaders.sort((a, b) => b.core!.term - a.core!.term);
  }

  performed({ command, result, repeated }: Performed): void {
    if (!repeated && !this.#performed.has(command.value)) {
      this.#performed.set(command.value, { at: this.#instant++, result });
    }
  }

  /**
   * What clients saw, with unknown outcomes settled by what the log decided: an operation that was never applied did
   * not happen, one that was has taken effect by then. Stricter than leaving them open.
   */
  settledHistory(): RegisterOperation[] {
    return this.#history.flatMap((operation) => {
      const { action, returnedAt } = operation;
      if (returnedAt !== Infinity) return [operation];
      const performed = this.#performed.get(action.value);
      if (!performed) return [];
      const settled = action.kind === "cas" ? { ...action, swapped: performed.result } : action;
      return [{ ...operation, action: settled, returnedAt: performed.at }];
    });
  }

  #next(client: number): void {
    if (this.stopped) return;
    const { rng } = this.#deps;
    const key = uniform(rng, KEYS);
    const later = () => void this.#deps.clock.after(uniform(rng, 60), () => this.#next(client));
    if (uniform(rng, 100) < 55) this.#read(key, this.#node(true), later);
    else this.#write(client, key, undefined, later);
  }

  /** Mostly one that believes to lead: the latest for writes, the earliest for reads. */
  #node(read: boolean): SimNode {
    const { rng } = this.#deps;
    const nodes = this.#deps.nodes();
    const leaders = this.#leaders();
    const leader = read ? leaders.at(-1) : leaders[0];
    const anyone = nodes[uniform(rng, nodes.length)]!;
    return leader && uniform(rng, 10) < 7 ? leader : anyone;
  }

  /** Asks `first`, and others when it has no answer; `ended` hears whether one came. */
  #write(client: number, key: number, first: SimNode | undefined, ended: (acknowledged: boolean) => void): void {
    const { rng } = this.#deps;
    const value = ++this.#value;
    const sequence = (this.#sequences.get(client) ?? 0) + 1;
    this.#sequences.set(client, sequence);
    const swap = uniform(rng, 4) === 0;
    const expected = this.#lastSeen.get(key) ?? 0;
    const kind = swap ? "cas" : "write";
    const data = this.#encode({ client, sequence, key, kind, value, expected }, uniform(rng, 24));
    const action = (swapped: boolean): RegisterAction =>
      swap ? { kind: "cas", expected, value, swapped } : { kind: "write", value };
    const write = { key, value, action, data, invokedAt: this.#instant++, ended, attempts: 0 };
    this.#attempt(write, first ?? this.#node(false));
  }

  #attempt(write: Write, node: SimNode): void {
    const { clock, rng, count } = this.#deps;
    const { key, value, action, data, invokedAt, ended } = write;
    write.attempts++;
    this.#call<ProposalOutcome>(node, (done) => this.#propose(node, data, done), (outcome) => {
      const acknowledged = outcome !== undefined && !("refused" in outcome);
      if (acknowledged) {
        this.acknowledgedWrites++;
        this.#lastSeen.set(key, value);
        this.#note(key, action(outcome.result === true), invokedAt, this.#instant++);
      } else if (write.attempts < ATTEMPTS_MAX && !this.stopped) {
        clock.after(uniform(rng, 80), () => this.#attempt(write, this.#node(false)));
        return;
      } else this.#note(key, action(true), invokedAt, Infinity);
      ended(acknowledged);
    });
    if (this.#lateRepeats === 0 || uniform(rng, 1000) >= this.#lateRepeats * 1000) return;
    count("repeated request");
    clock.after(uniform(rng, 2500), () => {
      if (node.up) node.deliver({ kind: "call", run: () => this.#propose(node, data, () => {}) });
    });
  }

  #propose(node: SimNode, data: Uint8Array, done: (outcome: ProposalOutcome) => void): void {
    node.propose(data, (outcome) => {
      if (!("refused" in outcome)) {
        this.#deps.checks.stepped(node);
        this.#deps.checks.acknowledged(node, outcome.index);
      }
      done(outcome);
    });
  }

  #read(key: number, node: SimNode, ended: () => void): void {
    const invokedAt = this.#instant++;
    this.#call<number | undefined>(node, (done) => {
      node.read(key, (outcome, value) => done("refused" in outcome ? undefined : value));
    }, (value) => {
      if (value !== undefined) {
        this.servedReads++;
        this.#lastSeen.set(key, value);
        this.#note(key, { kind: "read", value }, invokedAt, this.#instant++);
      }
      ended();
    });
  }

  /** A call over the network: `answered` gets undefined when nothing came back in time. */
  #call<T>(
    node: SimNode,
    run: (done: (outcome: T) => void) => void,
    answered: (outcome: T | undefined) => void,
  ): void {
    const { clock, delayMs } = this.#deps;
    let over = false;
    const finish = (outcome: T | undefined) => {
      if (over) return;
      over = true;
      answered(outcome);
    };
    const cancel = clock.after(TIMEOUT_MS, () => finish(undefined));
    clock.after(delayMs(), () => {
      if (!node.up) return;
      node.deliver({
        kind: "call",
        run: () =>
          run((outcome) => {
            clock.after(delayMs(), () => {
              cancel();
              finish(outcome);
            });
          }),
      });
    });
  }

  #note(key: number, action: RegisterAction, invokedAt: number, returnedAt: number): void {
    this.#deps.trace(action.kind, key, action.value);
    this.#history.push({ key: String(key), action, invokedAt, returnedAt });
  }
}
