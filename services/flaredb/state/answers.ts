import type { GenMessage } from "@bufbuild/protobuf/codegenv2";
import {
  BatchResponseSchema,
  BatchWriteResponseSchema,
  BucketSchema,
  CompareAndSwapResponseSchema,
  DatabaseSettingsSchema,
  DeleteResponseSchema,
  ExecuteResponseSchema,
  MigrateResponseSchema,
  PutResponseSchema,
} from "@ultracloud/proto/flaredb/v1";
import { entryKinds } from "../domain/log_entry.ts";

// deno-lint-ignore no-explicit-any -- any message type; the kind decides which
export type AnyMessage = GenMessage<any>;

/** What an entry answers with, by its kind; sweeps answer to nobody. */
export const answers: Readonly<Record<number, AnyMessage>> = {
  [entryKinds.put]: PutResponseSchema,
  [entryKinds.delete]: DeleteResponseSchema,
  [entryKinds.compareAndSwap]: CompareAndSwapResponseSchema,
  [entryKinds.batchWrite]: BatchWriteResponseSchema,
  [entryKinds.execute]: ExecuteResponseSchema,
  [entryKinds.batch]: BatchResponseSchema,
  [entryKinds.checkedBatch]: BatchResponseSchema,
  [entryKinds.setQuota]: BucketSchema,
  [entryKinds.transaction]: BatchResponseSchema,
  [entryKinds.checkedTransaction]: BatchResponseSchema,
  [entryKinds.settings]: DatabaseSettingsSchema,
  [entryKinds.migrate]: MigrateResponseSchema,
};
