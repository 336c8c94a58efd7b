import { message } from "./message.ts";
import { jointVote } from "./quorum/joint.ts";
import type { State } from "./state.ts";
import type { Message, NodeId } from "./types.ts";

const nothing = new Uint8Array(0);

/**
 * Stands for election: first asks whether it would win (pre-vote), so that a replica that was cut off does not raise
 * the term; a leader's `timeout_now` skips that, and its votes stand against leases.
 */
export function campaign(s: State, transfer: boolean): void {
  // A replica whose log is being replaced knows neither its log nor its voters.
  if (s.role === "leader" || !s.promotable || s.log.installing) return;
  if (transfer) {
    stand(s, true);
    return;
  }
  s.reset(s.term);
  s.role = "pre_candidate";
  s.votes.set(s.id, true);
  for (const id of otherVoters(s)) {
    s.send(message("pre_vote", s.id, id, s.term + 1, s.log.lastTerm, s.log.lastIndex));
  }
  settleVote(s);
}

/**
 * The real vote. Requests wait for the own write as the own vote does: a candidate that crashes after asking must
 * remember that it asked, or a late answer would elect it with a log that has lost its end.
 */
function stand(s: State, force: boolean): void {
  s.reset(s.term + 1);
  s.role = "candidate";
  s.vote = s.id;
  s.sendAfterAppend(message("vote_response", s.id, s.id, s.term));
  for (const id of otherVoters(s)) {
    s.sendAfterAppend(
      message("vote", s.id, id, s.term, s.log.lastTerm, s.log.lastIndex, 0, undefined, false, 0, 0, 0, force),
    );
  }
}

/** A leader is alive as far as this replica can tell: it stands by it. */
export function inLease(s: State): boolean {
  if (s.silentTicks > 0) return true;
  return s.leader !== 0 && s.electionElapsed < s.options.electionTicks;
}

/** Answers a vote or pre-vote of a term that is not behind. */
export function answerVote(s: State, m: Message): void {
  const pre = m.kind === "pre_vote";
  const free = s.rules.mayVote(s.vote, m.from) && (s.vote === m.from || s.leader === 0);
  const grant = (free || (pre && m.term > s.term)) &&
    s.rules.upToDate(m.logTerm, m.index, s.log.lastTerm, s.log.lastIndex);
  const kind = pre ? "pre_vote_response" : "vote_response";
  const term = grant ? m.term : s.term;
  // What is committed goes with it: the other may have to learn that one of the two votes no more.
  const { committed } = s.log;
  const answer = message(kind, s.id, m.from, term, s.log.term(committed) ?? 0, committed, 0, undefined, !grant);
  if (pre) {
    s.send(answer);
    return;
  }
  if (grant) {
    s.electionElapsed = 0;
    s.vote = m.from;
  }
  s.sendAfterAppend(answer);
}

/** Counts an answer while standing. */
export function countVote(s: State, m: Message): void {
  if (m.index > 0 && s.log.term(m.index) === m.logTerm) s.commitTo(m.index);
  if (!s.promotable && s.role !== "follower") s.becomeFollower(s.term, 0);
  const wanted = s.role === "pre_candidate" ? "pre_vote_response" : "vote_response";
  if (m.kind !== wanted || (s.role !== "pre_candidate" && s.role !== "candidate")) return;
  if (!s.votes.has(m.from)) s.votes.set(m.from, !m.reject);
  settleVote(s);
}

function settleVote(s: State): void {
  const result = jointVote(s.configuration, s.votes);
  if (result === "pending") return;
  if (result === "lost") s.becomeFollower(s.term, 0);
  else if (s.role === "pre_candidate") stand(s, false);
  else lead(s);
}

function lead(s: State): void {
  s.reset(s.term);
  s.role = "leader";
  s.leader = s.id;
  s.contactElapsed = 0;
  // Carries the commit of all earlier terms, which may not be counted by themselves.
  s.push({ term: s.term, index: s.log.lastIndex + 1, kind: "normal", data: nothing });
}

function otherVoters(s: State): NodeId[] {
  const ids = new Set([...s.configuration.voters, ...s.configuration.votersOutgoing]);
  ids.delete(s.id);
  return [...ids];
}
