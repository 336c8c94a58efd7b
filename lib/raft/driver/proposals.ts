import type { Entry, NodeId } from "../core/types.ts";
import type { ProposalOutcome, RefusalCode } from "./types.ts";

export type ProposalDone = (outcome: ProposalOutcome) => void;

interface Pending {
  readonly index: number;
  readonly term: number;
  readonly done: ProposalDone;
}

/** Proposals that were logged by this replica and wait for their entry to be applied, by ascending index. */
export class PendingProposals {
  #queue: Pending[] = [];
  #head = 0;

  get count(): number {
    return this.#queue.length - this.#head;
  }

  /** Mostly behind all others; where another replica logs, answers may come out of order. */
  add(index: number, term: number, done: ProposalDone): void {
    let at = this.#queue.length;
    while (at > this.#head && this.#queue[at - 1]!.index > index) at--;
    if (at === this.#queue.length) this.#queue.push({ index, term, done });
    else this.#queue.splice(at, 0, { index, term, done });
  }

  /** `entries` were applied with `results`. */
  settle(entries: readonly Entry[], results: readonly unknown[], leader: NodeId): void {
    if (this.count === 0) return;
    for (let i = 0; i < entries.length; i++) {
      const entry = entries[i]!;
      while (this.#head < this.#queue.length && this.#queue[this.#head]!.index <= entry.index) {
        const { index, term, done } = this.#queue[this.#head++]!;
        if (index === entry.index && term === entry.term) done({ index, result: results[i] });
        else done({ refused: "superseded", leader });
      }
    }
    if (this.#head === this.#queue.length) {
      this.#queue = [];
      this.#head = 0;
    } else if (this.#head > 1024) {
      this.#queue.splice(0, this.#head);
      this.#head = 0;
    }
  }

  /** Gives up on those with an index in `(above, upTo]`. */
  refuse(refused: RefusalCode, leader: NodeId, above: number, upTo = Infinity): void {
    const waiting = this.#queue.slice(this.#head);
    this.#head = 0;
    this.#queue = waiting.filter(({ index }) => index <= above || index > upTo);
    for (const { index, done } of waiting) if (index > above && index <= upTo) done({ refused, leader });
  }
}
