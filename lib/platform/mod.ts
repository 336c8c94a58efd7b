/**
 * What every service keeps in flaredb and does over it: records with names and ids, optimistic transactions,
 * idempotency keys, operations run by sagas, ordered events, and leadership through chainfire.
 */
export { allocate, claim, forget, type NumberPool, poolHolders, release } from "./allocate.ts";
export { type EventViews, watchRecords } from "./events.ts";
export { flaredbBackend, type FlaredbClients } from "./flaredb_kv.ts";
export { answerTtlMs, type Idempotency, idempotencyOf } from "./idempotency.ts";
export * from "./kv.ts";
export { type LeaderClients, type LeaderOptions, leadWhile } from "./leader.ts";
export { memoryBackend } from "./memory_kv.ts";
export { applyMask, maskedFields, toMeta } from "./meta.ts";
export {
  isOver,
  type OperationFailure,
  type OperationRow,
  Operations,
  type OperationTarget,
  type PackedMessage,
  packMessage,
  toOperation,
} from "./operations.ts";
export { chainfireLeases, localLeases, type NodeLeases } from "./node_leases.ts";
export { makePageToken, type Page, pageFilter, type PageInput, pageSizeOf, readPageToken } from "./pages.ts";
export {
  openPlatform,
  type Platform,
  type PlatformDeps,
  type PlatformOptions,
  type TransactOptions,
} from "./platform.ts";
export { RecordCache } from "./record_cache.ts";
export { buckets, decodeRecord, defineKind, type Kind, looksLikeId, notFound, type StoredRecord } from "./records.ts";
export { projectScope, resourceScope } from "./scopes.ts";
export { type Saga, SagaRunner, type SagaStep, type StepContext } from "./sagas.ts";
export { runBackground, superviseStore } from "./supervise.ts";
export { type NewRecord, type RecordChange, Tx } from "./transaction.ts";
