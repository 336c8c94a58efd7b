import { Code, ConnectError } from "@connectrpc/connect";
import { create } from "@bufbuild/protobuf";
import { Fault, type FaultDetail, type FaultKind } from "@ultracloud/base";
import { type ErrorDetail, ErrorDetailSchema } from "@ultracloud/proto/common/v1";

/** The one table between failures and Connect codes. */
export const codeOf = {
  invalid_argument: Code.InvalidArgument,
  failed_precondition: Code.FailedPrecondition,
  aborted: Code.Aborted,
  unavailable: Code.Unavailable,
  not_found: Code.NotFound,
  already_exists: Code.AlreadyExists,
  unauthenticated: Code.Unauthenticated,
  permission_denied: Code.PermissionDenied,
  resource_exhausted: Code.ResourceExhausted,
  deadline_exceeded: Code.DeadlineExceeded,
  cancelled: Code.Canceled,
  out_of_range: Code.OutOfRange,
  unimplemented: Code.Unimplemented,
  data_loss: Code.DataLoss,
  internal: Code.Internal,
} as const satisfies Record<FaultKind, Code>;

const kindOf = new Map<Code, FaultKind>(
  Object.entries(codeOf).map(([kind, code]) => [code, kind as FaultKind]),
);

/**
 * A failure that a callee answered with. When it escapes a handler, the caller sees it only if the kind means the
 * same to it; what the callee thinks of our credentials or arguments is our bug, not the caller's.
 */
export class RemoteFault extends Fault {
  /** The callee's own id of the failed call. */
  readonly remoteRequestId: string;
  constructor(kind: FaultKind, code: string, message: string, detail: FaultDetail, remoteRequestId: string) {
    super(kind, code, message, detail);
    this.remoteRequestId = remoteRequestId;
  }
}

const ownBug: ReadonlySet<FaultKind> = new Set([
  "unauthenticated",
  "permission_denied",
  "invalid_argument",
  "unimplemented",
  "out_of_range",
  "internal",
]);

/** What the caller may see of a failure; undefined when that is nothing but "internal error". */
export function visibleFault(error: unknown): Fault | undefined {
  if (!(error instanceof Fault) || error.kind === "internal") return undefined;
  if (error instanceof RemoteFault) {
    if (ownBug.has(error.kind)) return undefined;
    // A leader hint of the callee means nothing to our caller.
    const { leaderHint: _, ...detail } = error.detail;
    return new Fault(error.kind, error.code, error.message, detail);
  }
  return error;
}

/** The same, with a bare internal error in the place of what must stay hidden. */
export function shownFault(error: unknown): Fault {
  return visibleFault(error) ?? new Fault("internal", "internal", "internal error");
}

/** The error as it goes on the wire, with its ErrorDetail. Pure; whoever calls it logs what it hides. */
export function toConnectError(error: unknown, requestId: string): ConnectError {
  const visible = visibleFault(error);
  if (visible === undefined) {
    return new ConnectError("internal error", Code.Internal, undefined, [
      { desc: ErrorDetailSchema, value: { code: "internal", requestId } },
    ]);
  }
  const { field, retryAfterMs, leaderHint, metadata } = visible.detail;
  return new ConnectError(visible.message, codeOf[visible.kind], undefined, [{
    desc: ErrorDetailSchema,
    value: {
      code: visible.code,
      field: field ?? "",
      requestId,
      retryAfterMs: BigInt(Math.max(0, Math.ceil(retryAfterMs ?? 0))),
      leaderHint: leaderHint ?? "",
      metadata: { ...metadata },
    },
  }]);
}

/** The ErrorDetail of a failed call; undefined when the callee sent none. */
export function detailOf(error: unknown): ErrorDetail | undefined {
  if (error instanceof RemoteFault) {
    const { field, retryAfterMs, leaderHint, metadata } = error.detail;
    return create(ErrorDetailSchema, {
      code: error.code,
      field: field ?? "",
      requestId: error.remoteRequestId,
      retryAfterMs: BigInt(retryAfterMs ?? 0),
      leaderHint: leaderHint ?? "",
      metadata: { ...metadata },
    });
  }
  return error instanceof ConnectError ? error.findDetails(ErrorDetailSchema)[0] : undefined;
}

/** The typed error of a failed call. A Fault stays itself; anything unknown becomes an internal fault. */
export function toFault(error: unknown): Fault {
  if (error instanceof Fault) return error;
  if (error instanceof ConnectError) {
    // The deadline and abort reasons of our own side arrive as causes.
    if (error.cause instanceof Fault) return error.cause;
    const kind = kindOf.get(error.code) ?? "internal";
    const detail = detailOf(error);
    return new RemoteFault(kind, detail?.code || kind, error.rawMessage || kind, {
      ...(detail?.field ? { field: detail.field } : {}),
      ...(detail?.retryAfterMs ? { retryAfterMs: Number(detail.retryAfterMs) } : {}),
      ...(detail?.leaderHint ? { leaderHint: detail.leaderHint } : {}),
      ...(detail !== undefined && Object.keys(detail.metadata).length > 0 ? { metadata: detail.metadata } : {}),
      cause: error,
    }, detail?.requestId ?? "");
  }
  if (error instanceof DOMException && error.name === "TimeoutError") {
    return new Fault("deadline_exceeded", "deadline_exceeded", "Cannot finish in time", { cause: error });
  }
  if (error instanceof DOMException && error.name === "AbortError") {
    return new Fault("cancelled", "cancelled", "Cannot finish as the caller left", { cause: error });
  }
  return new Fault("internal", "internal", error instanceof Error ? error.message : String(error), { cause: error });
}
