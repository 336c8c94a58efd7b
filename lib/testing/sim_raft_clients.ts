import { type Rng, uniform } from "@ultracloud/base";
import type { ProposalOutcome } from "@ultracloud/raft";
import type { RegisterAction, RegisterOperation } from "./history.ts";
import type { SimClock } from "./sim_clock.ts";
import type { RaftChecks } from "./sim_raft_checks.ts";
import { encodeCommand } from "./sim_raft_machine.ts";
import type { SimNode } from "./sim_raft_node.ts";

const KEYS = 2;
const TIMEOUT_MS = 400;

/** Clients that write, swap and read registers, one operation at a time each, and note what they were told. */
export class SimClients {
  readonly #history: RegisterOperation[] = [];
  acknowledgedWrites = 0;
  servedReads = 0;
  /** No new operations. */
  stopped = false;
  #value = 0;
  /** Position in the order of everything that clients saw: finer than time, so that nothing ties. */
  #instant = 0;
  /** When and how each command first took effect anywhere. */
  readonly #performed = new Map<number, { readonly at: number; readonly result: boolean }>();
  readonly #lastSeen = new Map<number, number>();
  readonly #nodes: readonly SimNode[];
  readonly #clock: SimClock;
  readonly #rng: Rng;
  readonly #checks: RaftChecks;
  readonly #delayMs: () => number;
  readonly #trace: (what: string, a: number, b: number) => void;

  constructor(nodes: readonly SimNode[], deps: {
    readonly clock: SimClock;
    readonly rng: Rng;
    readonly checks: RaftChecks;
    readonly delayMs: () => number;
    readonly trace: (what: string, a: number, b: number) => void;
  }) {
    this.#nodes = nodes;
    this.#clock = deps.clock;
    this.#rng = deps.rng;
    this.#checks = deps.checks;
    this.#delayMs = deps.delayMs;
    this.#trace = deps.trace;
  }

  start(count: number): void {
    for (let i = 0; i < count; i++) this.#clock.after(uniform(this.#rng, 200), () => this.#next());
  }

  performed(value: number, result: boolean): void {
    if (!this.#performed.has(value)) this.#performed.set(value, { at: this.#instant++, result });
  }

  /**
   * What clients saw, with unknown outcomes settled by what the log decided: an operation that was never applied did
   * not happen, one that was has taken effect by then. Without this the checker would try every subset of them.
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

  #next(): void {
    if (this.stopped) return;
    const key = uniform(this.#rng, KEYS);
    const leaders = this.#nodes.filter(({ core }) => core?.role === "leader");
    leaders.sort((a, b) => b.core!.term - a.core!.term);
    const read = uniform(this.#rng, 100) < 55;
    // While two believe that they lead, writes go to the later one and reads to the earlier: what must not be seen.
    const leader = read ? leaders.at(-1) : leaders[0];
    const anyone = this.#nodes[uniform(this.#rng, this.#nodes.length)]!;
    const node = leader && uniform(this.#rng, 10) < 7 ? leader : anyone;
    if (read) this.#read(node, key);
    else this.#write(node, key);
  }

  #write(node: SimNode, key: number): void {
    const value = ++this.#value;
    const swap = uniform(this.#rng, 4) === 0;
    const expected = this.#lastSeen.get(key) ?? 0;
    const data = encodeCommand({ key, kind: swap ? "cas" : "write", value, expected }, uniform(this.#rng, 24));
    const action = (swapped: boolean): RegisterAction =>
      swap ? { kind: "cas", expected, value, swapped } : { kind: "write", value };
    const invokedAt = this.#instant++;
    this.#call<ProposalOutcome>(node, (done) => node.propose(data, done), (outcome) => {
      if (!outcome) this.#note(key, action(true), invokedAt, Infinity);
      else if (!("refused" in outcome)) {
        this.acknowledgedWrites++;
        this.#lastSeen.set(key, value);
        this.#note(key, action(outcome.result === true), invokedAt, this.#instant++);
      } else if (outcome.refused === "leadership_lost" || outcome.refused === "stopped") {
        this.#note(key, action(true), invokedAt, Infinity);
      }
    }, (outcome) => {
      if ("refused" in outcome) return;
      this.#checks.stepped(node);
      this.#checks.acknowledged(outcome.index);
    });
  }

  #read(node: SimNode, key: number): void {
    const invokedAt = this.#instant++;
    this.#call<number | undefined>(node, (done) => {
      node.read(key, (outcome, value) => done("refused" in outcome ? undefined : value));
    }, (value) => {
      if (value === undefined) return;
      this.servedReads++;
      this.#lastSeen.set(key, value);
      this.#note(key, { kind: "read", value }, invokedAt, this.#instant++);
    });
  }

  /** A call over the network: `answered` gets undefined when nothing came back in time. */
  #call<T>(
    node: SimNode,
    run: (done: (outcome: T) => void) => void,
    answered: (outcome: T | undefined) => void,
    decided?: (outcome: T) => void,
  ): void {
    let over = false;
    const finish = (outcome: T | undefined) => {
      if (over) return;
      over = true;
      answered(outcome);
      this.#clock.after(uniform(this.#rng, 60), () => this.#next());
    };
    const cancel = this.#clock.after(TIMEOUT_MS, () => finish(undefined));
    this.#clock.after(this.#delayMs(), () => {
      if (!node.up) return;
      node.deliver({
        kind: "call",
        run: () =>
          run((outcome) => {
            decided?.(outcome);
            this.#clock.after(this.#delayMs(), () => {
              cancel();
              finish(outcome);
            });
          }),
      });
    });
  }

  #note(key: number, action: RegisterAction, invokedAt: number, returnedAt: number): void {
    this.#trace(action.kind, key, action.value);
    this.#history.push({ key: String(key), action, invokedAt, returnedAt });
  }
}
