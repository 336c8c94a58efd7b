import { assert, type Rng, uniform } from "@ultracloud/base";
import { decodeConfiguration, emptyConfiguration, isVoter, membersOf } from "./configuration.ts";
import { RaftLog } from "./log.ts";
import { message } from "./message.ts";
import { type CoreDeps, type CoreOptions, rulesOf } from "./options.ts";
import { Inflights, Progress } from "./progress.ts";
import type { AckedIndex } from "./quorum/majority.ts";
import { ReadQueue, type ReadState } from "./reads.ts";
import type { Rules } from "./rules.ts";
import type { Configuration, Entry, HardState, LogView, Message, NodeId, Role, SnapshotMeta } from "./types.ts";

/** What a core starts from: the durable log, and how far the state machine has come. */
export interface CoreStart {
  readonly view: LogView;
  readonly hardState: HardState;
  readonly base: SnapshotMeta;
  readonly appliedIndex: number;
}

/** A write that was handed out and has not been reported durable. */
interface PendingWrite {
  readonly seq: number;
  /** Last log index it makes durable; lowered when that part of the log is removed meanwhile, and never raised. */
  last: number;
  readonly snapshot: SnapshotMeta | undefined;
  /** To be sent, or stepped when addressed to this replica, once it is durable. */
  readonly messages: Message[];
}

/**
 * Everything a replica knows, and the few transitions all parts share. The parts (election, replication, reads) are
 * functions over it; `RaftCore` is the only face to the outside.
 */
export class State {
  readonly options: CoreOptions;
  readonly rules: Rules;
  readonly #rng: Rng;
  readonly id: NodeId;
  readonly log: RaftLog;

  term: number;
  vote: NodeId;
  role: Role = "follower";
  leader: NodeId = 0;

  configuration: Configuration = emptyConfiguration;
  /** Configurations in force from an index on, oldest first, back to the log's start: what a cut or a snapshot needs. */
  readonly configurations: { index: number; configuration: Configuration }[] = [];
  /** Config entries that have not committed. */
  readonly pendingConfigurations: { index: number; configuration: Configuration }[] = [];
  /** Everyone in the configuration but this replica. */
  readonly peers = new Map<NodeId, Progress>();

  readonly votes = new Map<NodeId, boolean>();
  electionElapsed = 0;
  /** Ticks since a leader of this replica showed itself; on a leader, since a quorum did. Standing for election is neither. */
  contactElapsed = Infinity;
  heartbeatElapsed = 0;
  electionTimeout = 0;
  transferee: NodeId = 0;
  /** Leadership was offered to another in this term: its votes stand against leases. */
  transferOffered = false;
  /** Ticks until a replica that started may vote. */
  silentTicks: number;
  /** The own removal has committed: the others are told, then leadership ends. */
  stepDownDue = false;
  /** Proposed data that has not been handed to the state machine, while leading. */
  uncommittedBytes = 0;

  readonly reads = new ReadQueue();
  readonly readStates: ReadState[] = [];
  /** Peers must hear of new entries or a new commit index. */
  broadcastDue = false;
  /** Peers must confirm leadership for a read. */
  heartbeatDue = false;

  outbox: Message[] = [];
  afterAppend: Message[] = [];
  snapshotsDue: NodeId[] = [];
  installDue: SnapshotMeta | undefined;
  readonly writes: PendingWrite[] = [];
  /** What the last write carried. */
  written: HardState;

  /** The durable index of a member, for counting; one closure for the life of the core. */
  readonly acked: AckedIndex = (id) => id === this.id ? this.log.durable : this.peers.get(id)?.match;

  constructor(options: CoreOptions, start: CoreStart, deps: CoreDeps) {
    this.options = options;
    this.rules = rulesOf(deps);
    this.silentTicks = options.waitBeforeVoting ? options.electionTicks : 0;
    this.#rng = deps.rng;
    this.id = options.id;
    // The machine only ever holds what was committed, though the commit index on disk may lag behind it.
    const committed = Math.max(start.hardState.commit, start.appliedIndex, start.base.index);
    this.log = new RaftLog(start.view, committed, start.appliedIndex, options.cacheBytesMax);
    this.term = start.hardState.term;
    this.vote = start.hardState.vote;
    this.written = start.hardState;
    assert(this.term >= this.log.lastTerm, `Term ${this.term} is behind the log's last term ${this.log.lastTerm}`);
    this.configurations.push({ index: start.base.index, configuration: start.base.configuration });
    this.configuration = start.base.configuration;
    this.#resetPeers();
    this.#scanConfigurations(start.view, start.base.index + 1);
    this.#settleConfigurations();
    this.#drawTimeout();
  }

  get promotable(): boolean {
    return isVoter(this.configuration, this.id);
  }

  send(message: Message): void {
    assert(message.to !== this.id, "Cannot send a message to the own replica");
    this.outbox.push(message);
  }

  /** Sends once everything that is in the log and in the hard state now is durable. */
  sendAfterAppend(message: Message): void {
    this.afterAppend.push(message);
  }

  becomeFollower(term: number, leader: NodeId): void {
    this.reset(term);
    this.role = "follower";
    this.leader = leader;
  }

  /** What every change of role or term forgets. */
  reset(term: number): void {
    assert(term >= this.term, `Cannot go back from term ${this.term} to ${term}`);
    if (term !== this.term) {
      this.term = term;
      this.vote = 0;
      this.transferOffered = false;
    }
    this.leader = 0;
    this.electionElapsed = 0;
    this.heartbeatElapsed = 0;
    this.#drawTimeout();
    this.transferee = 0;
    this.stepDownDue = false;
    this.uncommittedBytes = 0;
    this.votes.clear();
    this.reads.clear();
    this.broadcastDue = this.heartbeatDue = false;
    this.snapshotsDue.length = 0;
    for (const peer of this.peers.values()) peer.reset(this.log.lastIndex + 1);
  }

  /** Adds an entry of the own term. */
  push(entry: Entry): void {
    this.log.push(entry);
    this.noteConfiguration(entry);
    this.broadcastDue = true;
  }

  /**
   * A config entry is in the log. Every earlier one has committed, though this replica may not have heard or, restarted,
   * may have forgotten: no leader logs the next before it knows. Without this, a replica with the configuration before
   * last could be elected by voters who share no majority with those of the next.
   */
  noteConfiguration(entry: Entry): void {
    if (entry.kind !== "config") return;
    const before = this.pendingConfigurations.at(-1);
    this.pendingConfigurations.push({ index: entry.index, configuration: decodeConfiguration(entry.data) });
    if (before) this.commitTo(before.index);
  }

  /** Index of the entry that brought the configuration in force. */
  get configurationIndex(): number {
    return this.configurations.at(-1)!.index;
  }

  /** True while a config entry is logged whose fate is open. */
  get changePending(): boolean {
    return this.pendingConfigurations.length > 0;
  }

  /** The log from `index` on was removed: writes of it under way count only for what stands before it. */
  removedFrom(index: number): void {
    for (const write of this.writes) if (write.last >= index) write.last = index - 1;
    while ((this.pendingConfigurations.at(-1)?.index ?? 0) >= index) this.pendingConfigurations.pop();
  }

  /** Moves the commit index; a configuration takes effect as its entry commits. */
  commitTo(index: number): boolean {
    if (!this.log.commitTo(index)) return false;
    if (this.pendingConfigurations.length > 0) this.#settleConfigurations();
    return true;
  }

  /** Replaces the log by the point of a snapshot. */
  install(meta: SnapshotMeta): void {
    this.log.install(meta);
    for (const write of this.writes) write.last = 0;
    this.pendingConfigurations.length = 0;
    this.configurations.length = 0;
    this.installDue = meta;
    this.#adopt(meta.index, meta.configuration);
  }

  /** The configuration in force at a committed index that is not cut off. */
  configurationAt(index: number): Configuration {
    let found: Configuration | undefined;
    for (const entry of this.configurations) if (entry.index <= index) found = entry.configuration;
    assert(found, `The configuration at ${index} was cut off`);
    return found;
  }

  /** Forgets configurations that ended before `index`. */
  forgetConfigurations(index: number): void {
    while (this.configurations.length > 1 && this.configurations[1]!.index <= index) this.configurations.shift();
  }

  #adopt(index: number, configuration: Configuration): void {
    this.configurations.push({ index, configuration });
    this.configuration = configuration;
    if (this.role === "leader") this.#dismissPeers();
    this.#resetPeers();
    if (this.role !== "leader") return;
    this.broadcastDue = true;
    if (!isVoter(configuration, this.transferee)) this.transferee = 0;
    if (!this.promotable) this.stepDownDue = true;
  }

  /** Peers that are no members any more learn it with their last message, if it finds them up to date. */
  #dismissPeers(): void {
    const members = membersOf(this.configuration);
    for (const peer of this.peers.values()) {
      const before = peer.next - 1, term = this.log.term(before);
      if (members.includes(peer.id) || peer.state !== "replicate" || term === undefined) continue;
      this.send(message("append", this.id, peer.id, this.term, term, before, this.log.committed));
    }
  }

  #settleConfigurations(): void {
    while (this.pendingConfigurations.length > 0 && this.pendingConfigurations[0]!.index <= this.log.committed) {
      const { index, configuration } = this.pendingConfigurations.shift()!;
      this.#adopt(index, configuration);
    }
  }

  #resetPeers(): void {
    const members = membersOf(this.configuration);
    for (const id of this.peers.keys()) if (!members.includes(id)) this.peers.delete(id);
    for (const id of members) {
      if (id === this.id || this.peers.has(id)) continue;
      const inflights = new Inflights(this.options.inflightMessagesMax, this.options.inflightBytesMax);
      const peer = new Progress(id, this.log.lastIndex + 1, inflights);
      // A newcomer counts as heard from until the next check, or adding it could depose the leader.
      peer.recentActive = true;
      this.peers.set(id, peer);
    }
  }

  #scanConfigurations(view: LogView, from: number): void {
    const end = view.lastIndex() + 1;
    for (let at = from; at < end;) {
      const entries = view.entries(at, end, this.options.applyBytesMax);
      assert(entries.length > 0, `The log has no entry ${at} though it ends at ${end - 1}`);
      for (const entry of entries) this.noteConfiguration(entry);
      at += entries.length;
    }
  }

  #drawTimeout(): void {
    this.electionTimeout = this.options.electionTicks + uniform(this.#rng, this.options.electionTicks);
  }
}
