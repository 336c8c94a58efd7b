import { type ChangeStep, isJoint, leaveJoint, nextConfiguration, type Transition } from "./change.ts";
import { encodeConfiguration } from "./configuration.ts";
import { message } from "./message.ts";
import type { Progress } from "./progress.ts";
import { broadcast, sendHeartbeats } from "./replication.ts";
import type { State } from "./state.ts";
import type { Configuration, NodeId } from "./types.ts";

/** Who is to take part from now on: steps from the present configuration, or the end of a joint one. */
export type Change =
  | { readonly steps: readonly ChangeStep[]; readonly transition?: Transition }
  | { readonly leave: true };

/** Why a change was not taken; nothing happened. `reason` says it to an operator. */
export interface ChangeRefusal {
  readonly refused: "not_leader" | "transferring" | "change_pending" | "unsafe_change";
  readonly reason?: string;
}

/** A learner may vote once it holds this share of the leader's log: with less, commits would wait for it. */
const PROMOTION_SHARE = 0.9;

/**
 * Logs the next configuration; it takes effect when its entry commits. At most one waits, and none is taken before an
 * entry of the own term has committed. Throws a failed_precondition Fault when the steps break a rule by themselves.
 */
export function proposeChange(
  s: State,
  change: Change,
): { readonly index: number; readonly term: number } | ChangeRefusal {
  if (s.role !== "leader") return { refused: "not_leader" };
  if (s.transferee !== 0 || !s.rules.mayRead(s.log.term(s.log.committed) ?? 0, s.term)) {
    return { refused: "transferring" };
  }
  const leaves = "leave" in change;
  if (!s.rules.mayChange(s.changePending, isJoint(s.configuration) && !leaves)) return { refused: "change_pending" };
  const next = leaves
    ? leaveJoint(s.configuration)
    : nextConfiguration(s.configuration, change.steps, change.transition ?? "auto");
  const reason = leaves ? undefined : danger(s, next);
  if (reason !== undefined) return { refused: "unsafe_change", reason };
  const index = s.log.lastIndex + 1;
  const data = encodeConfiguration(next);
  s.uncommittedBytes += data.length;
  s.push({ term: s.term, index, kind: "config", data });
  return { index, term: s.term };
}

/** What speaks against a configuration in the present state of its members; undefined when nothing does. */
function danger(s: State, next: Configuration): string | undefined {
  for (const id of next.voters) {
    if (!s.configuration.learners.includes(id)) continue;
    const { match } = s.peers.get(id)!;
    if (match < s.log.lastIndex * PROMOTION_SHARE) {
      return `learner ${id} holds ${match} of ${s.log.lastIndex} entries: wanted ${PROMOTION_SHARE * 100} % of them`;
    }
  }
  const before = new Set([...s.configuration.voters, ...s.configuration.votersOutgoing]);
  const goes = [...before].some((id) => !next.voters.includes(id));
  // A replica on its own cannot be joined otherwise: the second one starts only when it is a member.
  if (before.size === 1 && next.voters.length === 2 && !goes) return undefined;
  const active = next.voters.filter((id) => id === s.id || isActive(s.peers.get(id))).length;
  const quorum = Math.floor(next.voters.length / 2) + 1;
  if (active >= quorum) return undefined;
  return `only ${active} of the ${next.voters.length} voters it leaves are in touch: wanted ${quorum}`;
}

/** Heard from in this leadership, and not long ago. */
function isActive(peer: Progress | undefined): boolean {
  return peer !== undefined && peer.heardFrom && peer.match > 0;
}

/** A leader ends a joint configuration that asked for it as soon as it may. */
export function leaveWhenDue(s: State): void {
  if (s.configuration.autoLeave && isJoint(s.configuration) && !s.changePending) proposeChange(s, { leave: true });
}

/** A learner that keeps up within `lagMax` entries, if there is one among those that `may`. */
export function learnerToPromote(
  s: State,
  lagMax: number,
  may: (id: NodeId) => boolean = () => true,
): NodeId | undefined {
  if (s.role !== "leader" || s.changePending || isJoint(s.configuration)) return undefined;
  return s.configuration.learners.find((id) => {
    const peer = s.peers.get(id);
    return isActive(peer) && peer!.state === "replicate" && s.log.lastIndex - peer!.match <= lagMax && may(id);
  });
}

/** A leader that was removed says so with its last messages, and asks the voter that holds most to take over at once. */
export function resign(s: State): void {
  broadcast(s);
  sendHeartbeats(s);
  let heir: Progress | undefined;
  for (const peer of s.peers.values()) {
    if (!s.configuration.voters.includes(peer.id) || !isActive(peer)) continue;
    if (!heir || peer.match > heir.match) heir = peer;
  }
  if (heir) s.send(message("timeout_now", s.id, heir.id, s.term));
  s.becomeFollower(s.term, 0);
}
