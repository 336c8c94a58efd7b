import { type Fault, fault } from "@ultracloud/base";

/** Every rejection of the store in one place, with the codes that clients match on; kinds are etcd's. */
export const rejections = {
  emptyKey: (field: string): Fault =>
    fault("invalid_argument", "empty_key", `Cannot use an empty ${field}: wanted at least one byte`, { field }),
  fieldInvalid: (field: string, message: string): Fault =>
    fault("invalid_argument", "invalid_field", message, { field }),
  tooManyOps: (field: string, count: number, max: number): Fault =>
    fault("invalid_argument", "too_many_ops", `Cannot do ${count} operations in ${field}: wanted at most ${max}`, {
      field,
    }),
  txnTooDeep: (field: string, max: number): Fault =>
    fault("invalid_argument", "txn_too_deep", `Cannot nest ${field} any deeper: wanted at most ${max} levels`, {
      field,
    }),
  duplicateKey: (field: string): Fault =>
    fault("invalid_argument", "duplicate_key", `Cannot write the key of ${field} twice in one transaction`, { field }),
  requestTooLarge: (bytes: number, max: number): Fault =>
    fault("invalid_argument", "request_too_large", `Cannot take a request of ${bytes} bytes: wanted at most ${max}`),
  valueProvided: (field: string): Fault =>
    fault("invalid_argument", "value_provided", "Cannot put a value and keep the present one", { field }),
  leaseProvided: (field: string): Fault =>
    fault("invalid_argument", "lease_provided", "Cannot put a lease and keep the present one", { field }),
  keyNotFound: (): Fault =>
    fault("invalid_argument", "key_not_found", "Cannot keep value or lease of a key that does not exist"),
  compacted: (revision: number, compactRevision: number): Fault =>
    fault("out_of_range", "compacted", `Cannot use revision ${revision} as history starts at ${compactRevision}`, {
      metadata: { compact_revision: String(compactRevision) },
    }),
  futureRevision: (revision: number, current: number): Fault =>
    fault("out_of_range", "future_revision", `Cannot use revision ${revision} as the store is at ${current}`),
  leaseNotFound: (id: bigint): Fault => fault("not_found", "lease_not_found", `Cannot find lease ${id}`),
  leaseExists: (id: bigint): Fault =>
    fault("failed_precondition", "lease_exists", `Cannot grant lease ${id} as it exists`),
  leaseTtlTooLarge: (ttlMs: bigint, max: number): Fault =>
    fault("out_of_range", "lease_ttl_too_large", `Cannot grant a lease for ${ttlMs} ms: wanted at most ${max}`, {
      field: "ttl_ms",
    }),
  tooManyLeases: (max: number): Fault =>
    fault("resource_exhausted", "too_many_leases", `Cannot grant another lease: wanted at most ${max}`),
  noSpace: (bytes: number, max: number): Fault =>
    fault("resource_exhausted", "no_space", `Cannot write as the state has ${bytes} bytes: wanted less than ${max}`),
  diskFull: (bytes: number): Fault =>
    fault("resource_exhausted", "no_space", `Cannot write as the disk is full: ${bytes} bytes are free`),
  noSpaceAlarm: (): Fault =>
    fault("resource_exhausted", "no_space", "Cannot write while the alarm NOSPACE is raised: free space and disarm it"),
  idempotencyMismatch: (key: string): Fault =>
    fault(
      "already_exists",
      "idempotency_mismatch",
      `Cannot use idempotency key ${key} again: it belongs to another request`,
    ),
  idempotencyFull: (): Fault =>
    fault(
      "resource_exhausted",
      "idempotency_full",
      "Cannot remember another idempotency key: wanted fewer calls with one in a day",
    ),
  idempotencyTooLarge: (bytes: number, max: number): Fault =>
    fault(
      "resource_exhausted",
      "idempotency_too_large",
      `Cannot remember an answer of ${bytes} bytes: wanted at most ${max}, or a call without idempotency key`,
    ),
  sessionExpired: (id: bigint): Fault =>
    fault(
      "failed_precondition",
      "session_expired",
      `Cannot write under session ${id} as it is gone: open another one and read before writing again`,
    ),
  sequenceAnswered: (sequence: number, below: number): Fault =>
    fault(
      "failed_precondition",
      "sequence_answered",
      `Cannot answer sequence ${sequence} again: the client has said that it has all answers below ${below}`,
    ),
  sequenceMismatch: (sequence: number): Fault =>
    fault(
      "already_exists",
      "sequence_mismatch",
      `Cannot use sequence ${sequence} again: it belongs to another request`,
    ),
  sessionFull: (max: number): Fault =>
    fault(
      "resource_exhausted",
      "session_full",
      `Cannot keep another answer of the session: wanted at most ${max} above answered_below`,
    ),
  sessionsFull: (max: number): Fault =>
    fault(
      "resource_exhausted",
      "sessions_full",
      `Cannot keep another answer: those of all sessions have ${max} bytes, wanted higher answered_below`,
    ),
  quotaExceeded: (what: string, namespace: string, actual: number, max: number): Fault =>
    fault(
      "resource_exhausted",
      "quota_exceeded",
      `Cannot use more of namespace ${namespace}: it would have ${actual} ${what}, wanted at most ${max}`,
      { metadata: { namespace, what } },
    ),
  rateExceeded: (namespace: string, max: number, retryAfterMs: number): Fault =>
    fault(
      "resource_exhausted",
      "rate_exceeded",
      `Cannot write to namespace ${namespace} now: wanted at most ${max} writes a second`,
      { retryAfterMs, metadata: { namespace, what: "writes" } },
    ),
  quotaNotFound: (namespace: string): Fault =>
    fault("not_found", "quota_not_found", `Cannot find a quota of namespace ${namespace}`),
  tooManyQuotas: (max: number): Fault =>
    fault("resource_exhausted", "too_many_quotas", `Cannot set another quota: wanted at most ${max}`),
  memberNotFound: (id: number): Fault => fault("not_found", "member_not_found", `Cannot find member ${id}`),
  memberIdUsed: (id: number): Fault =>
    fault("failed_precondition", "member_id_used", `Cannot add member ${id}: the id was used before`),
  tooManyMembers: (max: number): Fault =>
    fault("resource_exhausted", "too_many_members", `Cannot add another member: wanted at most ${max}`),
  tooManyWaiters: (max: number): Fault =>
    fault("resource_exhausted", "too_many_waiters", `Cannot wait here: wanted at most ${max} waiting calls`, {
      retryAfterMs: 1_000,
    }),
  watchIdTaken: (id: bigint, field: string): Fault =>
    fault("already_exists", "watch_id_taken", `Cannot use watch id ${id} twice in a stream`, { field }),
  watchNotFound: (id: bigint): Fault => fault("not_found", "watch_not_found", `Cannot find watch ${id} in the stream`),
  watchStreamNotFound: (id: string): Fault =>
    fault("not_found", "watch_stream_not_found", `Cannot find watch stream ${JSON.stringify(id.slice(0, 64))} here`, {
      field: "stream_id",
    }),
  tooManyWatches: (max: number): Fault =>
    fault("resource_exhausted", "too_many_watches", `Cannot watch more: wanted at most ${max}`),
} as const;
