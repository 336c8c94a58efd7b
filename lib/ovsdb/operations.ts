import { fault } from "@ultracloud/base";
import { refusal } from "./json_rpc.ts";
import type { Atom, Value } from "./values.ts";

type Condition = readonly [column: string, operator: string, value: Value];

/** Operations of a transaction, RFC 7047 section 5.2. */
export type Operation =
  | {
    readonly op: "insert";
    readonly table: string;
    readonly row: Readonly<Record<string, Value>>;
    readonly "uuid-name"?: string;
  }
  | {
    readonly op: "select";
    readonly table: string;
    readonly where: readonly Condition[];
    readonly columns?: readonly string[];
  }
  | {
    readonly op: "update";
    readonly table: string;
    readonly where: readonly Condition[];
    readonly row: Readonly<Record<string, Value>>;
  }
  | {
    readonly op: "mutate";
    readonly table: string;
    readonly where: readonly Condition[];
    readonly mutations: readonly (readonly [column: string, mutator: string, value: Value])[];
  }
  | { readonly op: "delete"; readonly table: string; readonly where: readonly Condition[] }
  | {
    readonly op: "wait";
    readonly table: string;
    readonly where: readonly Condition[];
    readonly columns: readonly string[];
    readonly until: "==" | "!=";
    readonly rows: readonly Readonly<Record<string, Value>>[];
    readonly timeout?: number;
  }
  | { readonly op: "assert"; readonly lock: string }
  | { readonly op: "comment"; readonly comment: string };

export interface OperationResult {
  /** Of an insert. */
  readonly uuid?: Atom;
  /** Rows an update, mutate or delete touched. */
  readonly count?: number;
  /** Of a select. */
  readonly rows?: readonly Readonly<Record<string, Value>>[];
}

export interface TransactOptions {
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
}

/** Lets a transaction pass only while this client holds the lock. */
export function assertLock(lock: string): Operation {
  return { op: "assert", lock };
}

/**
 * Results of a transaction that committed, one per operation. One that did not is `ovsdb_error`, with the name of the
 * error and the index of the operation at fault (as many as there are operations: the commit itself) in its metadata.
 */
export function readResults(answer: unknown, operations: readonly Operation[]): OperationResult[] {
  if (!Array.isArray(answer)) {
    throw fault("data_loss", "ovsdb_protocol", "Cannot use the answer to a transaction: wanted an array");
  }
  const at = answer.findIndex((result) => typeof result === "object" && result !== null && "error" in result);
  if (at >= 0) {
    const operation = operations[at];
    const doing = operation === undefined
      ? "the commit"
      : `${operation.op}${"table" in operation ? ` on ${operation.table}` : ""}`;
    throw refusal(`${doing} (operation ${at})`, answer[at], { operation: String(at) });
  }
  return operations.map((_, i) => (answer[i] ?? {}) as OperationResult);
}
