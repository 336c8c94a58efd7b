/** What a client did to one register. A register starts as 0. */
export type RegisterAction =
  | { readonly kind: "write"; readonly value: number }
  | { readonly kind: "read"; readonly value: number }
  | { readonly kind: "cas"; readonly expected: number; readonly value: number; readonly swapped: boolean };

/** An action with the span in which it took effect; an unknown outcome has no end and may also never have happened. */
export interface RegisterOperation {
  readonly key: string;
  readonly action: RegisterAction;
  readonly invokedAt: number;
  /** Infinity when the outcome is unknown. */
  readonly returnedAt: number;
}

/** Keys whose operations have no order that explains them; empty when the history is linearizable. */
export function checkLinearizable(history: readonly RegisterOperation[]): string[] {
  // Registers are independent: a history is linearizable when each key's part is (P-compositionality).
  const byKey = new Map<string, RegisterOperation[]>();
  for (const operation of history) {
    // A read without an answer says nothing.
    if (operation.action.kind === "read" && operation.returnedAt === Infinity) continue;
    const list = byKey.get(operation.key);
    if (list) list.push(operation);
    else byKey.set(operation.key, [operation]);
  }
  return [...byKey].filter(([, operations]) => !linearizable(operations)).map(([key]) => key);
}

/** One call or return in time order, doubly linked so that a linearized operation is lifted out in place. */
interface Moment {
  readonly id: number;
  readonly operation: RegisterOperation;
  /** The return that belongs to a call; undefined on returns. */
  match: Moment | undefined;
  prev: Moment | undefined;
  next: Moment | undefined;
}

/**
 * Wing and Gong's search with Lowe's memory: take any operation that may come first, and go back when a return is
 * reached whose operation has not been taken. A pair (taken set, register value) is never explored twice.
 */
function linearizable(operations: readonly RegisterOperation[]): boolean {
  const head = link(operations);
  const taken = new Uint32Array(Math.ceil(operations.length / 32));
  const seen = new Set<string>();
  const stack: { call: Moment; value: number }[] = [];
  let value = 0;
  // Operations of unknown outcome may stay out: done when all others are taken.
  let left = operations.filter(({ returnedAt }) => returnedAt !== Infinity).length;
  let at = head.next;
  while (left > 0) {
    if (at?.match) {
      const next = apply(at.operation, value);
      if (next !== undefined) {
        taken[at.id >> 5]! |= 1 << (at.id & 31);
        const state = taken.join() + "/" + next;
        if (!seen.has(state)) {
          seen.add(state);
          stack.push({ call: at, value });
          value = next;
          if (at.operation.returnedAt !== Infinity) left--;
          lift(at);
          at = head.next;
          continue;
        }
        taken[at.id >> 5]! &= ~(1 << (at.id & 31));
      }
      at = at.next;
      continue;
    }
    const last = stack.pop();
    if (!last) return false;
    value = last.value;
    taken[last.call.id >> 5]! &= ~(1 << (last.call.id & 31));
    if (last.call.operation.returnedAt !== Infinity) left++;
    unlift(last.call);
    at = last.call.next;
  }
  return true;
}

/** The register after the operation; undefined when the operation cannot have happened on `value`. */
function apply({ action, returnedAt }: RegisterOperation, value: number): number | undefined {
  if (action.kind === "write") return action.value;
  if (action.kind === "read") return action.value === value ? value : undefined;
  const swaps = action.expected === value;
  if (returnedAt !== Infinity && swaps !== action.swapped) return undefined;
  return swaps ? action.value : value;
}

function link(operations: readonly RegisterOperation[]): Moment {
  const moments: { at: number; isReturn: boolean; moment: Moment }[] = [];
  operations.forEach((operation, id) => {
    const back: Moment = { id, operation, match: undefined, prev: undefined, next: undefined };
    const call: Moment = { id, operation, match: back, prev: undefined, next: undefined };
    moments.push({ at: operation.invokedAt, isReturn: false, moment: call });
    moments.push({ at: operation.returnedAt, isReturn: true, moment: back });
  });
  // At the same instant calls come first: overlapping operations may take either order.
  moments.sort((a, b) => a.at === b.at ? Number(a.isReturn) - Number(b.isReturn) : a.at < b.at ? -1 : 1);
  const head: Moment = { id: -1, operation: operations[0]!, match: undefined, prev: undefined, next: undefined };
  let tail = head;
  for (const { moment } of moments) {
    tail.next = moment;
    moment.prev = tail;
    tail = moment;
  }
  return head;
}

function lift(call: Moment): void {
  for (const moment of [call, call.match!]) {
    moment.prev!.next = moment.next;
    if (moment.next) moment.next.prev = moment.prev;
  }
}

function unlift(call: Moment): void {
  for (const moment of [call.match!, call]) {
    moment.prev!.next = moment;
    if (moment.next) moment.next.prev = moment;
  }
}
