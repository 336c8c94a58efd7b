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
export const unknownCode = 2;

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
  not_leader: "etcdserver: not leader",
  no_leader: "etcdserver: no leader",
  permission_denied: "etcdserver: permission denied",
};

/** A failure in etcd's form. `code` replaces the gRPC number where etcd has none of its own. */
export interface EtcdFailure {
  readonly status: number;
  readonly body: string;
}

export function etcdFailure(error: Fault, code = grpcCodes[error.kind]): EtcdFailure {
  const message = sentences[error.code] ?? error.message;
  const text = JSON.stringify(message);
  return { status: statuses[code]!, body: `{"error":${text},"message":${text},"code":${code}}` };
}

/** The response for a failure. */
export function failureResponse(error: Fault, requestId?: string, code?: number): Response {
  const { status, body } = etcdFailure(error, code);
  const headers: Record<string, string> = { "content-type": "application/json" };
  if (requestId !== undefined) headers["x-request-id"] = requestId;
  const { retryAfterMs } = error.detail;
  if (retryAfterMs !== undefined) headers["retry-after"] = String(Math.ceil(retryAfterMs / 1_000));
  return new Response(body, { status, headers });
}
