import type { FaultKind } from "@ultracloud/base";

/** Exit codes of `uc`: a script can tell failures apart without reading text. */
export const exitCodes = {
  ok: 0,
  failed: 1,
  usage: 2,
  notFound: 3,
  denied: 4,
  conflict: 5,
  quota: 6,
  timeout: 7,
  unavailable: 8,
  interrupted: 130,
} as const;

const byKind: Readonly<Record<FaultKind, number>> = {
  invalid_argument: exitCodes.usage,
  failed_precondition: exitCodes.conflict,
  aborted: exitCodes.conflict,
  unavailable: exitCodes.unavailable,
  not_found: exitCodes.notFound,
  already_exists: exitCodes.conflict,
  unauthenticated: exitCodes.denied,
  permission_denied: exitCodes.denied,
  resource_exhausted: exitCodes.quota,
  deadline_exceeded: exitCodes.timeout,
  cancelled: exitCodes.interrupted,
  out_of_range: exitCodes.usage,
  unimplemented: exitCodes.failed,
  data_loss: exitCodes.failed,
  internal: exitCodes.failed,
};

export function exitCodeOf(kind: FaultKind): number {
  return byKind[kind];
}
