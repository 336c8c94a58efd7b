import { fromBinary } from "@bufbuild/protobuf";
import { Fault, fault } from "@ultracloud/base";
import {
  type BatchRequest,
  BatchRequestSchema,
  type ExecuteRequest,
  ExecuteRequestSchema,
  LoggedMigrationsSchema,
  LoggedTransactionSchema,
} from "@ultracloud/proto/flaredb/v1";
import { type Entry, entryKinds } from "../domain/log_entry.ts";
import type { Migrations } from "./migrations.ts";
import type { SqlEffects } from "./sql_effects.ts";

interface SqlState {
  readonly effects: SqlEffects;
  readonly migrations: Migrations;
  /** Replicated time. */
  readonly timeMs: number;
  readonly index: number;
}

/**
 * The effect of an entry that holds statements: its answer, or the Fault that refuses it. `request` is what the payload was
 * read as, where that is known.
 */
export function sqlEffect(
  { kind, payload, seed }: Entry,
  { effects, migrations, timeMs, index }: SqlState,
  request: object | undefined,
): unknown {
  const frozen = { timeMs, seed };
  const listed = (i: number) => `statements[${i}]`;
  switch (kind) {
    case entryKinds.execute: {
      const { statement } = request as ExecuteRequest | undefined ?? fromBinary(ExecuteRequestSchema, payload);
      const results = effects.apply(index, frozen, [statement!], {}, () => "statement");
      return results instanceof Fault ? results : { result: results[0]!, index: BigInt(index) };
    }
    case entryKinds.checkedBatch:
    case entryKinds.batch: {
      const { statements, expected, expectedResults } = request as BatchRequest | undefined ??
        fromBinary(BatchRequestSchema, payload);
      const results = effects.apply(index, frozen, statements, { expected, expectedResults }, listed);
      return results instanceof Fault ? results : { results, index: BigInt(index) };
    }
    case entryKinds.checkedTransaction:
    case entryKinds.transaction: {
      const logged = fromBinary(LoggedTransactionSchema, payload);
      const { expected, digests } = logged;
      const rehearsed = { timeMs: Number(logged.timeMs), seed: logged.seed };
      const results = effects.apply(index, rehearsed, logged.statements, { expected, digests }, listed);
      return results instanceof Fault ? results : { results, index: BigInt(index) };
    }
    case entryKinds.migrate:
      return migrations.apply(index, frozen, fromBinary(LoggedMigrationsSchema, payload));
    default:
      throw fault("data_loss", "entry_misplaced", `Cannot apply an entry of kind ${kind} as statements`);
  }
}
