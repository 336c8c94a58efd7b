import type { RegisterOperation } from "./history.ts";

/**
 * Whether some order explains the operations on one register that starts as 0: every operation takes effect once
 * between its call and its return, one of unknown outcome (it never returns) after its call or not at all.
 *
 * The search goes through calls and returns in time order. An operation is taken at the latest at its return, and
 * before that only when another needs its value (Lowe's just-in-time linearization). Reads are taken as soon as they
 * fit, which never does harm. Of two states at one point of time the one that can do less is dropped.
 *
 * Operations of unknown outcome are the costly ones, since they stay possible for ever. All that do the same are alike,
 * and at first they count as inexhaustible. When no order is found even so, there is none. An order that uses none of
 * them more often than it happened is proof of the opposite. Otherwise those that were overdrawn are counted exactly,
 * and the search begins again: what cannot matter is never counted.
 */
export function linearizable(operations: readonly RegisterOperation[]): boolean {
  const steps = prepare(operations);
  const counted: Spare[] = [];
  for (;;) {
    const order = new Search(steps, counted).run();
    if (!order) return false;
    const overdrawn = overdrafts(order.uses);
    if (overdrawn.length === 0) return true;
    counted.push(...overdrawn);
  }
}

/** How many states go on from one point of time at first, and how much more at the next try. */
const WIDTH_FIRST = 64;
const WIDTH_FACTOR = 16;
/** How many earlier states a new one is compared with. */
const COMPARED_MAX = 256;

/** All operations of unknown outcome that do the same: `from` is undefined for a write. */
interface Spare {
  readonly from: number | undefined;
  readonly to: number;
}

/** An operation that returned, in the terms of the search. */
type Task =
  & {
    readonly returnedAt: number;
    /** Its bit, among the tasks that are open at the same time. */
    bit: bigint;
  }
  & (
    | { readonly kind: "read"; readonly value: number }
    /** A compare that failed: it saw anything but `value`. */
    | { readonly kind: "not"; readonly value: number }
    | { readonly kind: "write"; readonly to: number }
    | { readonly kind: "cas"; readonly from: number; readonly to: number }
  );

/** What happens at one point of time, and what may be taken then. */
interface Step {
  /** Returns here; undefined at a call. */
  readonly due: Task | undefined;
  /** Called and not returned, `due` included; the first to return stands first. */
  readonly open: readonly Task[];
  /** Bits of open writes. */
  readonly writes: bigint;
  /** Bits of open swaps. */
  readonly swaps: bigint;
  /** How many spare operations of each kind were called by then. */
  readonly there: ReadonlyMap<Spare, number>;
}

function prepare(operations: readonly RegisterOperation[]): Step[] {
  const moments: { at: number; returns: boolean; task?: Task; spare?: Spare }[] = [];
  const kinds = new Map<string, Spare>();
  for (const { action, invokedAt, returnedAt } of operations) {
    if (returnedAt !== Infinity) {
      const task = taskOf(action, returnedAt);
      moments.push({ at: invokedAt, returns: false, task }, { at: returnedAt, returns: true, task });
      continue;
    }
    // Without an answer a read says nothing, and neither does a swap of a value with itself.
    if (action.kind === "read" || (action.kind === "cas" && action.expected === action.value)) continue;
    const wanted: Spare = { from: action.kind === "cas" ? action.expected : undefined, to: action.value };
    const key = `${wanted.from}>${wanted.to}`;
    const spare = kinds.get(key) ?? wanted;
    kinds.set(key, spare);
    moments.push({ at: invokedAt, returns: false, spare });
  }
  // At the same instant calls come first: overlapping operations may take either order.
  moments.sort((a, b) => a.at === b.at ? Number(a.returns) - Number(b.returns) : a.at < b.at ? -1 : 1);
  let open: Task[] = [];
  let there = new Map<Spare, number>();
  const steps: Step[] = [];
  for (const { task, spare, returns } of moments) {
    if (spare) there = new Map(there).set(spare, (there.get(spare) ?? 0) + 1);
    else if (!returns) {
      let bit = 1n;
      while (open.some((other) => other.bit === bit)) bit <<= 1n;
      task!.bit = bit;
      open = [...open, task!].sort((a, b) => a.returnedAt - b.returnedAt);
    }
    if (spare) continue;
    let writes = 0n, swaps = 0n;
    for (const { kind, bit } of open) {
      if (kind === "write") writes |= bit;
      else if (kind === "cas") swaps |= bit;
    }
    steps.push({ due: returns ? task : undefined, open, writes, swaps, there });
    if (returns) open = open.filter((other) => other !== task);
  }
  return steps;
}

function taskOf(action: RegisterOperation["action"], returnedAt: number): Task {
  const bit = 0n;
  if (action.kind === "write") return { kind: "write", to: action.value, returnedAt, bit };
  if (action.kind === "read") return { kind: "read", value: action.value, returnedAt, bit };
  if (!action.swapped) return { kind: "not", value: action.expected, returnedAt, bit };
  if (action.expected === action.value) return { kind: "read", value: action.value, returnedAt, bit };
  return { kind: "cas", from: action.expected, to: action.value, returnedAt, bit };
}

/** The spare operations an order used, last first, each with how many of its kind there were by then. */
interface Use {
  readonly spare: Spare;
  readonly there: number;
  /** Uses up to this one. */
  readonly total: number;
  readonly before: Use | undefined;
}

/** Kinds that an order used more often than there were operations. */
function overdrafts(last: Use | undefined): Spare[] {
  const uses: Use[] = [];
  for (let use = last; use; use = use.before) uses.push(use);
  const spent = new Map<Spare, number>();
  const over = new Set<Spare>();
  for (const { spare, there } of uses.reverse()) {
    const times = (spent.get(spare) ?? 0) + 1;
    spent.set(spare, times);
    if (times > there) over.add(spare);
  }
  return [...over];
}

/** A state the register may be in. Bits stand for open tasks. */
interface State {
  readonly value: number;
  /** Taken. */
  readonly done: bigint;
  /**
   * Writes that may count as taken, as since their call there was a moment at which nobody would have noticed them:
   * right before another write, or while their value was there. They may as well still be taken where they are seen.
   */
  readonly hidden: bigint;
  /** How often each counted kind of spare operation was used. */
  readonly spent: readonly number[];
  readonly uses: Use | undefined;
}

class Search {
  readonly #steps: readonly Step[];
  readonly #counted: readonly Spare[];

  constructor(steps: readonly Step[], counted: readonly Spare[]) {
    this.#steps = steps;
    this.#counted = counted;
  }

  /** The end of an order; undefined when there is none. */
  run(): State | undefined {
    // With operations of unknown outcome there are very many states at a time, and nearly all of them are good.
    const spare = this.#steps.some(({ there }) => there.size > 0);
    return spare ? this.#depthFirst() : this.#breadthFirst();
  }

  /** One state at a time; one that was left without success is not entered again. */
  #depthFirst(): State | undefined {
    const left = this.#steps.map((step) => new Left(step, this.#counted));
    const ways: Iterator<State>[] = [[this.#start].values()];
    while (ways.length > 0) {
      const next = ways.at(-1)!.next();
      if (next.done) {
        ways.pop();
        continue;
      }
      const step = this.#steps[ways.length - 1];
      if (!step) return next.value;
      if (!left[ways.length - 1]!.enters(next.value)) continue;
      ways.push(this.#through(step, next.value));
    }
    return undefined;
  }

  get #start(): State {
    return { value: 0, done: 0n, hidden: 0n, spent: this.#counted.map(() => 0), uses: undefined };
  }

  /**
   * All states at one point of time go on together, so that of two
   * the one that can do less is dropped whichever came first. At first only the most promising few go on: an order is
   * nearly always among them. Where none is found and some were left out, more go on.
   */
  #breadthFirst(): State | undefined {
    for (let width = WIDTH_FIRST;; width *= WIDTH_FACTOR) {
      const { end, complete } = this.#within(width);
      if (end !== undefined || complete) return end;
    }
  }

  #within(width: number): { readonly end: State | undefined; readonly complete: boolean } {
    let states: readonly State[] = [this.#start];
    let complete = true;
    for (const [i, step] of this.#steps.entries()) {
      const next = this.#steps[i + 1];
      // What can still differ is decided by what is open afterwards.
      const left = new Left(next ?? step, this.#counted);
      for (const state of states) for (const after of this.#through(step, state)) left.enters(after);
      states = left.states();
      if (states.length <= width) continue;
      complete = false;
      const ranked = states.map((state) => ({ state, rank: bitCount(state.done) - (state.uses?.total ?? 0) }));
      ranked.sort((a, b) => b.rank - a.rank);
      states = ranked.slice(0, width).map(({ state }) => state);
    }
    return { end: states[0], complete };
  }

  /** Every state after the step. */
  *#through(step: Step, state: State): Generator<State> {
    const { due } = step;
    if (!due) {
      yield settled(step, state);
      return;
    }
    const gone = ~due.bit;
    // With the most behind it and the least used up, a state most likely goes through to the end.
    const ways = [...this.#taken(step, due, state)].map((after) => ({
      after,
      count: bitCount(after.done) - (after.uses?.total ?? 0),
    }));
    ways.sort((a, b) => b.count - a.count);
    for (const { after } of ways) {
      yield { ...after, done: after.done & gone, hidden: after.hidden & gone };
    }
  }

  /** Every state reachable from `start` in which `due` is taken, as soon as it is. */
  *#taken(step: Step, due: Task, start: State): Generator<State> {
    const seen = new Left(step, this.#counted);
    const queue = [start];
    seen.enters(start);
    for (let i = 0; i < queue.length; i++) {
      const state = queue[i]!;
      if ((state.done & due.bit) !== 0n) {
        yield state;
        continue;
      }
      if ((state.hidden & due.bit) !== 0n) yield state;
      if (due.kind === "write") yield written(step, state, due.to, due.bit);
      for (const next of this.#moves(step, state)) if (seen.enters(next)) queue.push(next);
    }
  }

  /** One operation more, if another needs what it leaves. A write that is due is not among them: it comes last. */
  *#moves(step: Step, state: State): Generator<State> {
    const { value, done, hidden } = state;
    const needed = this.#needed(step, state);
    // Of tasks that do the same, the one that returns first: the other can do whatever it could, and longer.
    const offered = new Set<string>();
    for (const task of step.open) {
      if ((done & task.bit) !== 0n) continue;
      if (task.kind === "cas" && task.from === value) {
        if (offered.has(`${task.from}>${task.to}`)) continue;
        offered.add(`${task.from}>${task.to}`);
        yield settled(step, { ...state, value: task.to, done: done | task.bit });
      } else if (task.kind === "write" && task !== step.due && needed(task.to)) {
        const key = `${task.to}${(hidden & task.bit) !== 0n}`;
        if (offered.has(key)) continue;
        offered.add(key);
        yield written(step, state, task.to, task.bit);
      }
    }
    const hides = (step.writes & ~done & ~hidden) !== 0n;
    // Of a swap and a write that leave the same, the one that is missed less: a write that nobody counts, else the swap,
    // as a write could do the same later. Unless the write lets another one go unnoticed.
    const left = new Set<number>();
    for (const spare of this.#spares(step)) {
      if ((spare.from !== undefined && spare.from !== value) || !needed(spare.to)) continue;
      if (left.has(spare.to) && (spare.from !== undefined || !hides)) continue;
      if (!this.#left(step, spare, state)) continue;
      left.add(spare.to);
      const used = this.#used(step, state, spare);
      yield spare.from === undefined ? written(step, used, spare.to, 0n) : settled(step, { ...used, value: spare.to });
    }
  }

  /**
   * Whether an open task, or a spare swap on the way to one, waits for a value. To write what is there already helps
   * too, when other writes can go unnoticed before it.
   */
  #needed(step: Step, state: State): (value: number) => boolean {
    const { value: present, done, hidden } = state;
    const wanted = new Set<number>();
    let anyOther = false;
    for (const task of step.open) {
      if ((done & task.bit) !== 0n) continue;
      if (task.kind === "not") anyOther = true;
      else if (task.kind === "read") wanted.add(task.value);
      else if (task.kind === "cas") wanted.add(task.from);
    }
    for (let before = -1; before !== wanted.size;) {
      before = wanted.size;
      for (const spare of step.there.keys()) {
        if (spare.from === undefined || !(anyOther || wanted.has(spare.to))) continue;
        if (this.#left(step, spare, state)) wanted.add(spare.from);
      }
    }
    const hides = (step.writes & ~done & ~hidden) !== 0n;
    return (value) => value === present ? hides && wanted.has(value) : anyOther || wanted.has(value);
  }

  /** Kinds of spare operations in the order in which they are spent: what nobody counts first, and swaps before writes. */
  #spares({ there }: Step): Spare[] {
    const rank = (spare: Spare) =>
      spare.from !== undefined ? this.#counted.includes(spare) ? 2 : 0 : this.#counted.includes(spare) ? 3 : 1;
    return [...there.keys()].sort((a, b) => rank(a) - rank(b));
  }

  #left(step: Step, spare: Spare, state: State): boolean {
    const at = this.#counted.indexOf(spare);
    return at < 0 || state.spent[at]! < step.there.get(spare)!;
  }

  #used(step: Step, state: State, spare: Spare): State {
    const at = this.#counted.indexOf(spare);
    const spent = at < 0 ? state.spent : state.spent.with(at, state.spent[at]! + 1);
    return {
      ...state,
      spent,
      uses: { spare, there: step.there.get(spare)!, total: (state.uses?.total ?? 0) + 1, before: state.uses },
    };
  }
}

function written(step: Step, state: State, value: number, by: bigint): State {
  const done = state.done | by;
  return settled(step, { ...state, value, done, hidden: step.writes & ~done });
}

/** Takes the reads that fit; a write of what is there already goes unnoticed. */
function settled(step: Step, state: State): State {
  const { value } = state;
  let { done, hidden } = state;
  for (const task of step.open) {
    const { kind, bit } = task;
    if (kind === "read" ? task.value === value : kind === "not" && task.value !== value) done |= bit;
    else if (kind === "write" && task.to === value && (done & bit) === 0n) hidden |= bit;
  }
  return done === state.done && hidden === state.hidden ? state : { ...state, done, hidden };
}

/** Bits of one word: the largest that are compared as small integers. */
const WORD_BITS = 30;
const WORD = (1n << BigInt(WORD_BITS)) - 1n;

/** Bits as words, the lowest first. Comparing them is most of the work, and costs a fraction of what it does as bigint. */
function wordsOf(bits: bigint, count: number): number[] {
  const words: number[] = [];
  for (let i = 0; i < count; i++) words.push(Number((bits >> BigInt(i * WORD_BITS)) & WORD));
  return words;
}

/** What decides where a state can go from here. */
interface Entered {
  readonly state: State;
  readonly done: readonly number[];
  readonly hidden: readonly number[];
  readonly spent: readonly number[];
}

/** States at one point of time. */
class Left {
  readonly #exact = new Set<string>();
  readonly #alike = new Map<string, Entered[]>();
  readonly #step: Step;
  readonly #counted: readonly Spare[];
  readonly #words: number;
  readonly #writes: readonly number[];
  readonly #swaps: readonly number[];

  constructor(step: Step, counted: readonly Spare[]) {
    this.#step = step;
    this.#counted = counted;
    let bits = 1n;
    for (const { bit } of step.open) bits |= bit;
    this.#words = Math.ceil(bits.toString(2).length / WORD_BITS);
    this.#writes = wordsOf(step.writes, this.#words);
    this.#swaps = wordsOf(step.swaps, this.#words);
  }

  /** False when the state was entered before, or one that could do all that this one can. */
  enters(state: State): boolean {
    const { value, done: doneBits, hidden: hiddenBits, spent } = state;
    const done = wordsOf(doneBits, this.#words);
    const hidden = wordsOf(hiddenBits, this.#words);
    let exact = `${value}`, key = exact;
    for (let i = 0; i < this.#words; i++) {
      exact += ` ${done[i]} ${hidden[i]}`;
      key += ` ${done[i]! & this.#swaps[i]!}`;
    }
    for (const count of spent) exact += ` ${count}`;
    if (this.#exact.has(exact)) return false;
    this.#exact.add(exact);
    const entered: Entered = { state, done, hidden, spent };
    const others = this.#alike.get(key);
    if (!others) {
      this.#alike.set(key, [entered]);
      return true;
    }
    // Comparing with all of very many would cost more than it saves.
    const last = Math.max(0, others.length - COMPARED_MAX);
    for (let i = others.length - 1; i >= last; i--) {
      if (!this.#covers(others[i]!, entered)) continue;
      // It may well cover the next one too.
      [others[i], others[others.length - 1]] = [others.at(-1)!, others[i]!];
      return false;
    }
    for (let i = others.length - 1; i >= last; i--) {
      if (!this.#covers(entered, others[i]!)) continue;
      others[i] = others.at(-1)!;
      others.pop();
    }
    others.push(entered);
    return true;
  }

  /** Those that entered, without what another of them can do as well. */
  states(): State[] {
    return [...this.#alike.values()].flatMap((alike) => alike.map(({ state }) => state));
  }

  /** Whether `a` could go on in every way that `b` could: it has more behind it, and lost no write and no spare for it. */
  #covers(a: Entered, b: Entered): boolean {
    for (let i = 0; i < this.#words; i++) {
      const ad = a.done[i]!, bd = b.done[i]!, ah = a.hidden[i]!;
      if ((bd & ~(ad | ah)) !== 0 || (ad & this.#writes[i]! & ~bd) !== 0 || (b.hidden[i]! & ~ah) !== 0) return false;
    }
    return this.#affords(a, b);
  }

  /** Whether what `a` has left can stand in for what `b` has left: a write does for any swap that leaves its value. */
  #affords(a: Entered, b: Entered): boolean {
    for (const [i, { from, to }] of this.#counted.entries()) {
      let short = a.spent[i]! - b.spent[i]!;
      if (from !== undefined && short <= 0) continue;
      const write = this.#counted.findIndex((other) => other.from === undefined && other.to === to);
      if (write < 0) {
        if (from === undefined || !this.#endless(to)) return false;
        continue;
      }
      // All swaps to the value that `a` lacks take from what it has more of the write.
      short = a.spent[write]! - b.spent[write]!;
      this.#counted.forEach((other, j) => {
        if (other.from !== undefined && other.to === to) short += Math.max(0, a.spent[j]! - b.spent[j]!);
      });
      if (short > 0) return false;
    }
    return true;
  }

  /** A write of the value is there and not counted. */
  #endless(to: number): boolean {
    for (const spare of this.#step.there.keys()) {
      if (spare.from === undefined && spare.to === to) return !this.#counted.includes(spare);
    }
    return false;
  }
}

function bitCount(bits: bigint): number {
  let count = 0;
  for (let rest = bits; rest !== 0n; rest &= rest - 1n) count++;
  return count;
}
