import type { RegisterOperation } from "./history.ts";
import { bitOf, noBits, type Words, wordsFor } from "./linearize_words.ts";

/** All operations of unknown outcome that do the same: `from` is undefined for a write. */
export interface Spare {
  readonly from: number | undefined;
  readonly to: number;
  /** How many there are in all. */
  count: number;
  /** Place of the first call in the order of all calls and returns. */
  readonly firstCalledAt: number;
}

/** An operation that returned, in the terms of the search. Values are numbers from 0, in the order they came up. */
export interface Task {
  readonly kind:
    | "read"
    /** A compare that failed: it saw anything but `sees`. */
    | "not"
    | "write"
    | "cas";
  /** What it saw; -1 for a write. */
  readonly sees: number;
  /** What it left; -1 when it left nothing. */
  readonly leaves: number;
  /** The same for all that do the same. */
  readonly alike: number;
  /** Places in the order of all calls and returns. */
  calledAt: number;
  returnsAt: number;
  /** Its bit among the tasks that are open at the same time: the word it is in, and where there. */
  word: number;
  mask: number;
}

/** What happens at one point of time, and what may be taken then. */
export interface Step {
  readonly at: number;
  readonly place: number;
  /** Returns here; undefined at a call. */
  readonly due: Task | undefined;
  /** Called and not returned, `due` included; the first to return stands first. */
  readonly open: readonly Task[];
  /** Bits of open writes. */
  readonly writes: Words;
  /** Bits of open swaps. */
  readonly swaps: Words;
  /** How many spare operations of each kind were called by then. */
  readonly there: Int32Array;
}

/** What the search goes through. */
export interface Course {
  readonly steps: readonly Step[];
  readonly tasks: readonly Task[];
  readonly spares: readonly Spare[];
  /** How many values there are, and how many kinds of tasks. */
  readonly values: number;
  readonly alikes: number;
  /** The value that a register starts as. */
  readonly start: number;
  /** Words that hold a bit of each task that is open at a time. */
  readonly words: number;
}

interface Moment {
  readonly at: number;
  readonly returns: boolean;
  readonly task?: Task;
  readonly spare?: { readonly from: number | undefined; readonly to: number };
}

/** Operations on one register as calls and returns in time order. */
export function courseOf(operations: readonly RegisterOperation[]): Course {
  const values = new Map<number, number>(), alikes = new Map<string, number>();
  const numberOf = (value: number) => numbered(values, value);
  const start = numberOf(0);
  const moments: Moment[] = [];
  for (const { action, invokedAt, returnedAt } of operations) {
    if (returnedAt !== Infinity) {
      const task = taskOf(action, numberOf, alikes);
      moments.push({ at: invokedAt, returns: false, task }, { at: returnedAt, returns: true, task });
    } else if (action.kind === "write") {
      moments.push({ at: invokedAt, returns: false, spare: { from: undefined, to: numberOf(action.value) } });
    } else if (action.kind === "cas" && action.expected !== action.value) {
      // Without an answer a read says nothing, and neither does a swap of a value with itself.
      const spare = { from: numberOf(action.expected), to: numberOf(action.value) };
      moments.push({ at: invokedAt, returns: false, spare });
    }
  }
  // At the same instant calls come first: overlapping operations may take either order.
  moments.sort((a, b) => a.at === b.at ? Number(a.returns) - Number(b.returns) : a.at < b.at ? -1 : 1);
  const { spares, kindOf } = sparesOf(moments);
  const { tasks, words } = placeTasks(moments);
  let there = new Int32Array(spares.length);
  const steps: Step[] = [];
  let open: Task[] = [];
  for (const [place, { task, spare, returns }] of moments.entries()) {
    if (spare) {
      there = there.slice();
      there[kindOf(spare)]!++;
      continue;
    }
    if (!returns) open = [...open, task!].sort((a, b) => a.returnsAt - b.returnsAt);
    const writes = noBits(words), swaps = noBits(words);
    for (const { kind, word, mask } of open) {
      if (kind === "write") writes[word]! |= mask;
      else if (kind === "cas") swaps[word]! |= mask;
    }
    const due = returns ? task : undefined;
    steps.push({ at: steps.length, place, due, open, writes, swaps, there });
    if (returns) open = open.filter((other) => other !== task);
  }
  return { steps, tasks, spares, values: values.size, alikes: alikes.size, start, words };
}

function numbered<K>(known: Map<K, number>, key: K): number {
  let number = known.get(key);
  if (number === undefined) known.set(key, number = known.size);
  return number;
}

function sparesOf(moments: readonly Moment[]) {
  const kinds = new Map<string, number>();
  const spares: Spare[] = [];
  const kindOf = ({ from, to }: { readonly from: number | undefined; readonly to: number }) =>
    numbered(kinds, `${from}>${to}`);
  for (const [firstCalledAt, { spare }] of moments.entries()) {
    if (!spare) continue;
    const kind = kindOf(spare);
    (spares[kind] ??= { ...spare, count: 0, firstCalledAt }).count++;
  }
  return { spares, kindOf };
}

/** Gives tasks their places and bits; answers how many words hold those. */
function placeTasks(moments: readonly Moment[]): { readonly tasks: Task[]; readonly words: number } {
  const tasks: Task[] = [], taken: boolean[] = [], bits = new Map<Task, number>();
  for (const [place, { task, returns }] of moments.entries()) {
    if (!task) continue;
    if (returns) {
      task.returnsAt = place;
      taken[bits.get(task)!] = false;
      continue;
    }
    let bit = taken.indexOf(false);
    if (bit < 0) bit = taken.length;
    taken[bit] = true;
    bits.set(task, bit);
    task.calledAt = place;
    ({ word: task.word, mask: task.mask } = bitOf(bit));
    tasks.push(task);
  }
  return { tasks, words: wordsFor(taken.length) };
}

function taskOf(
  action: RegisterOperation["action"],
  numberOf: (value: number) => number,
  alikes: Map<string, number>,
): Task {
  let kind: Task["kind"] = action.kind, sees = -1, leaves = -1;
  if (action.kind === "write") leaves = numberOf(action.value);
  else if (action.kind === "read") sees = numberOf(action.value);
  else {
    sees = numberOf(action.expected);
    if (!action.swapped) kind = "not";
    else if (action.expected === action.value) kind = "read";
    else leaves = numberOf(action.value);
  }
  const alike = numbered(alikes, `${kind} ${sees} ${leaves}`);
  return { kind, sees, leaves, alike, calledAt: 0, returnsAt: 0, word: 0, mask: 0 };
}
