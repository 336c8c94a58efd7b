import { Fault, fault } from "@ultracloud/base";
import type { Refusal } from "@ultracloud/raft";

/** A refusal of the driver as callers see it; `url` is the leader's client address, when known. */
export function refusalFault(group: number, { refused, leader, reason }: Refusal, url: string | undefined): Fault {
  const hint = url === undefined ? {} : { leaderHint: url };
  switch (refused) {
    case "not_leader":
      return fault(
        "unavailable",
        "not_leader",
        `Cannot serve group ${group} here: replica ${leader || "unknown"} leads`,
        { retryAfterMs: 50, ...hint },
      );
    case "transferring":
      return fault("unavailable", "leader_changing", `Cannot serve group ${group} yet: its leader is changing`, {
        retryAfterMs: 50,
        ...hint,
      });
    case "uncommitted_full":
      return fault(
        "resource_exhausted",
        "too_many_proposals",
        `Cannot take more writes for group ${group}: too many wait for a quorum`,
        { retryAfterMs: 100 },
      );
    case "change_pending":
      return fault(
        "failed_precondition",
        "change_pending",
        `Cannot change the members of group ${group}: an earlier change has not come to its end`,
        { retryAfterMs: 100 },
      );
    case "unsafe_change":
      return fault("failed_precondition", "unsafe_change", `Cannot change the members of group ${group}: ${reason}`);
    case "superseded":
      return fault(
        "unavailable",
        "superseded",
        "Cannot say done: another leader took over and the write has no effect",
        { retryAfterMs: 50, ...hint },
      );
    case "leadership_lost":
      return fault(
        "unavailable",
        "outcome_unknown",
        "Cannot say whether the write took effect: the leader changed meanwhile, or did not answer",
        hint,
      );
    case "no_quorum":
      return fault("unavailable", "no_quorum", `Cannot read group ${group}: no quorum answers`, {
        retryAfterMs: 100,
      });
    case "stopped":
      return fault("unavailable", "stopping", "Cannot serve as this replica is stopping", hint);
  }
}

/** What a leader answers, or a call that never reached it ends with, when nothing was logged. */
const nothingLoggedCodes: ReadonlySet<string> = new Set([
  "connect_failed",
  "group_unknown",
  "leader_changing",
  "not_leader",
]);
/** The leader refuses so before it logs, and an answer of two numbers fails in none of these ways. */
const nothingLoggedKinds: ReadonlySet<string> = new Set([
  "unauthenticated",
  "permission_denied",
  "unimplemented",
  "invalid_argument",
  "failed_precondition",
  "resource_exhausted",
]);

/** True when a proposal that was forwarded certainly has no effect. */
export function nothingLogged(error: unknown): boolean {
  return error instanceof Fault && (nothingLoggedCodes.has(error.code) || nothingLoggedKinds.has(error.kind));
}
