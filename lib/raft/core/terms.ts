import { assert } from "@ultracloud/base";
import { inLease } from "./election.ts";
import { message } from "./message.ts";
import type { State } from "./state.ts";
import type { Message, NodeId } from "./types.ts";

/** The leader of a term has shown itself. */
export function follow(s: State, term: number, leader: NodeId): void {
  assert(s.role !== "leader" || term > s.term, `Two leaders in term ${term}: ${s.id} and ${leader}`);
  if (s.role !== "follower" || s.leader !== leader || term > s.term) s.becomeFollower(term, leader);
  else s.electionElapsed = 0;
  s.contactElapsed = 0;
}

/** A message of a later term. False when it is to be ignored. */
export function enterTerm(s: State, m: Message): boolean {
  const asks = m.kind === "vote" || m.kind === "pre_vote";
  if (asks && !m.force && inLease(s)) return false;
  // A pre-vote speaks of a term that nobody has entered yet.
  if (m.kind === "pre_vote" || (m.kind === "pre_vote_response" && !m.reject)) return true;
  const leads = m.kind === "append" || m.kind === "heartbeat";
  s.becomeFollower(m.term, leads ? m.from : 0);
  return true;
}

/** A message of an earlier term: who sent it may have to learn that it is over. */
export function answerStale(s: State, m: Message): void {
  if (m.kind === "append" || m.kind === "heartbeat") {
    // Deposes a leader that does not know the term; without it a replica that was cut off could never come back.
    s.sendAfterAppend(message("append_response", s.id, m.from, s.term));
  } else if (m.kind === "pre_vote") {
    s.send(message("pre_vote_response", s.id, m.from, s.term, 0, 0, 0, undefined, true));
  }
}
