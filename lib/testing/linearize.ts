import type { RegisterOperation } from "./history.ts";
import { Outlook } from "./linearize_outlook.ts";
import { Counted, Left, overdrafts, type State } from "./linearize_states.ts";
import { type Course, courseOf, type Step, type Task } from "./linearize_steps.ts";
import { bitCount, exceeds, has, minus, noBits, plus, without } from "./linearize_words.ts";

/**
 * Whether some order explains the operations on one register that starts as 0: every operation takes effect once
 * between its call and its return, one of unknown outcome (it never returns) after its call or not at all.
 *
 * The search goes through calls and returns in time order. An operation is taken at the latest at its return, and
 * before that only when another needs its value (Lowe's just-in-time linearization). Reads are taken as soon as they
 * fit, which never does harm. Of two states at one point of time the one that can do less is dropped, and so is one for
 * which it can be seen that a value will be needed that nobody will write any more (`Outlook`).
 *
 * Operations of unknown outcome are the costly ones, since they stay possible for ever. All that do the same are alike,
 * and at first they count as inexhaustible. When no order is found even so, there is none. An order that uses none of
 * them more often than it happened is proof of the opposite. Otherwise those that were overdrawn are counted exactly,
 * and the search begins again: what cannot matter is never counted.
 */
export function linearizable(operations: readonly RegisterOperation[]): boolean {
  const course = courseOf(operations);
  const outlook = new Outlook(course);
  let counted: readonly number[] = [];
  for (let width = 0;;) {
    const search = new Search(course, new Counted(counted, course), outlook);
    const order = search.run(width);
    if (!order) return false;
    // What found this one most likely finds the next.
    width = search.endedWidth;
    const overdrawn = overdrafts(order.uses);
    if (overdrawn.length === 0) return true;
    counted = [...counted, ...overdrawn];
  }
}

/** How many states go on from one point of time at first, and how much more at the next try. */
const WIDTH_FIRST = 64;
const WIDTH_FACTOR = 4;
/** Where there were at most this many times more, all of them go on at the next try. */
const ALL_FACTOR = 16;
/** How many states one path at a time may look at before all states of a point of time go on together, at first. */
const BUDGET_FIRST = 20_000;
const BUDGET_FACTOR = 8;
/** How much more than one path they may look at: an answer for sure needs them all. */
const BREADTH_FACTOR = 24;
/** Ways on from a state that are weighed against each other before the first is gone. */
const WEIGHED = 16;

class Search {
  readonly #steps: readonly Step[];
  readonly #course: Course;
  readonly #counted: Counted;
  readonly #outlook: Outlook;
  readonly #wanted: Uint8Array;
  readonly #offered: Uint8Array;
  /** Ways were left out. */
  #cut = false;
  /** How many states went on together when the order was found; 0 along one path. */
  endedWidth = 0;
  #width = WIDTH_FIRST;
  /** States that were looked at. */
  #looked = 0;

  constructor(course: Course, counted: Counted, outlook: Outlook) {
    this.#course = course;
    this.#steps = course.steps;
    this.#counted = counted;
    this.#outlook = outlook;
    this.#wanted = new Uint8Array(course.values);
    this.#offered = new Uint8Array(2 * course.alikes);
  }

  /**
   * The end of an order; undefined when there is none. With operations of unknown outcome there are very many states at
   * a time, and nearly all of them are good: one path soon ends well. Where it does not, the other way knows more about
   * states that can do less than others. Neither is the better one for every history, so each gets its turn, and then a
   * longer one.
   */
  run(width: number): State | undefined {
    if (!this.#alive(this.#steps[0], this.#start)) return undefined;
    if (this.#course.spares.length === 0) return this.#breadthFirst(Infinity) as State | undefined;
    if (width > 0) this.#width = width;
    for (let budget = BUDGET_FIRST, deeply = width === 0;; budget *= BUDGET_FACTOR, deeply = true) {
      const deep = deeply ? this.#depthFirst(budget) : "unknown";
      if (deep !== "unknown") return deep;
      const broad = this.#breadthFirst(budget * BREADTH_FACTOR);
      if (broad === "unknown") continue;
      this.endedWidth = this.#width;
      return broad;
    }
  }

  /** One state at a time; one that was left without success is not entered again. */
  #depthFirst(budget: number): State | undefined | "unknown" {
    const end = this.#looked + budget;
    const left = this.#steps.map((step) => new Left(step, this.#counted));
    const ways: Iterator<State>[] = [[this.#start].values()];
    while (ways.length > 0) {
      if (this.#looked > end) return "unknown";
      const next = ways.at(-1)!.next();
      if (next.done) {
        ways.pop();
        continue;
      }
      const step = this.#steps[ways.length - 1];
      if (!step) return next.value;
      if (!this.#alive(step, next.value) || !left[ways.length - 1]!.enters(next.value)) continue;
      ways.push(this.#through(step, next.value));
    }
    return undefined;
  }

  get #start(): State {
    const none = noBits(this.#course.words);
    return {
      value: this.#course.start,
      done: none,
      hidden: none,
      spent: this.#counted.kinds.map(() => 0),
      uses: undefined,
    };
  }

  /**
   * All states at one point of time go on together, so that of two the one that can do less is dropped whichever came
   * first. At first only the most promising few go on: an order is nearly always among them. Where none is found and
   * some were left out, more go on.
   */
  #breadthFirst(budget: number): State | undefined | "unknown" {
    const lookedMax = this.#looked + budget;
    for (;;) {
      const { end, complete, most } = this.#within(this.#width, lookedMax);
      if (end !== undefined || complete) return end;
      // The next turn takes this width up again.
      if (this.#looked > lookedMax) return "unknown";
      const wider = this.#width * WIDTH_FACTOR;
      this.#width = most <= this.#width * ALL_FACTOR ? Math.max(wider, most) : wider;
    }
  }

  #within(
    width: number,
    lookedMax: number,
  ): { readonly end: State | undefined; readonly complete: boolean; readonly most: number } {
    let states: readonly State[] = [this.#start];
    let complete = true, most = 0;
    this.#cut = false;
    for (const [i, step] of this.#steps.entries()) {
      const next = this.#steps[i + 1];
      // What can still differ is decided by what is open afterwards.
      const left = new Left(next ?? step, this.#counted);
      for (const state of states) {
        for (const after of this.#through(step, state, width)) if (this.#alive(next, after)) left.enters(after);
        if (this.#looked > lookedMax) return { end: undefined, complete: false, most };
      }
      states = left.states();
      most = Math.max(most, states.length);
      if (states.length <= width) continue;
      complete = false;
      const ranked = states.map((state) => ({ state, rank: rank(state) }));
      ranked.sort((a, b) => b.rank - a.rank);
      states = ranked.slice(0, width).map(({ state }) => state);
    }
    return { end: states[0], complete: complete && !this.#cut, most };
  }

  /** False when the state surely leads nowhere. */
  #alive(step: Step | undefined, state: State): boolean {
    this.#looked++;
    return step === undefined || this.#outlook.open(step, state, this.#counted);
  }

  /** Every state after the step; of very many ways only so many are tried, and `#cut` says so. */
  *#through(step: Step, state: State, waysMax = Infinity): Generator<State> {
    const { due } = step;
    if (!due) {
      yield settled(step, state);
      return;
    }
    // With the most behind it and the least used up, a state most likely goes through to the end.
    let ways: State[] = [];
    for (const after of this.#taken(step, due, state, waysMax)) {
      ways.push({ ...after, done: minus(after.done, due), hidden: minus(after.hidden, due) });
      if (ways.length < WEIGHED) continue;
      yield* ways.sort((a, b) => rank(b) - rank(a));
      ways = [];
    }
    yield* ways.sort((a, b) => rank(b) - rank(a));
  }

  /** Every state reachable from `start` in which `due` is taken, as soon as it is; those with the fewest moves first. */
  *#taken(step: Step, due: Task, start: State, waysMax: number): Generator<State> {
    const seen = new Left(step, this.#counted);
    const queue = [start];
    seen.enters(start);
    for (let i = 0; i < queue.length; i++) {
      const state = queue[i]!;
      if (has(state.done, due)) {
        yield state;
        continue;
      }
      if (has(state.hidden, due)) yield state;
      if (due.kind === "write") yield written(step, state, due.leaves, due);
      if (queue.length > waysMax) {
        this.#cut = true;
        continue;
      }
      for (const next of this.#moves(step, state)) if (this.#alive(step, next) && seen.enters(next)) queue.push(next);
    }
  }

  /** One operation more, if another needs what it leaves. A write that is due is not among them: it comes last. */
  #moves(step: Step, state: State): State[] {
    const { value, done, hidden } = state;
    const needed = this.#needed(step, state);
    const moves: State[] = [];
    // Of tasks that do the same, the one that returns first: the other can do whatever it could, and longer.
    const offered = this.#offered.fill(0);
    for (const task of step.open) {
      if (has(done, task)) continue;
      if (task.kind === "cas" && task.sees === value) {
        if (offered[2 * task.alike]!++ > 0) continue;
        moves.push(settled(step, { ...state, value: task.leaves, done: plus(done, task) }));
      } else if (task.kind === "write" && task !== step.due && needed(task.leaves)) {
        if (offered[2 * task.alike + Number(has(hidden, task))]!++ > 0) continue;
        moves.push(written(step, state, task.leaves, task));
      }
    }
    const hides = exceeds(step.writes, done, hidden);
    // Of a swap and a write that leave the same, the one that is missed less: a write that nobody counts, else the swap,
    // as a write could do the same later. Unless the write lets another one go unnoticed.
    const left = new Set<number>();
    for (const kind of this.#spares(step)) {
      const { from, to } = this.#course.spares[kind]!;
      if ((from !== undefined && from !== value) || !needed(to)) continue;
      if (left.has(to) && (from !== undefined || !hides)) continue;
      if (!this.#left(step, kind, state)) continue;
      left.add(to);
      const used = this.#used(step, state, kind);
      moves.push(from === undefined ? written(step, used, to, undefined) : settled(step, { ...used, value: to }));
    }
    return moves;
  }

  /**
   * Whether an open task, or a spare swap on the way to one, waits for a value. To write what is there already helps
   * too, when other writes can go unnoticed before it. The answer holds until the next call.
   */
  #needed(step: Step, state: State): (value: number) => boolean {
    const { value: present, done, hidden } = state;
    const wanted = this.#wanted.fill(0);
    let anyOther = false;
    for (const task of step.open) {
      if (task.kind === "write" || has(done, task)) continue;
      if (task.kind === "not") anyOther = true;
      else wanted[task.sees] = 1;
    }
    const { spares } = this.#course;
    for (let grown = true; grown;) {
      grown = false;
      for (const [kind, { from, to }] of spares.entries()) {
        if (from === undefined || wanted[from] === 1 || !(anyOther || wanted[to] === 1)) continue;
        if (!this.#left(step, kind, state)) continue;
        wanted[from] = 1;
        grown = true;
      }
    }
    const hides = exceeds(step.writes, done, hidden);
    return (value) => value === present ? hides && wanted[value] === 1 : anyOther || wanted[value] === 1;
  }

  /** Kinds of spare operations in the order in which they are spent: what nobody counts first, and swaps before writes. */
  #spares({ at, there }: Step): readonly number[] {
    const known = this.#spareOrders[at];
    if (known) return known;
    const weight = (kind: number) => {
      const counted = this.#counted.places[kind]! >= 0;
      return this.#course.spares[kind]!.from !== undefined ? counted ? 2 : 0 : counted ? 3 : 1;
    };
    const order = [...there.keys()].filter((kind) => there[kind]! > 0).sort((a, b) => weight(a) - weight(b));
    return this.#spareOrders[at] = order;
  }
  readonly #spareOrders: (readonly number[])[] = [];

  #left({ there }: Step, kind: number, { spent }: State): boolean {
    const place = this.#counted.places[kind]!;
    return place < 0 ? there[kind]! > 0 : spent[place]! < there[kind]!;
  }

  #used({ there }: Step, state: State, kind: number): State {
    const place = this.#counted.places[kind]!;
    const spent = place < 0 ? state.spent : state.spent.with(place, state.spent[place]! + 1);
    const uses = { kind, there: there[kind]!, total: (state.uses?.total ?? 0) + 1, before: state.uses };
    return { ...state, spent, uses };
  }
}

function rank({ done, uses }: State): number {
  return bitCount(done) - (uses?.total ?? 0);
}

/** The value is written, by an open task or by a spare operation; other writes may count as taken right before. */
function written(step: Step, state: State, value: number, by: Task | undefined): State {
  const done = by === undefined ? state.done : plus(state.done, by);
  return settled(step, { ...state, value, done, hidden: without(step.writes, done) });
}

/** Takes the reads that fit; a write of what is there already goes unnoticed. */
function settled(step: Step, state: State): State {
  const { value } = state;
  let { done, hidden } = state;
  for (const task of step.open) {
    const { kind } = task;
    if (kind === "read" ? task.sees === value : kind === "not" && task.sees !== value) {
      if (!has(done, task)) done = plus(done, task);
    } else if (kind === "write" && task.leaves === value && !has(done, task) && !has(hidden, task)) {
      hidden = plus(hidden, task);
    }
  }
  return done === state.done && hidden === state.hidden ? state : { ...state, done, hidden };
}
