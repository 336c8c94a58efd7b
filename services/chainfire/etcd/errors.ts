import type { Fault, FaultKind } from "@ultracloud/base";

/** gRPC's numbers, as they stand in the body. */
const grpcCodes: Readonly<Record<FaultKind, number>> = {
  cancelled: 1,
  invalid_argument: 3,
  deadline_exceeded: 4,
  not_found: 5,
  already_exists: 6,
  permission_denied: 7,
  resource_exhausted: 8,
  failed_precondition: 9,
  aborted: 10,
  out_of_range: 11,
  unimplemented: 12,
  internal: 13,
  unavailable: 14,
  data_loss: 15,
  unauthenticated: 16,
};
/** gRPC's number of a failure that has none: what etcd answers where it forgot one. */
const unknownCode = 2;
/** Failures of the way to the handler, which keep their number on every path. */
const onTheWay: ReadonlySet<FaultKind> = new Set([
  "unauthenticated",
  "permission_denied",
  "resource_exhausted",
  "unavailable",
  "unimplemented",
  "deadline_exceeded",
  "cancelled",
]);

/** HTTP status by gRPC code, as grpc-gateway maps them. */
const statuses: readonly number[] = [
  200,
  408,
  500,
  400,
  504,
  404,
  409,
  403,
  429,
  412,
  409,
  400,
  501,
  500,
  503,
  500,
  401,
];

/** etcd's sentences by our codes. Anything else keeps its own. */
const sentences: Readonly<Record<string, string>> = {
  empty_key: "etcdserver: key is not provided",
  key_not_found: "etcdserver: key not found",
  value_provided: "etcdserver: value is provided",
  lease_provided: "etcdserver: lease is provided",
  too_many_ops: "etcdserver: too many operations in txn request",
  duplicate_key: "etcdserver: duplicate key given in txn request",
  compacted: "etcdserver: mvcc: required revision has been compacted",
  future_revision: "etcdserver: mvcc: required revision is a future revision",
  no_space: "etcdserver: mvcc: database space exceeded",
  lease_not_found: "etcdserver: requested lease not found",
  lease_exists: "etcdserver: lease already exists",
  lease_ttl_too_large: "etcdserver: too large lease TTL",
  request_too_large: "etcdserver: request is too large",
  too_many_calls: "etcdserver: too many requests",
  overloaded: "etcdserver: too many requests",
  member_not_found: "etcdserver: member not found",
  member_exists: "etcdserver: Peer URLs already exists",
  member_not_learner: "etcdserver: can only promote a learner member",
  learner: "etcdserver: rpc not supported for learner",
  corrupt: "etcdserver: corrupt cluster",
  not_leader: "etcdserver: not leader",
  no_leader: "etcdserver: no leader",
  election_lost: "election: not leader",
  too_many_waiters: "etcdserver: too many requests",
  rate_exceeded: "etcdserver: too many requests",
  permission_denied: "etcdserver: permission denied",
};

/** Failures that etcd counts to another kind. */
const otherKinds: Readonly<Record<string, FaultKind>> = { member_exists: "failed_precondition" };

/** How a path numbers its failures: by their kind, or as unknown where etcd gives them no number. */
export type Numbering = "by_kind" | "unknown";

export interface EtcdFailure {
  readonly message: string;
  /** gRPC's number. */
  readonly code: number;
  /** Of HTTP. */
  readonly status: number;
}

export function etcdFailure(error: Fault, numbering: Numbering = "by_kind"): EtcdFailure {
  const code = numbering === "unknown" && !onTheWay.has(error.kind)
    ? unknownCode
    : grpcCodes[otherKinds[error.code] ?? error.kind];
  return { message: sentences[error.code] ?? error.message, code, status: statuses[code]! };
}

/** The response for a failure. */
export function failureResponse(error: Fault, numbering?: Numbering, requestId?: string): Response {
  const { message, code, status } = etcdFailure(error, numbering);
  const headers: Record<string, string> = { "content-type": "application/json" };
  if (requestId !== undefined) headers["x-request-id"] = requestId;
  const { retryAfterMs, leaderHint } = error.detail;
  if (leaderHint !== undefined) headers["x-leader"] = leaderHint;
  if (retryAfterMs !== undefined) headers["retry-after"] = String(Math.ceil(retryAfterMs / 1_000));
  return new Response(JSON.stringify({ error: message, message, code }), { status, headers });
}

/** The line for a failure behind the first line of a stream. */
export function failureLine(error: Fault, numbering?: Numbering): string {
  const { message, code, status } = etcdFailure(error, numbering);
  return JSON.stringify({ error: { grpc_code: code, http_code: status, message, http_status: statusTexts[status] } });
}

const statusTexts: Readonly<Record<number, string>> = {
  400: "Bad Request",
  401: "Unauthorized",
  403: "Forbidden",
  404: "Not Found",
  408: "Request Timeout",
  409: "Conflict",
  412: "Precondition Failed",
  429: "Too Many Requests",
  500: "Internal Server Error",
  501: "Not Implemented",
  503: "Service Unavailable",
  504: "Gateway Timeout",
};
