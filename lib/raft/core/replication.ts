import { message } from "./message.ts";
import type { Progress } from "./progress.ts";
import { jointCommitted, jointVote } from "./quorum/joint.ts";
import { releaseParkedReads } from "./read_index.ts";
import type { State } from "./state.ts";
import type { Message, NodeId, SnapshotMeta } from "./types.ts";

/** Tells every peer what it does not know yet. */
export function broadcast(s: State): void {
  s.broadcastDue = false;
  for (const peer of s.peers.values()) {
    while (sendAppend(s, peer, peer.sentCommit < s.log.committed)) {
      // Until the window is full or the peer has everything.
    }
  }
}

/**
 * Sends the next append to a peer, an empty one only if `evenEmpty`. True when there was more than the message could
 * carry and another may follow.
 */
function sendAppend(s: State, peer: Progress, evenEmpty: boolean): boolean {
  if (peer.blocked) return false;
  const { log, options } = s;
  const before = peer.next - 1;
  const beforeTerm = log.term(before);
  const room = peer.state !== "replicate" || !peer.inflights.full;
  const entries = beforeTerm === undefined || !room
    ? undefined
    : log.slice(peer.next, log.lastIndex + 1, options.messageBytesMax);
  if (beforeTerm === undefined || (room && entries === undefined)) {
    // Its next entry is cut off. Without a sign of life a snapshot would be taken for nobody.
    if (!peer.recentActive) return false;
    peer.becomeSnapshot();
    s.snapshotsDue.push(peer.id);
    return false;
  }
  const count = entries?.length ?? 0;
  if (count === 0 && !evenEmpty) return false;
  s.send(message("append", s.id, peer.id, s.term, beforeTerm, before, log.committed, entries));
  let bytes = 0;
  for (let i = 0; i < count; i++) bytes += entries![i]!.data.length;
  peer.sent(count, before + count, bytes);
  peer.sentCommit = log.committed;
  return count > 0 && peer.state === "replicate" && !peer.paused && peer.next <= log.lastIndex;
}

export function sendHeartbeats(s: State): void {
  s.heartbeatDue = false;
  const context = s.reads.position;
  for (const peer of s.peers.values()) {
    // Never past what the peer is known to hold: it may have to be told the entries first.
    const commit = Math.min(peer.match, s.log.committed);
    s.send(message("heartbeat", s.id, peer.id, s.term, 0, 0, commit, undefined, false, 0, 0, context));
  }
}

/** Moves a leader's commit index to what a quorum holds durably. */
export function maybeCommit(s: State): boolean {
  const before = s.log.committed;
  let configuration;
  while (configuration !== s.configuration) {
    configuration = s.configuration;
    const index = jointCommitted(configuration, s.acked);
    if (index <= s.log.committed || index === Infinity) break;
    if (!s.rules.mayCommit(s.log.term(index) ?? 0, s.term)) break;
    // May bring another configuration, whose majority holds more: nobody may come to say so later.
    s.commitTo(index);
  }
  if (s.log.committed === before) return false;
  s.broadcastDue = true;
  releaseParkedReads(s);
  return true;
}

/** A follower takes an append of its leader. */
export function takeAppend(s: State, m: Message): void {
  const { log } = s;
  if (m.index < log.committed) {
    // A late message; what is committed need not be compared.
    accept(s, m.from, log.committed);
    return;
  }
  if (!s.rules.matches(m.logTerm, log.term(m.index))) {
    const hint = log.conflictBefore(m.index, m.logTerm);
    s.sendAfterAppend(
      message("append_response", s.id, m.from, s.term, 0, m.index, 0, undefined, true, hint.index, hint.term),
    );
    return;
  }
  const lastBefore = log.lastIndex;
  const removed = log.take(m.entries);
  if (removed > 0) s.removedFrom(removed);
  const kept = removed > 0 ? removed - 1 : lastBefore;
  for (const entry of m.entries) if (entry.index > kept && entry.kind === "config") s.noteConfiguration(entry);
  const last = m.index + m.entries.length;
  s.commitTo(Math.min(m.commit, last));
  accept(s, m.from, last);
}

function accept(s: State, to: NodeId, index: number): void {
  s.sendAfterAppend(message("append_response", s.id, to, s.term, 0, index));
}

/** A leader hears how an append went. */
export function takeAppendResponse(s: State, peer: Progress, m: Message): void {
  peer.recentActive = true;
  if (m.reject) {
    // Skip whole terms: the peer holds nothing of a later term than its hint at or below it.
    const next = m.rejectHintTerm > 0
      ? s.log.conflictBefore(m.rejectHintIndex, m.rejectHintTerm).index
      : m.rejectHintIndex;
    if (!peer.refuse(m.index, next)) return;
    if (peer.state === "replicate") peer.becomeProbe();
    sendAppend(s, peer, true);
    return;
  }
  const wasBlocked = peer.paused;
  if (!peer.acknowledge(m.index) && !(peer.match === m.index && peer.state === "probe")) return;
  if (peer.state === "probe") peer.becomeReplicate();
  else if (peer.state === "snapshot") {
    // Any point from which the log can go on will do; it need not be the snapshot that was sent.
    if (peer.match + 1 >= s.log.firstIndex) peer.becomeReplicate();
  } else peer.inflights.freeTo(m.index);
  if (!maybeCommit(s) && wasBlocked && peer.sentCommit < s.log.committed) sendAppend(s, peer, true);
  while (sendAppend(s, peer, false)) {
    // The window has opened.
  }
  if (peer.id === s.transferee && peer.match === s.log.lastIndex) sendTimeoutNow(s, peer.id);
}

/** A leader hears that a peer is alive and follows it. */
export function takeHeartbeatResponse(s: State, peer: Progress): void {
  peer.recentActive = true;
  peer.paused = false;
  // Something may be lost on the way; even with a full window the peer then says where it stands.
  if (peer.match < s.log.lastIndex || peer.state === "probe") sendAppend(s, peer, true);
}

/** How a snapshot went out: probe behind it, or from the start again once the peer shows itself. */
export function takeSnapshotStatus(s: State, peer: Progress, m: Message): void {
  if (peer.state !== "snapshot") return;
  peer.becomeProbe(m.reject ? peer.match + 1 : Math.max(peer.match, m.index) + 1);
  peer.paused = true;
  if (s.log.term(peer.next - 1) === undefined) peer.next = peer.match + 1;
}

/**
 * What became of an offered snapshot. install: it replaces the log. held: the log has that point, and the leader was
 * told where it stands. refused: the offer is stale, or another is being installed.
 */
export type SnapshotAnswer = "install" | "held" | "refused";

export function takeSnapshot(s: State, from: NodeId, meta: SnapshotMeta): SnapshotAnswer {
  if (meta.index <= s.log.committed) {
    accept(s, from, s.log.committed);
    return "held";
  }
  if (s.log.term(meta.index) === meta.term) {
    s.commitTo(meta.index);
    accept(s, from, meta.index);
    return "held";
  }
  // One at a time: the next offer finds the log at its point.
  if (s.log.installing) return "refused";
  s.install(meta);
  accept(s, from, meta.index);
  return "install";
}

/** Asks a peer that holds the whole log to stand at once. */
export function sendTimeoutNow(s: State, to: NodeId): void {
  s.transferOffered = true;
  s.send(message("timeout_now", s.id, to, s.term));
}

export function startTransfer(s: State, to: NodeId): void {
  const peer = s.peers.get(to);
  if (!peer || !(s.configuration.voters.includes(to))) return;
  // The time of a hand-over runs from its beginning: who asks again and again would keep the leader from ever giving it
  // up, and from looking for its quorum.
  if (s.transferee === 0) s.electionElapsed = 0;
  s.transferee = to;
  if (peer.match === s.log.lastIndex) sendTimeoutNow(s, to);
  else sendAppend(s, peer, true);
}

/** True when a quorum was heard from since the last check; starts the next one. */
export function quorumActive(s: State): boolean {
  const active = s.votes;
  active.clear();
  active.set(s.id, true);
  for (const peer of s.peers.values()) {
    active.set(peer.id, peer.recentActive);
    peer.wasActive = peer.recentActive;
    peer.recentActive = false;
  }
  const won = jointVote(s.configuration, active) === "won";
  active.clear();
  return won;
}
