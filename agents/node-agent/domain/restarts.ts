import type { LaunchStatus, Template } from "./files.ts";

/** How often an instance was started again, kept beside it. */
export interface Restarts {
  readonly total: number;
  /** Ends in a row that came soon after a start. */
  readonly quick: number;
}

export const noRestarts: Restarts = { total: 0, quick: 0 };
/** Whoever ran this long was up: the next end begins a new row. */
const settledMs = 60_000;

/** What follows the end of an instance that shall run. */
export type Next =
  | { readonly kind: "restart"; readonly afterMs: number; readonly restarts: Restarts }
  | { readonly kind: "failed" }
  | { readonly kind: "done" };

export function afterEnd(
  policy: Template["restart"],
  end: Pick<LaunchStatus, "clean">,
  restarts: Restarts,
  ranMs: number,
): Next {
  if (policy.policy !== "always" && end.clean) return { kind: "done" };
  if (policy.policy === "never") return { kind: "failed" };
  const quick = ranMs >= settledMs ? 0 : restarts.quick;
  return {
    kind: "restart",
    afterMs: Math.min(policy.backoffMsMax, policy.backoffMsMin * 2 ** Math.min(quick, 20)),
    restarts: { total: restarts.total + 1, quick: quick + 1 },
  };
}
