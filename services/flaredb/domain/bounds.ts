import { assert } from "@ultracloud/base";

/**
 * Bounds that are part of the replicated state machine: every replica of a cluster must use the same values, so none
 * of them is configuration.
 */

const mib = 1024 * 1024;

/** One request, and so one log entry: what fits one append message and one answer in memory. */
export const requestBytesMax = 16 * mib;
/** Bytes of a key: an interior page of the tree still holds several. */
export const keyBytesMax = 1024;
/** Writes and conditions of one batch, each. */
export const batchOpsMax = 10_000;
/** Statements of one SQL batch. */
export const statementsMax = 1_000;
/** Characters of one SQL text. */
export const sqlCharsMax = 1 * mib;
/** Characters of a pattern of LIKE and GLOB. */
export const likePatternMax = 1_000;
/** Parameters of one statement (SQLite's own bound). */
export const parametersMax = 32_766;
/** Rows one statement of a replicated entry may return (RETURNING). */
export const entryRowsMax = 10_000;
/** Rows that a query may ask for; its bytes are bounded too. */
export const queryRowsMax = 100_000;
export const queryRowsDefault = 10_000;
/** Bytes of rows that one answer holds. */
export const answerBytesMax = requestBytesMax;

export const scanItemsDefault = 1_000;
export const scanItemsMax = 10_000;
export const pageBytesDefault = 4 * mib;
export const pageBytesMax = requestBytesMax;

/** Changes kept for watches that resume: minutes of a busy service. */
export const changesCountMax = 100_000;
export const changesBytesMax = 64 * mib;
/** Buckets with a quota: each is a counter in memory. */
export const quotasMax = 1_000;
/** Tables that one batch may expect not to have changed. */
export const expectedMax = 1_000;
/** Queries that one batch may expect to answer the same. */
export const expectedResultsMax = 100;
/** Entries kept for incremental backups; who takes them too seldom needs a full one. */
export const archiveBytesMax = 256 * mib;
/** Backups remembered. */
export const backupsMax = 1_000;
/** Webhooks of one database: each reads its changes on its own. */
export const webhooksPerDatabaseMax = 16;
/** Webhooks of all databases: the deliverer follows each in a stream. */
export const webhooksMax = 1_000;
/** Tables that a webhook may name. */
export const webhookTablesMax = 32;
/** Migrations of one database, and statements of one of them. */
export const migrationsMax = 10_000;
/** Expired keys that one sweep entry removes; a bound on how long one entry takes. */
export const sweepKeysMax = 1_000;

/** Stored answers of calls with an idempotency key. */
export const dedupeCountMax = 100_000;
export const dedupeBytesMax = 64 * mib;
export const dedupeTtlMs = 24 * 3_600_000;

/** Longest time to live: a century; keeps sums below 2^53. */
export const ttlMsMax = 100 * 365 * 24 * 3_600_000;

assert(changesBytesMax >= requestBytesMax, "One entry's changes must fit the change table");
assert(dedupeBytesMax >= answerBytesMax, "One answer must fit the table of stored answers");
