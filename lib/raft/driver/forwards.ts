import type { Entry, NodeId } from "../core/types.ts";
import { PendingProposals, type ProposalDone } from "./proposals.ts";
import type { RefusalCode } from "./types.ts";

/** A proposal on its way to the leader: exactly one of its two calls follows. */
export interface Forward {
  /** The leader has logged it there. What becomes of it shows in the own log. */
  logged(index: number, term: number): void;
  /** The leader has not, or nobody knows: whoever forwarded says so himself, and `done` is not called. */
  dropped(): void;
}

/** Proposals that may be on their way or wait here; each holds a little memory. */
const FORWARDED_MAX = 4096;
/** Entries applied while answers are outstanding, kept so that an answer may come after its entry. */
const RECENT_MAX = 16_384;

interface Applied {
  readonly term: number;
  readonly result: unknown;
}

/**
 * Proposals that another replica logged. Every replica comes to the same result at the same index, so the answer is
 * found here: nobody sends results.
 */
export class ForwardedProposals {
  readonly #pending = new PendingProposals();
  #asked = 0;
  readonly #recent = new Map<number, Applied>();

  get full(): boolean {
    return this.#asked + this.#pending.count >= FORWARDED_MAX;
  }

  /** `state` answers about the present moment when the leader's answer comes. */
  begin(state: () => { term: number; applied: number; leader: NodeId } | undefined, done: ProposalDone): Forward {
    this.#asked++;
    let open = true;
    const close = () => {
      if (!open) return false;
      open = false;
      if (--this.#asked === 0) this.#recent.clear();
      return true;
    };
    return {
      dropped: () => void close(),
      logged: (index, term) => {
        const now = state();
        const known = this.#recent.get(index);
        if (!close()) return;
        if (!now) return done({ refused: "stopped", leader: 0 });
        const { leader } = now;
        if (known) {
          return done(known.term === term ? { index, result: known.result } : { refused: "superseded", leader });
        }
        // Applied so long ago that the result is gone, or up to a later leader: either way nobody can say here.
        if (index <= now.applied || term !== now.term) return done({ refused: "leadership_lost", leader });
        this.#pending.add(index, term, done);
      },
    };
  }

  settle(entries: readonly Entry[], results: readonly unknown[], leader: NodeId): void {
    this.#pending.settle(entries, results, leader);
    if (this.#asked === 0) return;
    for (let i = 0; i < entries.length; i++) {
      const { index, term } = entries[i]!;
      this.#recent.set(index, { term, result: results[i] });
    }
    for (const index of this.#recent.keys()) {
      if (this.#recent.size <= RECENT_MAX) break;
      this.#recent.delete(index);
    }
  }

  refuse(refused: RefusalCode, leader: NodeId, above: number, upTo = Infinity): void {
    this.#pending.refuse(refused, leader, above, upTo);
  }
}
