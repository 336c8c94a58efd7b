import type { Course, Spare, Step } from "./linearize_steps.ts";
import type { Words } from "./linearize_words.ts";

/** The spare operations an order used, last first, each with how many of its kind there were by then. */
export interface Use {
  /** Which kind. */
  readonly kind: number;
  readonly there: number;
  /** Uses up to this one. */
  readonly total: number;
  readonly before: Use | undefined;
}

/** A state the register may be in. Bits stand for open tasks. */
export interface State {
  readonly value: number;
  /** Taken. */
  readonly done: Words;
  /**
   * Writes that may count as taken, as since their call there was a moment at which nobody would have noticed them:
   * right before another write, or while their value was there. They may as well still be taken where they are seen.
   */
  readonly hidden: Words;
  /** How often each counted kind of spare operation was used. */
  readonly spent: readonly number[];
  readonly uses: Use | undefined;
}

/** Kinds that an order used more often than there were operations. */
export function overdrafts(last: Use | undefined): number[] {
  const uses: Use[] = [];
  for (let use = last; use; use = use.before) uses.push(use);
  const spent = new Map<number, number>();
  const over = new Set<number>();
  for (const { kind, there } of uses.reverse()) {
    const times = (spent.get(kind) ?? 0) + 1;
    spent.set(kind, times);
    if (times > there) over.add(kind);
  }
  return [...over];
}

/** How many earlier states a new one is compared with. */
const COMPARED_MAX = 96;

/** Kinds of spare operations that are counted, each with its place in `State.spent`. */
export class Counted {
  readonly kinds: readonly number[];
  readonly spares: readonly Spare[];
  /** Place of each kind; -1 for one that counts as inexhaustible. */
  readonly places: Int32Array;
  /** For each counted kind, the place of the write that leaves the same; -1 when there is none. */
  readonly writes: Int32Array;
  /** Kind of the write of each value; -1 when there is none. */
  readonly #writeOf: Int32Array;

  constructor(kinds: readonly number[], { spares, values }: Course) {
    this.kinds = kinds;
    this.spares = kinds.map((kind) => spares[kind]!);
    this.places = new Int32Array(spares.length).fill(-1);
    for (const [place, kind] of kinds.entries()) this.places[kind] = place;
    this.#writeOf = new Int32Array(values).fill(-1);
    for (const [kind, { from, to }] of spares.entries()) if (from === undefined) this.#writeOf[to] = kind;
    this.writes = Int32Array.from(this.spares, ({ to }) => {
      const kind = this.#writeOf[to]!;
      return kind < 0 ? -1 : this.places[kind]!;
    });
  }

  /** A write of the value is there and not counted. */
  endless(to: number, { there }: Step): boolean {
    const kind = this.#writeOf[to]!;
    return kind >= 0 && this.places[kind]! < 0 && there[kind]! > 0;
  }
}

/** States at one point of time. */
export class Left {
  readonly #exact = new Set<string>();
  readonly #alike = new Map<string, State[]>();
  readonly #step: Step;
  readonly #counted: Counted;

  constructor(step: Step, counted: Counted) {
    this.#step = step;
    this.#counted = counted;
  }

  /** False when the state was entered before, or one that could do all that this one can. */
  enters(state: State): boolean {
    const { value, done, hidden, spent } = state;
    const { swaps } = this.#step;
    let exact = `${value}`, key = exact;
    for (let i = 0; i < done.length; i++) {
      exact += ` ${done[i]} ${hidden[i]}`;
      key += ` ${done[i]! & swaps[i]!}`;
    }
    for (const count of spent) exact += ` ${count}`;
    if (this.#exact.has(exact)) return false;
    this.#exact.add(exact);
    const others = this.#alike.get(key);
    if (!others) {
      this.#alike.set(key, [state]);
      return true;
    }
    // Comparing with all of very many would cost more than it saves.
    const last = Math.max(0, others.length - COMPARED_MAX);
    for (let i = others.length - 1; i >= last; i--) {
      if (!this.#covers(others[i]!, state)) continue;
      // It may well cover the next one too.
      [others[i], others[others.length - 1]] = [others.at(-1)!, others[i]!];
      return false;
    }
    for (let i = others.length - 1; i >= last; i--) {
      if (!this.#covers(state, others[i]!)) continue;
      others[i] = others.at(-1)!;
      others.pop();
    }
    others.push(state);
    return true;
  }

  /** Those that entered, without what another of them can do as well. */
  states(): State[] {
    return [...this.#alike.values()].flat();
  }

  /** Whether `a` could go on in every way that `b` could: it has more behind it, and lost no write and no spare for it. */
  #covers(a: State, b: State): boolean {
    const { writes } = this.#step;
    for (let i = 0; i < writes.length; i++) {
      const ad = a.done[i]!, bd = b.done[i]!, ah = a.hidden[i]!;
      if ((bd & ~(ad | ah)) !== 0 || (ad & writes[i]! & ~bd) !== 0 || (b.hidden[i]! & ~ah) !== 0) return false;
    }
    return this.#affords(a, b);
  }

  /** Whether what `a` has left can stand in for what `b` has left: a write does for any swap that leaves its value. */
  #affords(a: State, b: State): boolean {
    const { spares, writes } = this.#counted;
    for (const [i, { from, to }] of spares.entries()) {
      let short = a.spent[i]! - b.spent[i]!;
      if (from !== undefined && short <= 0) continue;
      const write = writes[i]!;
      if (write < 0) {
        if (from === undefined || !this.#counted.endless(to, this.#step)) return false;
        continue;
      }
      // All swaps to the value that `a` lacks take from what it has more of the write.
      short = a.spent[write]! - b.spent[write]!;
      for (const [j, other] of spares.entries()) {
        if (other.from !== undefined && other.to === to) short += Math.max(0, a.spent[j]! - b.spent[j]!);
      }
      if (short > 0) return false;
    }
    return true;
  }
}
