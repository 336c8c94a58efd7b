import { assert } from "@ultracloud/base";
import { isJoint } from "../core/change.ts";
import type { Change } from "../core/membership.ts";
import { coreOptions } from "../core/options.ts";
import { RaftCore } from "../core/raft.ts";
import type { Ready } from "../core/ready.ts";
import type { Entry, Message, NodeId, SnapshotMeta } from "../core/types.ts";
import { type ChangeDone, PendingChanges } from "./changes.ts";
import { type Forward, ForwardedProposals } from "./forwards.ts";
import { ReadLease } from "./lease.ts";
import { MachineQueue } from "./machine_queue.ts";
import { OutgoingSnapshots } from "./outgoing.ts";
import { PendingProposals, type ProposalDone } from "./proposals.ts";
import { PendingReads, type ReadDone } from "./reads.ts";
import { statusOf } from "./status.ts";
import type { DriverDeps, DriverStatus, RaftOptions, Refusal, Snapshot, SnapshotHeader } from "./types.ts";

/** Keeps a peer that was away for a moment off the snapshot path. */
const RETAINED_ENTRIES = 4096;
/**
 * One replica: the core with a log, a state machine and a transport around it. It starts nothing by itself: the host
 * calls `tick` at a fixed pace, hands over what arrives, and calls `run` soon after `DriverEvents.wake`. Everything that
 * came in between shares one write of the log.
 */
export class RaftDriver<Data = Uint8Array> {
  readonly #options: RaftOptions;
  readonly #deps: DriverDeps<Data>;
  readonly #proposals = new PendingProposals();
  readonly #forwarded = new ForwardedProposals();
  readonly #reads: PendingReads;
  readonly #changes = new PendingChanges();
  readonly #machine = new MachineQueue();
  readonly #lease: ReadLease | undefined;
  #core: RaftCore | undefined;
  /** A received snapshot between the core's consent and the log's turn. */
  #arrived: Snapshot<Data> | undefined;
  /** Writes that wait while a snapshot replaces the log under them. */
  #behindInstall: NonNullable<Ready["append"]>[] | undefined;
  /** Index of the snapshot whose data the log still holds. */
  #heldSnapshot = 0;
  #ticks = 0;
  #woken = false;
  #running = false;
  #stopped = false;
  #seen = { role: "follower", term: 0, leader: 0 };
  #seenConfiguration = -1;
  readonly #outgoing: OutgoingSnapshots<Data>;

  constructor(options: RaftOptions, deps: DriverDeps<Data>) {
    this.#options = options;
    this.#deps = deps;
    this.#reads = new PendingReads(deps.rng);
    this.#outgoing = new OutgoingSnapshots({
      ...deps,
      queue: this.#machine,
      step: (term, m) => this.#input((core) => void (core.term === term && core.step(m))),
      stopped: () => this.#stopped,
    });
    const { leaseReads, electionTicks } = options;
    if (!leaseReads) return;
    assert(deps.nowMs, "Lease reads need a clock");
    this.#lease = new ReadLease(leaseReads, electionTicks, deps.nowMs);
  }

  /**
   * Brings log and state machine together and takes part from then on; a replica that decides alone stands at once.
   * Throws when what survived does not fit together: then the replica must not serve.
   */
  start(): void {
    const { log, machine } = this.#deps;
    assert(!this.#core, "A driver starts once");
    const { base } = log.initialState();
    const held = log.loadSnapshot();
    this.#heldSnapshot = held?.meta.index ?? 0;
    if (machine.appliedIndex() >= base.index) {
      this.#begin(machine.appliedIndex());
      return;
    }
    assert(
      held && held.meta.index === base.index,
      `State machine is at ${machine.appliedIndex()} and the log starts at ${base.index} without a snapshot of it`,
    );
    machine.restore(held, (error) => {
      if (error) this.#fail(error);
      else if (!this.#stopped) this.#guard(() => this.#begin(base.index));
    });
  }

  #begin(appliedIndex: number): void {
    const { log, rng, rules } = this.#deps;
    const { hardState, base } = log.initialState();
    this.#core = new RaftCore(
      coreOptions({ ...this.#options, waitBeforeVoting: this.#lease !== undefined }),
      { view: log, hardState, base, appliedIndex },
      rules ? { rng, rules } : { rng },
    );
    if (this.#core.alone) this.#core.campaign();
    this.#wake();
  }

  /** One step of time. */
  tick(): void {
    this.#ticks++;
    this.#input((core) => {
      core.tick();
      const { promotionLagMax, mayPromote } = this.#options;
      if (promotionLagMax !== undefined && core.role === "leader") core.promoteLearner(promotionLagMax, mayPromote);
      this.#reads.expire(this.#ticks, core.leader);
    });
  }

  /** Messages from peers, in the order they came; those for other replicas are dropped. */
  receive(messages: readonly Message[]): void {
    this.#input((core) => {
      for (const m of messages) if (m.to === core.id && m.from !== core.id) core.step(m);
    });
  }

  /**
   * A snapshot from a peer, whole and verified. `done(true)` once the log holds it durably or turns out to hold that
   * point already; the transport's answer to the sender.
   */
  receiveSnapshot(header: SnapshotHeader, data: Data, done: (installed: boolean) => void): void {
    if (this.#stopped || !this.#core) return done(false);
    this.#input((core) => {
      const answer = header.to === core.id ? core.offerSnapshot(header.from, header.term, header.meta) : "refused";
      if (answer !== "install") return done(answer === "held");
      this.#arrived = { meta: header.meta, data };
      this.#installDone = done;
    });
  }
  #installDone: ((installed: boolean) => void) | undefined;

  /** Proposes data (never empty). `done` is called exactly once, at once when refused. */
  propose(data: Uint8Array, done: ProposalDone): void {
    const core = this.#core;
    if (this.#stopped || !core) return done({ refused: this.#stopped ? "stopped" : "not_leader", leader: 0 });
    const logged = core.propose(data);
    if (typeof logged === "string") return done({ refused: logged, leader: core.leader });
    this.#proposals.add(logged.index, logged.term, done);
    this.#wake();
  }

  /** Logs data for another replica, which awaits in its own log what becomes of it. */
  proposeFor(data: Uint8Array): { readonly index: number; readonly term: number } | Refusal {
    const core = this.#core;
    if (this.#stopped || !core) return { refused: this.#stopped ? "stopped" : "not_leader", leader: 0 };
    const logged = core.propose(data);
    if (typeof logged === "string") return { refused: logged, leader: core.leader };
    this.#wake();
    return logged;
  }

  /**
   * Begins a proposal that another replica is asked to log, before it is asked. `done` is called exactly once, unless
   * the proposal is dropped; undefined when too many are on their way.
   */
  forward(done: ProposalDone): Forward | undefined {
    if (this.#stopped || !this.#core || this.#forwarded.full) return undefined;
    return this.#forwarded.begin(() => {
      const core = this.#stopped ? undefined : this.#core;
      return core && { term: core.term, applied: core.appliedIndex, leader: core.leader };
    }, done);
  }

  /**
   * Asks for a linearizable read point, on any replica. `done` is called exactly once; local state then holds every
   * write that was acknowledged anywhere before this call.
   */
  read(done: ReadDone): void {
    if (this.#stopped || !this.#core) return done({ refused: this.#stopped ? "stopped" : "not_leader", leader: 0 });
    if (this.#lease?.holds(this.#core)) this.#reads.at(this.#core.commitIndex, this.#core.appliedIndex, done);
    else this.#reads.add(done);
    this.#wake();
  }

  /**
   * Changes who takes part; see `proposeChange`. `done` is called exactly once. Throws a failed_precondition Fault when
   * the steps break a rule by themselves, whatever the state of the group.
   */
  changeConfiguration(change: Change, done: ChangeDone): void {
    const core = this.#core;
    if (this.#stopped || !core) return done({ refused: this.#stopped ? "stopped" : "not_leader", leader: 0 });
    const logged = core.proposeChange(change);
    if ("refused" in logged) return done({ ...logged, leader: core.leader });
    this.#changes.add(logged.index, logged.term, done);
    this.#wake();
  }

  /** Hands leadership over; false when this replica does not lead or `to` does not vote. Watch `roleChanged`. */
  transferLeader(to: NodeId): boolean {
    const started = this.#core?.transferLeader(to) ?? false;
    if (started) this.#wake();
    return started;
  }

  /** Stands for election without waiting. */
  campaign(): void {
    this.#input((core) => core.campaign());
  }

  /**
   * The state machine holds everything up to `durableIndex` across a power cut: cuts the log behind it, less what is
   * retained for slow peers. Answers the index it was cut at; 0 when nothing was.
   */
  compact(durableIndex: number): number {
    const core = this.#core;
    if (!core || this.#stopped) return 0;
    const { log } = this.#deps;
    if (this.#heldSnapshot > 0 && this.#heldSnapshot <= durableIndex) {
      log.releaseSnapshot(this.#heldSnapshot);
      this.#heldSnapshot = 0;
    }
    const durable = Math.min(durableIndex, core.appliedIndex, core.durableIndex);
    const cut = this.#outgoing.cutAt(durable - (this.#options.retainedEntries ?? RETAINED_ENTRIES));
    if (cut < core.firstIndex) return 0;
    const base = core.metaAt(cut);
    log.compact(base);
    core.compacted(cut);
    return cut;
  }

  status(): DriverStatus {
    return statusOf(this.#core, this.#options.id, this.#ticks);
  }

  /** The core, for checks and status pages; its inputs belong to the driver. */
  get core(): RaftCore | undefined {
    return this.#core;
  }

  /** Takes part no more; whoever waits is refused. Writes under way complete without effect here. */
  stop(): void {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#machine.stop();
    this.#proposals.refuse("stopped", 0, 0);
    this.#forwarded.refuse("stopped", 0, 0);
    this.#reads.refuse("stopped", 0, true);
    this.#changes.refuse("stopped", 0);
    this.#finishInstall(false);
  }

  /** Does everything that is due. */
  run(): void {
    this.#woken = false;
    if (this.#stopped || this.#running || !this.#core) return;
    const core = this.#core;
    this.#running = true;
    this.#guard(() => {
      if (this.#reads.queued) {
        const context = this.#reads.nextRound(
          this.#ticks + 2 * this.#options.electionTicks,
          this.#lease?.begin(core),
        );
        if (!core.readIndex(context)) this.#reads.refuse("not_leader", 0);
      }
      for (let ready = core.ready(); ready && !this.#stopped; ready = core.ready()) this.#perform(core, ready);
      this.#notice(core);
    });
    this.#running = false;
    if (this.#reads.queued) this.#wake();
  }

  #perform(core: RaftCore, ready: Ready): void {
    if (ready.install) this.#install(core, ready.install.seq, ready.install.meta);
    if (ready.append) this.#append(core, ready.append);
    if (ready.messages.length > 0) this.#deps.transport.send(ready.messages);
    if (ready.committed.length > 0) this.#apply(core, ready.committed);
    for (const to of ready.snapshotsDue) this.#outgoing.send(core, to);
    for (const { context, index } of ready.reads) {
      const start = this.#reads.confirm(context, index, core.appliedIndex);
      if (start) this.#lease!.extend(start, core);
    }
  }

  #append(core: RaftCore, write: NonNullable<Ready["append"]>): void {
    if (this.#behindInstall) {
      this.#behindInstall.push(write);
      return;
    }
    this.#deps.log.append(write, (error) => this.#completed(error, () => core.advanceAppend(write.seq)));
  }

  #apply(core: RaftCore, entries: readonly Entry[]): void {
    this.#machine.add((release) => {
      this.#deps.machine.apply(entries, (results) => {
        release();
        this.#completed(undefined, () => {
          core.advanceApply(entries.at(-1)!.index);
          this.#proposals.settle(entries, results, core.leader);
          this.#forwarded.settle(entries, results, core.leader);
          this.#changes.settle(entries, core.leader);
          this.#reads.applied(core.appliedIndex);
        });
      });
    });
  }

  #install(core: RaftCore, seq: number, meta: SnapshotMeta): void {
    const snapshot = this.#arrived;
    assert(snapshot?.meta === meta, `No snapshot at ${meta.index} has arrived`);
    this.#arrived = undefined;
    this.#behindInstall = [];
    this.#deps.log.installSnapshot(snapshot, (error) =>
      this.#completed(error, () => {
        this.#heldSnapshot = meta.index;
        core.advanceAppend(seq);
        const waiting = this.#behindInstall!;
        this.#behindInstall = undefined;
        for (const write of waiting) this.#append(core, write);
        this.#finishInstall(true);
        this.#machine.add((release) => {
          const held = this.#deps.log.loadSnapshot();
          assert(held && held.meta.index >= meta.index, `The log does not hold the snapshot at ${meta.index}`);
          // Another one has arrived meanwhile, and its turn comes.
          if (held.meta.index > meta.index) return release();
          this.#deps.machine.restore(held, (failed) => {
            release();
            this.#completed(failed, () => {
              core.advanceApply(meta.index);
              // Applied inside the snapshot: with which result cannot be known.
              this.#proposals.refuse("leadership_lost", core.leader, 0, meta.index);
              this.#forwarded.refuse("leadership_lost", core.leader, 0, meta.index);
              this.#changes.refuse("leadership_lost", core.leader, meta.index);
              this.#reads.applied(meta.index);
            });
          });
        });
      }));
  }

  #finishInstall(installed: boolean): void {
    const done = this.#installDone;
    this.#installDone = undefined;
    done?.(installed);
  }

  #notice(core: RaftCore): void {
    if (core.configurationIndex !== this.#seenConfiguration) {
      this.#seenConfiguration = core.configurationIndex;
      this.#deps.events.configurationChanged?.(core.configuration, core.configurationIndex);
    }
    const { role, term, leader } = core;
    const seen = this.#seen;
    if (seen.role === role && seen.term === term && seen.leader === leader) return;
    if (seen.role === "leader") {
      this.#proposals.refuse("leadership_lost", leader, core.commitIndex);
      this.#changes.lost(core.commitIndex, isJoint(core.configuration), leader);
    }
    this.#forwarded.refuse("leadership_lost", leader, core.commitIndex);
    this.#reads.refuse("not_leader", leader);
    this.#seen = { role, term, leader };
    this.#deps.events.roleChanged?.(this.status());
  }

  #completed(error: Error | undefined, then: () => void): void {
    if (this.#stopped) return;
    if (error) return this.#fail(error);
    this.#guard(then);
    this.#wake();
  }

  #input(change: (core: RaftCore) => void): void {
    const core = this.#core;
    if (this.#stopped || !core) return;
    this.#guard(() => change(core));
    this.#wake();
  }

  #wake(): void {
    // While running, the loop itself picks up what is new.
    if (this.#woken || this.#running || this.#stopped) return;
    this.#woken = true;
    this.#deps.events.wake();
  }

  /** A failed assertion is a bug: going on could break what was promised. */
  #guard(change: () => void): void {
    try {
      change();
    } catch (error) {
      this.#fail(error instanceof Error ? error : new Error(String(error)));
    }
  }

  #fail(error: Error): void {
    if (this.#stopped) return;
    this.stop();
    this.#deps.events.fatal(error);
  }
}
