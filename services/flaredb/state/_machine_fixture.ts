import { create, type DescMessage, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { Fault } from "@ultracloud/base";
import {
  BatchRequestSchema,
  BatchWriteRequestSchema,
  CompareAndSwapRequestSchema,
  DeleteRequestSchema,
  ExecuteRequestSchema,
  PutRequestSchema,
  type ResultSet,
  StatementSchema,
} from "@ultracloud/proto/flaredb/v1";
import { createHash } from "node:crypto";
import { encodeEntry, type EntryKind, entryKinds } from "../domain/log_entry.ts";
import { DatabaseMachine } from "./database_machine.ts";

type Init<D extends DescMessage> = MessageInitShape<D>;

/** A state machine with a log of its own, for tests: every call is an entry, and the log can be replayed. */
export class LoggedMachine implements Disposable {
  readonly machine = new DatabaseMachine({ path: ":memory:" });
  readonly log: { index: number; term: number; data: Uint8Array }[] = [];
  nowMs = 1_700_000_000_000;
  #seed = 0;

  #apply<D extends DescMessage>(kind: EntryKind, schema: D, request: Init<D>, key?: string): unknown {
    const payload = toBinary(schema, create(schema, request));
    const seed = new Uint8Array(16).fill(++this.#seed & 0xff);
    const sha256 = new Uint8Array(createHash("sha256").update(payload).digest());
    const dedupe = key === undefined ? undefined : { key, sha256 };
    const data = encodeEntry({ kind, timeMs: this.nowMs, seed, dedupe, payload });
    const entry = { index: this.log.length + 1, term: 1, data };
    this.log.push(entry);
    const [result] = this.machine.applyBatch([entry]);
    if (result instanceof Fault) throw result;
    return result;
  }

  put(request: Init<typeof PutRequestSchema>, key?: string) {
    return this.#apply(entryKinds.put, PutRequestSchema, request, key) as { version: bigint };
  }
  delete(request: Init<typeof DeleteRequestSchema>) {
    return this.#apply(entryKinds.delete, DeleteRequestSchema, request) as { existed: boolean };
  }
  cas(request: Init<typeof CompareAndSwapRequestSchema>) {
    const { compareAndSwap } = entryKinds;
    return this.#apply(compareAndSwap, CompareAndSwapRequestSchema, request) as { swapped: boolean; version: bigint };
  }
  batchWrite(request: Init<typeof BatchWriteRequestSchema>) {
    const answer = this.#apply(entryKinds.batchWrite, BatchWriteRequestSchema, request);
    return answer as { committed: boolean; failedConditions?: number[] };
  }
  sweep() {
    return this.#apply(entryKinds.sweep, PutRequestSchema, {}) as number;
  }
  execute(sql: string, init: Partial<Init<typeof StatementSchema>> = {}, key?: string): ResultSet {
    const request = { statement: { ...init, sql } } as Init<typeof ExecuteRequestSchema>;
    return (this.#apply(entryKinds.execute, ExecuteRequestSchema, request, key) as { result: ResultSet }).result;
  }
  batch(...sql: string[]): ResultSet[] {
    const request = { statements: sql.map((text) => ({ sql: text })) };
    return (this.#apply(entryKinds.batch, BatchRequestSchema, request) as { results: ResultSet[] }).results;
  }
  query(sql: string, init: Partial<Init<typeof StatementSchema>> = {}, costRowsMax = 1e9): unknown[][] {
    const statement = create(StatementSchema, { ...init, sql } as Init<typeof StatementSchema>);
    const limits = { rowsMax: 1_000, costRowsMax, tick: () => {} };
    const frozen = { timeMs: this.nowMs, seed: new Uint8Array(16).fill(9) };
    return rowsOf(this.machine.parts.effects.query(statement, frozen, limits).result);
  }

  /** A fresh machine after the same log, applied `size` entries at a time. */
  replay(size: number): DatabaseMachine {
    const machine = new DatabaseMachine({ path: ":memory:" });
    for (let i = 0; i < this.log.length; i += size) machine.applyBatch(this.log.slice(i, i + size));
    return machine;
  }

  [Symbol.dispose](): void {
    this.machine.close();
  }
}

/** Rows as plain values. */
export function rowsOf(result: { readonly rows?: readonly unknown[] }): unknown[][] {
  return (result.rows ?? []).map((row) =>
    (row as { values: { kind: { case?: string; value?: unknown } }[] }).values.map(({ kind }) =>
      kind.case === "null" ? null : kind.value
    )
  );
}
