import { compareBytes, unreachable } from "@ultracloud/base";
import { noBytes } from "../domain/ranges.ts";
import type { Command, Compare, DeleteOp, KeyValue, Op, OpResult, PutOp, RangeOp, TxnOp } from "../domain/types.ts";
import { rejections } from "../errors.ts";
import { checkRevision, type KeyValues } from "./key_values.ts";
import type { Leases } from "./leases.ts";
import type { Counters } from "./schema.ts";

export interface TxnState {
  readonly keys: KeyValues;
  readonly leases: Leases;
  readonly counters: Counters;
}

/**
 * Applies one operation as one revision. A rejected transaction throws after part of its writes: the caller undoes
 * them. A single put or delete throws before it writes.
 */
export function applyOp(state: TxnState, op: PutOp | DeleteOp | TxnOp): OpResult {
  const { counters } = state;
  const revision = counters.revision + 1;
  // Every comparison sees the state before the transaction, those of nested transactions too.
  const path: boolean[] = [];
  if (op.kind === "txn") {
    const chosen: Op[] = [];
    decide(state.keys, op, path, chosen);
    checkChosen(state, chosen);
  }
  return new Run(state, revision, path).op(op);
}

/** True when a command looks at more than single keys, or at keys by their lease. */
export function readsTables(command: Command | RangeOp): boolean {
  switch (command.kind) {
    case "put":
      return false;
    case "delete":
      return command.end.length > 0;
    case "txn":
      return command.compares.some((compare) => compare.end.length > 0) ||
        command.success.some(readsTables) || command.failure.some(readsTables);
    default:
      return true;
  }
}

function decide(keys: KeyValues, op: TxnOp, path: boolean[], chosen: Op[]): void {
  const holds = op.compares.every((compare) => compareHolds(keys, compare));
  path.push(holds);
  for (const inner of holds ? op.success : op.failure) {
    if (inner.kind === "txn") decide(keys, inner, path, chosen);
    else chosen.push(inner);
  }
}

/** Operations of the chosen branches are rejected by the state before the transaction, puts before ranges, as in etcd. */
function checkChosen({ keys, leases, counters }: TxnState, chosen: readonly Op[]): void {
  for (const op of chosen) {
    if (op.kind !== "put") continue;
    if ((op.ignoreValue || op.ignoreLease) && !keys.get(op.key)) throw rejections.keyNotFound();
    if (op.lease !== 0n && !leases.has(op.lease)) throw rejections.leaseNotFound(op.lease);
  }
  for (const op of chosen) if (op.kind === "range") checkRevision(op, counters);
}

class Run {
  readonly #state: TxnState;
  readonly #revision: number;
  readonly #path: boolean[];
  #next = 0;

  constructor(state: TxnState, revision: number, path: boolean[]) {
    this.#state = state;
    this.#revision = revision;
    this.#path = path;
  }

  op(op: Op): OpResult {
    switch (op.kind) {
      case "range":
        return this.#state.keys.range(op);
      case "put":
        return this.#put(op);
      case "delete":
        return this.#delete(op);
      case "txn": {
        const succeeded = this.#path[this.#next++]!;
        const results = (succeeded ? op.success : op.failure).map((inner) => this.op(inner));
        return { kind: "txn", revision: this.#state.counters.revision, succeeded, results };
      }
      default:
        return unreachable(op);
    }
  }

  /** The first write of an entry moves the store to its revision, so that later reads in it see what it wrote. */
  #write(): void {
    this.#state.counters.revision = this.#revision;
  }

  #put(op: PutOp): OpResult {
    const { keys, leases } = this.#state;
    if (op.lease !== 0n && !leases.has(op.lease)) throw rejections.leaseNotFound(op.lease);
    const before = keys.get(op.key);
    if ((op.ignoreValue || op.ignoreLease) && !before) throw rejections.keyNotFound();
    const value = op.ignoreValue ? before!.value : op.value;
    const lease = op.ignoreLease ? before!.lease : op.lease;
    keys.put(before, op.key, value, lease, this.#revision);
    this.#write();
    return { kind: "put", revision: this.#revision, prev: op.prevKv ? before : undefined };
  }

  #delete(op: DeleteOp): OpResult {
    const { keys } = this.#state;
    const found = op.end.length === 0 ? present(keys.get(op.key)) : keys.all(op);
    if (found.length > 0) this.#write();
    for (const kv of found) keys.delete(kv, this.#revision);
    const { revision } = this.#state.counters;
    return { kind: "delete", revision, deleted: found.length, prevs: op.prevKv ? found : [] };
  }
}

function present(kv: KeyValue | undefined): KeyValue[] {
  return kv ? [kv] : [];
}

const absent = (key: Uint8Array): KeyValue => ({
  key,
  value: noBytes,
  createRevision: 0,
  modRevision: 0,
  version: 0,
  lease: 0n,
});

function compareHolds(keys: KeyValues, compare: Compare): boolean {
  const found = compare.end.length > 0 ? keys.all(compare) : present(keys.get(compare.key));
  if (found.length > 0) return found.every((kv) => holdsFor(compare, kv));
  // As in etcd, a value that does not exist neither equals nor differs.
  return compare.target !== "value" && holdsFor(compare, absent(compare.key));
}

function holdsFor(compare: Compare, kv: KeyValue): boolean {
  const order = compare.target === "value"
    ? compareBytes(kv.value, compare.operand as Uint8Array)
    : Number(numberOf(compare.target, kv) - (compare.operand as bigint));
  switch (compare.result) {
    case "equal":
      return order === 0;
    case "not_equal":
      return order !== 0;
    case "greater":
      return order > 0;
    case "less":
      return order < 0;
  }
}

function numberOf(target: Exclude<Compare["target"], "value">, kv: KeyValue): bigint {
  switch (target) {
    case "version":
      return BigInt(kv.version);
    case "create":
      return BigInt(kv.createRevision);
    case "mod":
      return BigInt(kv.modRevision);
    case "lease":
      return kv.lease;
  }
}
