import { assert } from "@ultracloud/base";
import { answerVote, campaign, countVote } from "./election.ts";
import { message } from "./message.ts";
import {
  type Change,
  type ChangeRefusal,
  learnerToPromote,
  leaveWhenDue,
  proposeChange,
  resign,
} from "./membership.ts";
import type { CoreDeps, CoreOptions } from "./options.ts";
import { addRead, settleReads } from "./read_index.ts";
import type { ProposeRefusal, Ready } from "./ready.ts";
import {
  broadcast,
  maybeCommit,
  quorumActive,
  sendHeartbeats,
  type SnapshotAnswer,
  startTransfer,
  takeAppend,
  takeAppendResponse,
  takeHeartbeatResponse,
  takeSnapshot,
  takeSnapshotStatus,
} from "./replication.ts";
import { type CoreStart, State } from "./state.ts";
import { answerStale, enterTerm, follow } from "./terms.ts";
import type { Configuration, Entry, Message, NodeId, PeerProgress, Role, SnapshotMeta } from "./types.ts";

const none: readonly never[] = [];

/**
 * One replica of one group, as a value machine: the same calls give the same outputs. It waits for nothing, knows no
 * time but ticks and no randomness but the given one. Inputs are `tick`, `step`, `propose`, `readIndex`,
 * `offerSnapshot` and the completions `advanceAppend` and `advanceApply`; `ready` collects the outputs.
 *
 * Two kinds of messages leave it. Those of `Ready.messages` go at once. Votes, vote requests and append answers state
 * what this replica remembers; they are held back until the write they rest on is durable, and then appear in the next
 * `ready`. The replica's own vote and own acknowledgement take the same way.
 */
export class RaftCore {
  readonly #s: State;
  #seq = 0;

  constructor(options: CoreOptions, start: CoreStart, deps: CoreDeps) {
    this.#s = new State(options, start, deps);
  }

  get id(): NodeId {
    return this.#s.id;
  }
  get term(): number {
    return this.#s.term;
  }
  get vote(): NodeId {
    return this.#s.vote;
  }
  get role(): Role {
    return this.#s.role;
  }
  /** 0 when unknown. */
  get leader(): NodeId {
    return this.#s.leader;
  }
  get commitIndex(): number {
    return this.#s.log.committed;
  }
  get appliedIndex(): number {
    return this.#s.log.applied;
  }
  get firstIndex(): number {
    return this.#s.log.firstIndex;
  }
  get lastIndex(): number {
    return this.#s.log.lastIndex;
  }
  get durableIndex(): number {
    return this.#s.log.durable;
  }
  get configuration(): Configuration {
    return this.#s.configuration;
  }
  /** True once leadership was offered to another in this term. */
  get transferOffered(): boolean {
    return this.#s.transferOffered;
  }
  /** Ticks since a leader was heard from, Infinity when none was; on a leader, since a quorum was last checked. */
  get contactTicks(): number {
    return this.#s.contactElapsed;
  }
  /** Index of the entry, or snapshot, that brought `configuration`. */
  get configurationIndex(): number {
    return this.#s.configurationIndex;
  }
  /** True when this replica alone decides: it may stand at once instead of waiting out a timeout. */
  get alone(): boolean {
    const { voters, votersOutgoing } = this.configuration;
    return voters.length === 1 && voters[0] === this.id && votersOutgoing.length === 0;
  }

  termOf(index: number): number | undefined {
    return this.#s.log.term(index);
  }

  /** What a leader knows of its peers; for status pages and checks. */
  peers(): PeerProgress[] {
    return [...this.#s.peers.values()].map(({ id, match, next, state, heardFrom }) => (
      { id, match, next, state, recentlyActive: heardFrom }
    ));
  }

  /** The point to cut the log at or to take a snapshot for; `index` is applied and not cut off. */
  metaAt(index: number): SnapshotMeta {
    const term = this.#s.log.term(index);
    assert(term !== undefined, `The term of entry ${index} was cut off`);
    return { index, term, configuration: this.#s.configurationAt(index) };
  }

  /** The durable log was cut up to `index`. */
  compacted(index: number): void {
    this.#s.forgetConfigurations(index);
  }

  tick(): void {
    const s = this.#s;
    s.electionElapsed++;
    s.contactElapsed++;
    if (s.silentTicks > 0) s.silentTicks--;
    if (s.role !== "leader") {
      // Who may not stand goes on counting: it has to know that the leader is gone when it is asked for its vote.
      if (s.promotable && s.electionElapsed >= s.electionTimeout) {
        s.electionElapsed = 0;
        campaign(s, false);
      }
      return;
    }
    if (s.electionElapsed >= s.options.electionTicks) {
      s.electionElapsed = 0;
      // Nobody to be heard by: another leader may exist already.
      if (!quorumActive(s)) {
        s.becomeFollower(s.term, 0);
        return;
      }
      s.contactElapsed = 0;
      s.transferee = 0;
    }
    if (++s.heartbeatElapsed >= s.options.heartbeatTicks) {
      s.heartbeatElapsed = 0;
      s.heartbeatDue = true;
    }
  }

  /** Stands for election without waiting for the timeout. */
  campaign(): void {
    campaign(this.#s, false);
  }

  /** Logs data under the own term. It is not decided before it comes back in `Ready.committed`. */
  propose(data: Uint8Array): { readonly index: number; readonly term: number } | ProposeRefusal {
    const s = this.#s;
    assert(data.length > 0, "A proposal carries data: the empty entry is the leader's own");
    if (s.role !== "leader") return "not_leader";
    if (s.transferee !== 0) return "transferring";
    if (s.uncommittedBytes > 0 && s.uncommittedBytes + data.length > s.options.uncommittedBytesMax) {
      return "uncommitted_full";
    }
    s.uncommittedBytes += data.length;
    const index = s.log.lastIndex + 1;
    s.push({ term: s.term, index, kind: "normal", data });
    return { index, term: s.term };
  }

  /** Logs the next configuration; see `proposeChange`. It is in force once its entry has committed. */
  proposeChange(change: Change): { readonly index: number; readonly term: number } | ChangeRefusal {
    return proposeChange(this.#s, change);
  }

  /** Makes a voter of a learner that lags by at most `lagMax` entries and is one of those that `may`, if there is one. */
  promoteLearner(lagMax: number, may?: (id: NodeId) => boolean): void {
    const id = learnerToPromote(this.#s, lagMax, may);
    if (id !== undefined) proposeChange(this.#s, { steps: [{ type: "add_voter", id }] });
  }

  /**
   * Asks for a point up to which local state is linearizable; it comes back in `Ready.reads` unless leadership changes.
   * `context` is never used twice, not even after a restart. False when no leader is known.
   */
  readIndex(context: number): boolean {
    const s = this.#s;
    if (s.role === "leader") addRead(s, s.id, context);
    else if (s.leader === 0) return false;
    else s.send(message("read_index", s.id, s.leader, s.term, 0, 0, 0, undefined, false, 0, 0, context));
    return true;
  }

  /** Hands leadership to a voter once it has caught up; given up after an election timeout. */
  transferLeader(to: NodeId): boolean {
    const s = this.#s;
    if (s.role !== "leader" || to === s.id) return false;
    startTransfer(s, to);
    return s.transferee === to;
  }

  /** A snapshot has arrived whole. `install` means that the next `ready` asks for it. */
  offerSnapshot(from: NodeId, term: number, meta: SnapshotMeta): SnapshotAnswer {
    const s = this.#s;
    if (term < s.term) return "refused";
    if (term > s.term || s.role !== "leader") follow(s, term, from);
    assert(s.role !== "leader", `Two leaders in term ${term}: ${s.id} and ${from}`);
    return takeSnapshot(s, from, meta);
  }

  step(m: Message): void {
    const s = this.#s;
    assert(Number.isSafeInteger(m.term) && Number.isSafeInteger(m.index), "Terms and indexes stay below 2^53");
    if (m.term > s.term && !enterTerm(s, m)) return;
    if (m.term < s.term) {
      answerStale(s, m);
      return;
    }
    switch (m.kind) {
      case "append":
        follow(s, m.term, m.from);
        takeAppend(s, m);
        return;
      case "heartbeat":
        follow(s, m.term, m.from);
        s.commitTo(m.commit);
        s.send(message("heartbeat_response", s.id, m.from, s.term, 0, 0, 0, undefined, false, 0, 0, m.context));
        return;
      case "pre_vote":
      case "vote":
        answerVote(s, m);
        return;
      case "pre_vote_response":
      case "vote_response":
        countVote(s, m);
        return;
      case "timeout_now":
        if (s.role === "follower") campaign(s, true);
        return;
      case "read_index_response":
        s.readStates.push({ context: m.context, index: m.index });
        return;
    }
    if (s.role !== "leader") return;
    if (m.kind === "read_index") {
      addRead(s, m.from, m.context);
      return;
    }
    const peer = s.peers.get(m.from);
    if (!peer) return;
    if (m.kind === "append_response") takeAppendResponse(s, peer, m);
    else if (m.kind === "snapshot_status") takeSnapshotStatus(s, peer, m);
    else {
      takeHeartbeatResponse(s, peer);
      s.reads.acknowledge(m.from, m.context);
      settleReads(s);
    }
  }

  /** Everything to be done since the last call; undefined when there is nothing. */
  ready(): Ready | undefined {
    const s = this.#s;
    this.#settle();
    if (s.role === "leader") {
      leaveWhenDue(s);
      if (s.stepDownDue) resign(s);
      if (s.broadcastDue) broadcast(s);
      if (s.heartbeatDue) sendHeartbeats(s);
    }
    const install = this.#install();
    const append = this.#append();
    if (s.afterAppend.length > 0) this.#holdBack();
    const committed = this.#committed();
    if (
      !install && !append && committed.length === 0 && s.outbox.length === 0 && s.snapshotsDue.length === 0 &&
      s.readStates.length === 0
    ) return undefined;
    const ready: Ready = {
      messages: s.outbox.length > 0 ? s.outbox : none,
      install,
      append,
      committed,
      snapshotsDue: s.snapshotsDue.length > 0 ? s.snapshotsDue : none,
      reads: s.readStates.length > 0 ? s.readStates.splice(0) : none,
    };
    if (s.outbox.length > 0) s.outbox = [];
    if (s.snapshotsDue.length > 0) s.snapshotsDue = [];
    return ready;
  }

  /** The write `seq`, and with it every earlier one, is durable. */
  advanceAppend(seq: number): void {
    const s = this.#s;
    let moved = false;
    while (s.writes.length > 0 && s.writes[0]!.seq <= seq) {
      const write = s.writes.shift()!;
      if (write.snapshot && write.snapshot === s.log.installing) s.log.installed(write.snapshot);
      if (write.last > s.log.durable) {
        s.log.durableTo(write.last);
        moved = true;
      }
      for (const m of write.messages) this.#release(m);
    }
    if (moved && s.role === "leader") maybeCommit(s);
  }

  /** The state machine has reached `index`. */
  advanceApply(index: number): void {
    this.#s.log.appliedTo(index);
  }

  #install(): Ready["install"] {
    const s = this.#s;
    if (!s.installDue) return undefined;
    const install = { seq: ++this.#seq, meta: s.installDue };
    s.installDue = undefined;
    s.writes.push({ seq: install.seq, last: 0, snapshot: install.meta, messages: [] });
    return install;
  }

  #append(): Ready["append"] {
    const s = this.#s;
    const voteChanged = s.term !== s.written.term || s.vote !== s.written.vote;
    if (!voteChanged && s.log.handed === s.log.lastIndex) return undefined;
    // The commit index alone is not worth a write: it is found again from the log. It never covers entries of this very
    // write either: a crash that keeps the hard state and loses the entries would commit what they were to replace.
    const commit = Math.max(s.written.commit, Math.min(s.log.committed, s.log.durable));
    const hardState = voteChanged || commit !== s.written.commit ? { term: s.term, vote: s.vote, commit } : undefined;
    if (hardState) s.written = hardState;
    const entries = s.log.handOut();
    const append = { seq: ++this.#seq, hardState, entries };
    s.writes.push({
      seq: append.seq,
      last: entries.length > 0 ? s.log.lastIndex : 0,
      snapshot: undefined,
      messages: [],
    });
    return append;
  }

  /** Ties held-back messages to the last write under way; called only when there is one or nothing is to be written. */
  #holdBack(): void {
    const s = this.#s;
    const write = s.writes.at(-1);
    assert(write, "Messages are held back without a write to wait for");
    for (const m of s.afterAppend) write.messages.push(m);
    s.afterAppend = [];
  }

  /** Without a write due or under way, everything is durable: held-back messages go at once. */
  #settle(): void {
    const s = this.#s;
    while (s.afterAppend.length > 0 && s.writes.length === 0 && !this.#writeDue()) {
      const released = s.afterAppend;
      s.afterAppend = [];
      for (const m of released) this.#release(m);
    }
  }

  #writeDue(): boolean {
    const s = this.#s;
    return s.installDue !== undefined || s.log.handed !== s.log.lastIndex || s.term !== s.written.term ||
      s.vote !== s.written.vote;
  }

  #release(m: Message): void {
    if (m.to === this.#s.id) this.step(m);
    else this.#s.send(m);
  }

  #committed(): readonly Entry[] {
    const s = this.#s;
    const { log } = s;
    if (log.applying !== log.applied || log.installing) return none;
    const target = s.rules.mayApply(log.committed, log.durable);
    if (target <= log.applying) return none;
    const entries = log.slice(log.applying + 1, target + 1, s.options.applyBytesMax);
    assert(entries && entries.length > 0, `Entry ${log.applying + 1} was cut off before it was applied`);
    log.applyingTo(entries.at(-1)!.index);
    if (s.uncommittedBytes > 0) {
      let bytes = 0;
      for (const entry of entries) bytes += entry.data.length;
      s.uncommittedBytes = Math.max(0, s.uncommittedBytes - bytes);
    }
    return entries;
  }
}
