import { message } from "./message.ts";
import { jointCommitted } from "./quorum/joint.ts";
import type { State } from "./state.ts";
import type { NodeId } from "./types.ts";

/** Reads that may wait for the first commit of a term; those beyond it ask again. */
const PARKED_MAX = 4096;

/** Starts a read on the leader, for itself or for a follower. */
export function addRead(s: State, from: NodeId, context: number): void {
  if (!s.rules.mayRead(s.log.term(s.log.committed) ?? 0, s.term)) {
    if (s.reads.parked.length < PARKED_MAX) s.reads.parked.push({ from, context });
    return;
  }
  s.reads.add(from, context, s.log.committed);
  s.heartbeatDue = true;
  settleReads(s);
}

/** The first entry of the own term has committed: the commit index is known at last. */
export function releaseParkedReads(s: State): void {
  if (s.reads.parked.length === 0 || !s.rules.mayRead(s.log.term(s.log.committed) ?? 0, s.term)) return;
  for (const { from, context } of s.reads.parked.splice(0)) addRead(s, from, context);
}

/** Answers every read whose round a quorum has confirmed; a single voter confirms itself. */
export function settleReads(s: State): void {
  if (s.reads.waiting === 0) return;
  const quorum = jointCommitted(s.configuration, (id) => id === s.id ? Infinity : s.reads.acked(id));
  for (const read of s.reads.take((position) => s.rules.readConfirmed(quorum, position))) {
    if (read.from === s.id) s.readStates.push({ context: read.context, index: read.index });
    else {
      s.send(
        message("read_index_response", s.id, read.from, s.term, 0, read.index, 0, undefined, false, 0, 0, read.context),
      );
    }
  }
  if (s.reads.waiting === 0) s.heartbeatDue = false;
}
