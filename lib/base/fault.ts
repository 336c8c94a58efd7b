/** The classes of failure a caller can tell apart; one per Connect code that UltraCloud uses. */
export type FaultKind =
  | "invalid_argument"
  | "failed_precondition"
  | "aborted"
  | "unavailable"
  | "not_found"
  | "already_exists"
  | "unauthenticated"
  | "permission_denied"
  | "resource_exhausted"
  | "deadline_exceeded"
  | "cancelled"
  | "out_of_range"
  | "unimplemented"
  | "data_loss"
  | "internal";

export interface FaultDetail {
  /** Dotted JSON path of the request field at fault. */
  readonly field?: string;
  /** How long to wait before trying again. */
  readonly retryAfterMs?: number;
  /** Address of the replica that can answer. */
  readonly leaderHint?: string;
  /** Plain facts for programs; never secrets. */
  readonly metadata?: Readonly<Record<string, string>>;
  readonly cause?: unknown;
}

/**
 * A failure that may happen and that the caller can act on. `code` is stable and machine readable
 * (`vm_not_found`), `message` follows the grammar action + actual + wanted. lib/rpc translates it to the wire;
 * everything that is not a Fault reaches callers as a bare internal error.
 */
export class Fault extends Error {
  override readonly name = "Fault";
  readonly kind: FaultKind;
  readonly code: string;
  readonly detail: FaultDetail;

  constructor(kind: FaultKind, code: string, message: string, detail: FaultDetail = {}) {
    super(message, detail.cause === undefined ? undefined : { cause: detail.cause });
    this.kind = kind;
    this.code = code;
    this.detail = detail;
  }
}

/** Shorthand used at throw sites: `throw fault("not_found", "vm_not_found", "Cannot find VM web in acme/prod")`. */
export function fault(kind: FaultKind, code: string, message: string, detail: FaultDetail = {}): Fault {
  return new Fault(kind, code, message, detail);
}

/** An invalid_argument fault that points at a field. */
export function invalidField(field: string, message: string, code = "invalid_field"): Fault {
  return new Fault("invalid_argument", code, message, { field });
}
