import { toHex } from "@ultracloud/base";
import { rejections } from "../errors.ts";
import { requestBytesMax, txnDepthMax, txnOpsMax } from "./limits.ts";
import { rangeHas } from "./ranges.ts";
import type { Command, Compare, KeyRange, Op, PutOp } from "./types.ts";

/** Refuses, before any effect, what no state could make valid. `field` is the path of `op` in the request. */
export function checkOp(op: Op, field = ""): void {
  const bytes = opBytes(op);
  if (bytes > requestBytesMax) throw rejections.requestTooLarge(bytes, requestBytesMax);
  checkShape(op, field, 1);
  if (op.kind === "txn") {
    writesOf(op.success, `${path(field, "success")}`);
    writesOf(op.failure, `${path(field, "failure")}`);
  }
}

function path(field: string, name: string): string {
  return field === "" ? name : `${field}.${name}`;
}

function checkShape(op: Op, field: string, depth: number): void {
  switch (op.kind) {
    case "put":
      return checkPut(op, field);
    case "range":
    case "delete":
      return checkKey(op.key, field);
    case "txn": {
      if (depth > txnDepthMax) throw rejections.txnTooDeep(field, txnDepthMax);
      for (const list of ["compares", "success", "failure"] as const) {
        if (op[list].length > txnOpsMax) {
          const name = list === "compares" ? "compare" : list;
          throw rejections.tooManyOps(path(field, name), op[list].length, txnOpsMax);
        }
      }
      op.compares.forEach((compare, i) => checkKey(compare.key, `${path(field, "compare")}[${i}]`));
      op.success.forEach((inner, i) => checkShape(inner, `${path(field, "success")}[${i}]`, depth + 1));
      op.failure.forEach((inner, i) => checkShape(inner, `${path(field, "failure")}[${i}]`, depth + 1));
    }
  }
}

function checkKey(key: Uint8Array, field: string): void {
  if (key.length === 0) throw rejections.emptyKey(path(field, "key"));
}

function checkPut(op: PutOp, field: string): void {
  checkKey(op.key, field);
  if (op.ignoreValue && op.value.length > 0) throw rejections.valueProvided(path(field, "value"));
  if (op.ignoreLease && op.lease !== 0n) throw rejections.leaseProvided(path(field, "lease"));
}

interface Writes {
  readonly puts: Map<string, Uint8Array>;
  readonly deletes: KeyRange[];
}

/**
 * Keys that a list may write. Refuses a key that is put twice, or put and deleted; of a nested transaction either
 * branch may run, so both count against the rest of the list but not against each other.
 */
function writesOf(ops: readonly Op[], field: string): Writes {
  const all: Writes = { puts: new Map(), deletes: [] };
  ops.forEach((op, i) => {
    const at = `${field}[${i}]`;
    if (op.kind === "range") return;
    if (op.kind === "put") return merge(all, { puts: new Map([[toHex(op.key), op.key]]), deletes: [] }, at);
    if (op.kind === "delete") return merge(all, { puts: new Map(), deletes: [op] }, at);
    const success = writesOf(op.success, `${at}.success`);
    const failure = writesOf(op.failure, `${at}.failure`);
    merge(all, {
      puts: new Map([...success.puts, ...failure.puts]),
      deletes: [...success.deletes, ...failure.deletes],
    }, at);
  });
  return all;
}

function merge(all: Writes, more: Writes, field: string): void {
  for (const [text, key] of more.puts) {
    if (all.puts.has(text) || all.deletes.some((range) => rangeHas(range, key))) throw rejections.duplicateKey(field);
  }
  for (const range of more.deletes) {
    for (const key of all.puts.values()) if (rangeHas(range, key)) throw rejections.duplicateKey(field);
  }
  for (const [text, key] of more.puts) all.puts.set(text, key);
  all.deletes.push(...more.deletes);
}

/** Bytes of keys, values and operands. */
export function opBytes(op: Op): number {
  switch (op.kind) {
    case "put":
      return op.key.length + op.value.length;
    case "range":
    case "delete":
      return op.key.length + op.end.length;
    case "txn":
      return sum(op.compares, compareBytesOf) + sum(op.success, opBytes) + sum(op.failure, opBytes);
  }
}

function compareBytesOf(compare: Compare): number {
  return compare.key.length + compare.end.length + (typeof compare.operand === "bigint" ? 8 : compare.operand.length);
}

function sum<T>(items: readonly T[], of: (item: T) => number): number {
  let total = 0;
  for (const item of items) total += of(item);
  return total;
}

/** True when the command may grow the state. */
export function grows(command: Command): boolean {
  switch (command.kind) {
    case "put":
    case "grant":
    case "open_session":
      return true;
    case "txn":
      return [...command.success, ...command.failure].some((op) => op.kind !== "range" && grows(op));
    default:
      return false;
  }
}

/** True when the operation writes nothing, whatever the state. */
export function isReadOnly(op: Op): boolean {
  if (op.kind === "range") return true;
  return op.kind === "txn" && op.success.every(isReadOnly) && op.failure.every(isReadOnly);
}
