import type { Counted, State } from "./linearize_states.ts";
import type { Course, Step, Task } from "./linearize_steps.ts";
import { has } from "./linearize_words.ts";

/** Steps times values up to which looking ahead is worth its memory: far more than any history of some hundred operations. */
const CELLS_MAX = 2_000_000;

/** Per value: what tasks called later need and leave. */
interface Ahead {
  /** Swaps of the value: each needs it anew. */
  readonly swaps: Int32Array;
  /** Tasks that leave it. */
  readonly sources: Int32Array;
  /** When the first of those is called. */
  readonly sourceCalled: Float64Array;
  /** When the first returns of those that the value cannot outlast. */
  readonly ousted: Float64Array;
}

/** Reads of one value in the order of their calls, each with the first return among it and the later ones. */
interface Reads {
  readonly calledAt: number[];
  readonly firstReturn: number[];
}

/**
 * What lies ahead of each point of time, for leaving a search early: values that somebody will still need and that
 * nobody will write any more. Everything here is necessary for an order to exist, nothing is sufficient.
 */
export class Outlook {
  readonly #course: Course;
  /** Values that are needed at all, and the place of each; -1 for the others. */
  readonly #values: readonly number[];
  readonly #index: Int32Array;
  readonly #reads: readonly Reads[];
  /** Kinds of spare operations that leave each value, and the first call among them. */
  readonly #spares: readonly (readonly number[])[];
  readonly #spareCalled: Float64Array;
  readonly #ahead: readonly Ahead[];
  readonly #needs: Int32Array;
  readonly #left: Int32Array;
  readonly #deadline: Float64Array;

  constructor(course: Course) {
    this.#course = course;
    const needed = [...new Set(course.tasks.filter(needsValue).map(({ sees }) => sees))];
    // A long history of many values is one of few operations at a time, which needs no such help.
    this.#values = needed.length * course.steps.length > CELLS_MAX ? [] : needed;
    const count = this.#values.length;
    this.#index = new Int32Array(course.values).fill(-1);
    for (const [i, value] of this.#values.entries()) this.#index[value] = i;
    this.#reads = this.#values.map((value) => readsOf(course.tasks, value));
    this.#spares = this.#values.map((value) =>
      [...course.spares.keys()].filter((kind) => course.spares[kind]!.to === value)
    );
    this.#spareCalled = Float64Array.from(
      this.#spares,
      (kinds) => Math.min(Infinity, ...kinds.map((kind) => course.spares[kind]!.firstCalledAt)),
    );
    this.#needs = new Int32Array(count);
    this.#left = new Int32Array(count);
    this.#deadline = new Float64Array(count);
    this.#ahead = this.#lookAhead(course.tasks, course.steps.map(({ place }) => place));
  }

  #lookAhead(tasks: readonly Task[], moments: readonly number[]): Ahead[] {
    const count = this.#values.length;
    const latestFirst = tasks.toSorted((a, b) => b.calledAt - a.calledAt);
    let ahead: Ahead = {
      swaps: new Int32Array(count),
      sources: new Int32Array(count),
      sourceCalled: new Float64Array(count).fill(Infinity),
      ousted: new Float64Array(count).fill(Infinity),
    };
    const all: Ahead[] = [];
    let next = 0;
    for (const moment of moments.toReversed()) {
      if (next < latestFirst.length && latestFirst[next]!.calledAt > moment) {
        const { swaps, sources, sourceCalled, ousted } = ahead;
        ahead = {
          swaps: swaps.slice(),
          sources: sources.slice(),
          sourceCalled: sourceCalled.slice(),
          ousted: ousted.slice(),
        };
        while (next < latestFirst.length && latestFirst[next]!.calledAt > moment) {
          this.#add(ahead, latestFirst[next++]!);
        }
      }
      all.push(ahead);
    }
    return all.reverse();
  }

  #add({ swaps, sources, sourceCalled, ousted }: Ahead, task: Task): void {
    const { kind, sees, leaves, calledAt, returnsAt } = task;
    if (kind === "cas") swaps[this.#index[sees]!]!++;
    const left = leaves < 0 ? -1 : this.#index[leaves]!;
    if (left >= 0) {
      sources[left]!++;
      sourceCalled[left] = Math.min(sourceCalled[left]!, calledAt);
    }
    for (let i = 0; i < ousted.length; i++) {
      if (ousts(task, this.#values[i]!)) ousted[i] = Math.min(ousted[i]!, returnsAt);
    }
  }

  /** False when the state at a step, before or within it, surely leads nowhere. */
  open({ at, place, open }: Step, { value, done, hidden, spent }: State, counted: Counted): boolean {
    if (this.#values.length === 0) return true;
    const ahead = this.#ahead[at]!;
    const needs = this.#needs, left = this.#left, deadline = this.#deadline;
    needs.set(ahead.swaps);
    left.set(ahead.sources);
    deadline.fill(Infinity);
    const present = this.#index[value]!;
    let ousted = present < 0 ? Infinity : ahead.ousted[present]!;
    for (const task of open) {
      if (has(done, task)) continue;
      const { sees, leaves, returnsAt } = task;
      if (needsValue(task)) {
        const seen = this.#index[sees]!;
        if (task.kind === "cas") needs[seen]!++;
        // The first to return stands first.
        if (deadline[seen] === Infinity) deadline[seen] = returnsAt;
      }
      const leaving = leaves < 0 ? -1 : this.#index[leaves]!;
      if (leaving >= 0) left[leaving]!++;
      if (returnsAt < ousted && !has(hidden, task) && ousts(task, value)) ousted = returnsAt;
    }
    for (let i = 0; i < needs.length; i++) {
      const here = i === present ? 1 : 0;
      const spare = this.#spareCalled[i] === Infinity ? 0 : this.#spareLeft(i, spent, counted);
      if (needs[i]! > left[i]! + here + spare) return false;
      // Those for which the present value may last ask for nothing; of the others the first to return decides.
      const { calledAt, firstReturn } = this.#reads[i]!;
      const from = atMost(calledAt, here === 1 ? ousted : place);
      const later = from < firstReturn.length ? firstReturn[from]! : Infinity;
      const due = here === 1 ? later : Math.min(later, deadline[i]!);
      // What is open was called in time for anybody.
      if (due === Infinity || left[i]! > ahead.sources[i]! || ahead.sourceCalled[i]! < due) continue;
      if (spare === 0 || this.#spareCalled[i]! >= due) return false;
    }
    return true;
  }

  /** How often spare operations may still leave the value; Infinity where nobody counts. */
  #spareLeft(i: number, spent: readonly number[], { places }: Counted): number {
    let left = 0;
    for (const kind of this.#spares[i]!) {
      const place = places[kind]!;
      if (place < 0) return Infinity;
      left += this.#course.spares[kind]!.count - spent[place]!;
    }
    return left;
  }
}

/** Whether the task waits for one value; a compare that failed takes any but one. */
function needsValue({ kind }: Task): boolean {
  return kind === "read" || kind === "cas";
}

/** Whether the value cannot be there before and after the task without somebody leaving it anew. */
function ousts({ kind, sees, leaves }: Task, value: number): boolean {
  if (kind === "write") return leaves !== value;
  if (kind === "read") return sees !== value;
  return kind === "cas" || sees === value;
}

function readsOf(tasks: readonly Task[], value: number): Reads {
  const reads = tasks.filter((task) => needsValue(task) && task.sees === value)
    .toSorted((a, b) => a.calledAt - b.calledAt);
  const firstReturn = reads.map(({ returnsAt }) => returnsAt);
  for (let i = firstReturn.length - 2; i >= 0; i--) firstReturn[i] = Math.min(firstReturn[i]!, firstReturn[i + 1]!);
  return { calledAt: reads.map(({ calledAt }) => calledAt), firstReturn };
}

/** How many of the ascending numbers are at most `bound`. */
function atMost(numbers: readonly number[], bound: number): number {
  let low = 0, high = numbers.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (numbers[middle]! <= bound) low = middle + 1;
    else high = middle;
  }
  return low;
}
