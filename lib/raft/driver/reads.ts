import { type Rng, uniform } from "@ultracloud/base";
import type { NodeId } from "../core/types.ts";
import type { RoundStart } from "./lease.ts";
import type { ReadOutcome, RefusalCode } from "./types.ts";

export type ReadDone = (outcome: ReadOutcome) => void;

interface Round {
  readonly waiting: ReadDone[];
  readonly expiresTick: number;
  readonly start: RoundStart | undefined;
}

/** Reads on their way: queued for the next round, asked for under a context, and confirmed but ahead of local state. */
export class PendingReads {
  #queued: ReadDone[] = [];
  readonly #asked = new Map<number, Round>();
  #confirmed: { readonly index: number; readonly waiting: ReadDone[] }[] = [];
  #context: number;

  /** Contexts start at a random place, so that answers meant for an earlier life of this replica match nothing. */
  constructor(rng: Rng) {
    this.#context = rng.uint32() * 2 ** 20 + uniform(rng, 2 ** 20);
  }

  add(done: ReadDone): void {
    this.#queued.push(done);
  }

  get queued(): boolean {
    return this.#queued.length > 0;
  }

  /** Puts everything queued under one new context. */
  nextRound(expiresTick: number, start?: RoundStart): number {
    const context = ++this.#context;
    this.#asked.set(context, { waiting: this.#queued, expiresTick, start });
    this.#queued = [];
    return context;
  }

  /** The leader has named the index for a context; unknown contexts are late answers. Answers how the round began. */
  confirm(context: number, index: number, applied: number): RoundStart | undefined {
    const round = this.#asked.get(context);
    if (!round) return undefined;
    this.#asked.delete(context);
    if (applied >= index) { for (const done of round.waiting) done({ index }); }
    else this.#confirmed.push({ index, waiting: round.waiting });
    return round.start;
  }

  /** A read whose index is known without asking. */
  at(index: number, applied: number, done: ReadDone): void {
    if (applied >= index) done({ index });
    else this.#confirmed.push({ index, waiting: [done] });
  }

  applied(applied: number): void {
    if (this.#confirmed.length === 0) return;
    const served = this.#confirmed.filter(({ index }) => index <= applied);
    if (served.length === 0) return;
    this.#confirmed = this.#confirmed.filter(({ index }) => index > applied);
    for (const { index, waiting } of served) for (const done of waiting) done({ index });
  }

  /** Gives up on rounds that nobody answered. */
  expire(tick: number, leader: NodeId): void {
    for (const [context, round] of this.#asked) {
      if (round.expiresTick > tick) continue;
      this.#asked.delete(context);
      for (const done of round.waiting) done({ refused: "no_quorum", leader });
    }
  }

  /** Refuses what was asked and not confirmed; with `everything` also what is queued or waits for local state. */
  refuse(refused: RefusalCode, leader: NodeId, everything = false): void {
    const rounds = [...this.#asked.values()].map(({ waiting }) => waiting);
    this.#asked.clear();
    if (everything) {
      rounds.push(this.#queued, ...this.#confirmed.map(({ waiting }) => waiting));
      this.#queued = [];
      this.#confirmed = [];
    }
    for (const waiting of rounds) for (const done of waiting) done({ refused, leader });
  }
}
