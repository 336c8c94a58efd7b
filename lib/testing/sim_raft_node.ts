import { type Rng, seededRng } from "@ultracloud/base";
import {
  bootstrapBatch,
  type Message,
  type NodeId,
  type ProposalOutcome,
  RaftDriver,
  type RaftOptions,
  raftRules,
  type ReadOutcome,
  type Rules,
  type SnapshotHeader,
} from "@ultracloud/raft";
import type { SimClock } from "./sim_clock.ts";
import { SimDisk } from "./sim_disk.ts";
import type { RaftChecks } from "./sim_raft_checks.ts";
import { type CheckedLog, type SimLogBugs, SimLogStore } from "./sim_raft_log.ts";
import { SimWalLog } from "./sim_wal_log.ts";
import type { MachineKit, Performed, SimMachineBugs, SimulatedMachine } from "./sim_raft_machine.ts";

/** One broken rule at a time, to prove that the simulation notices. */
export interface PlantedBug {
  readonly rules?: Partial<Rules>;
  readonly log?: SimLogBugs;
  readonly machine?: SimMachineBugs;
  /** Believes that clocks differ by less than they do. */
  readonly trustsClocks?: boolean;
  /** Comes back from a crash with an empty disk, under the id it had. */
  readonly emptyDisk?: boolean;
  /** Cuts the log behind what is applied, not behind what is durable. */
  readonly compactApplied?: boolean;
}

/** What a replica is made of besides the real core and driver. */
export interface SimParts {
  readonly machine: MachineKit;
  /** The real log with segments of this size; a simple one in its place when absent. */
  readonly walSegmentBytes?: number;
}

export type Packet =
  | { readonly kind: "messages"; readonly messages: readonly Message[] }
  | {
    readonly kind: "snapshot";
    readonly header: SnapshotHeader;
    readonly data: Uint8Array;
    readonly answer: (installed: boolean) => void;
  }
  | { readonly kind: "call"; readonly run: () => void };

export interface SimNodeDeps {
  readonly clock: SimClock;
  readonly checks: RaftChecks;
  readonly send: (from: NodeId, to: NodeId, packet: Packet) => void;
  readonly trace: (what: string, a: number, b: number) => void;
  /** A replica came to a command. */
  readonly performed: (performed: Performed) => void;
  readonly elected: (node: SimNode) => void;
  /** The replica ended itself; expected only after a disk fault. */
  readonly fatal: (node: SimNode, error: Error) => void;
}

const TICK_MS = 10;
/** What a replica's clock may take for TICK_MS. */
export const TICK_MS_MIN = 7, TICK_MS_MAX = 20;
/** A snapshot that has not been answered by then counts as lost. */
const SNAPSHOT_TIMEOUT_MS = 400;

/** One machine of the cluster: a disk that outlives crashes, and a replica that does not. */
export class SimNode {
  readonly id: NodeId;
  disk: SimDisk;
  log: CheckedLog | undefined;
  machine: SimulatedMachine | undefined;
  driver: RaftDriver | undefined;
  /** Deliveries and ticks wait until then: a stopped process, not a dead one. */
  pausedUntilMs = 0;
  syncMsMax = 2;
  #life = 0;
  #started = false;
  #survivors: unknown;
  readonly #seed: number;
  readonly #founders: readonly NodeId[];
  readonly #options: Omit<RaftOptions, "id">;
  readonly #parts: SimParts;
  readonly #leases: boolean;
  readonly #bug: PlantedBug;
  readonly #deps: SimNodeDeps;
  readonly #rng: Rng;
  /** How long its clock takes for what it holds to be TICK_MS. */
  #tickMs: number;
  /** What its clock showed when it changed its speed, and when that was. */
  #clock = { showsMs: 0, atMs: 0 };

  constructor(
    options: {
      readonly id: NodeId;
      readonly seed: number;
      /** Those that found the group; a replica that is none of them waits for a leader. */
      readonly founders: readonly NodeId[];
      readonly raft: Omit<RaftOptions, "id">;
      readonly parts: SimParts;
      /** Leaders serve reads within a lease. */
      readonly leases: boolean;
      readonly bug: PlantedBug;
    },
    deps: SimNodeDeps,
  ) {
    this.id = options.id;
    this.#seed = options.seed;
    this.#founders = options.founders;
    this.#options = options.raft;
    this.#parts = options.parts;
    this.#leases = options.leases;
    this.#bug = options.bug;
    this.#deps = deps;
    this.#rng = seededRng(Math.imul(options.seed + 1, 7919) + options.id);
    // Clocks that run at other speeds: safety must not rest on them.
    this.#tickMs = [TICK_MS, TICK_MS, TICK_MS_MIN, TICK_MS_MAX][this.#rng.uint32() % 4]!;
    this.disk = this.#newDisk();
  }

  /** Its clock runs at another speed from now on; it never jumps. */
  drift(tickMs: number): void {
    this.#clock = { showsMs: this.#nowMs(), atMs: this.#deps.clock.monotonicMs() };
    this.#tickMs = tickMs;
  }

  #nowMs(): number {
    const { showsMs, atMs } = this.#clock;
    return showsMs + (this.#deps.clock.monotonicMs() - atMs) * TICK_MS / this.#tickMs;
  }

  #newDisk(): SimDisk {
    return new SimDisk({
      rng: this.#rng,
      after: (ms, run) => this.#deps.clock.after(ms, run),
      syncMs: () => this.syncMsMax * (this.#rng.uint32() / 2 ** 32),
    });
  }

  /** Its disk is gone for good, and the replica with it. */
  lost = false;

  /** The replica runs or is about to. */
  get started(): boolean {
    return this.#started;
  }
  get up(): boolean {
    return this.driver !== undefined;
  }
  get core() {
    return this.driver?.core;
  }

  boot(): void {
    if (this.lost) return;
    const life = ++this.#life;
    this.#started = true;
    const { clock, checks, fatal } = this.#deps;
    let log: CheckedLog;
    try {
      log = this.#openLog((run) => void clock.after(0, this.#alive(run)));
    } catch (error) {
      return fatal(this, error as Error);
    }
    this.log = log;
    log.onAppend = (entries, termBefore) => checks.logged(this.id, entries, termBefore);
    const begin = this.#alive((error?: Error) => error ? fatal(this, error) : this.#begin(log, life));
    log.settle(this.#alive((error) => {
      const { hardState, base } = log.initialState();
      const isNew = hardState.term === 0 && base.index === 0 && log.lastIndex() === 0;
      if (error || !isNew || !this.#founders.includes(this.id)) return begin(error);
      log.append(bootstrapBatch(this.#founders), begin);
    }));
  }

  #openLog(soon: (run: () => void) => void): CheckedLog {
    const { walSegmentBytes: segmentBytes } = this.#parts;
    return segmentBytes === undefined
      ? new SimLogStore(this.disk, soon, this.#bug.log)
      : new SimWalLog({ segmentBytes }, {
        disk: this.disk,
        soon,
        onFatal: this.#alive((error) => this.#deps.fatal(this, error)),
      });
  }

  /** `run`, unless this life has ended by then. */
  #alive<A extends unknown[]>(run: (...args: A) => void): (...args: A) => void {
    const life = this.#life;
    return (...args) => {
      if (life === this.#life) run(...args);
    };
  }

  #begin(log: CheckedLog, life: number): void {
    const { clock, checks, trace } = this.#deps;
    this.machine = this.#parts.machine.start(this.#survivors, this.#bug.machine ?? {}, {
      applied: (index, hash, entry, performed) => {
        trace("apply", this.id, index);
        if (performed) this.#deps.performed(performed);
        checks.applied(this.id, index, hash, entry, performed);
      },
      restored: (index, hash) => {
        trace("restore", this.id, index);
        checks.restored(this.id, index, hash);
      },
    });
    const driftMax = this.#bug.trustsClocks ? 0 : 1 - TICK_MS_MIN / TICK_MS_MAX;
    const lease = this.#leases || this.#bug.trustsClocks ? { leaseReads: { tickMs: TICK_MS, driftMax } } : {};
    const driver = new RaftDriver({ ...this.#options, ...lease, id: this.id }, {
      log,
      machine: this.machine,
      transport: {
        send: (messages) => this.#send(messages),
        sendSnapshot: (header, data, done) => this.#sendSnapshot(header, data, done),
      },
      events: {
        wake: () => void clock.after(0, this.#alive(() => this.#turn(() => driver.run()))),
        roleChanged: ({ role, term, leader }) => {
          trace("role", term, leader);
          if (role === "leader") this.#deps.elected(this);
        },
        fatal: (error) => this.#deps.fatal(this, error),
      },
      nowMs: () => this.#nowMs(),
      rng: seededRng(Math.imul(this.#seed + 1, 104729) + this.id * 1000 + life),
      rules: { ...raftRules, ...this.#bug.rules },
    });
    this.driver = driver;
    checks.restarted(this);
    trace("boot", this.id, life);
    this.#turn(() => driver.start());
    const tick = this.#alive(() => {
      if (clock.monotonicMs() >= this.pausedUntilMs) this.#turn(() => driver.tick());
      clock.after(this.#tickMs, tick);
    });
    clock.after(this.#tickMs, tick);
  }

  /** Ends the replica: `power` takes unsynced writes with it. */
  crash(power: boolean, writtenBack: boolean): void {
    if (!this.#started) return;
    this.#deps.trace("crash", this.id, power ? 1 : 0);
    this.#life++;
    this.#started = false;
    this.pausedUntilMs = 0;
    if (this.machine) this.#survivors = this.machine.survivors(!power || writtenBack);
    this.driver = undefined;
    this.machine = undefined;
    if (power) this.disk.crash();
    else this.disk.kill();
    if (this.#bug.emptyDisk && power) {
      this.disk = this.#newDisk();
      this.#survivors = undefined;
    }
    // What a crash left is what the next life will read; of the real log it is known only once it is open again.
    if (this.#parts.walSegmentBytes === undefined) this.log = this.#openLog(() => {});
  }

  /** The disk breaks down: the replica never comes back. What it had said rests on a disk that was good till now. */
  lose(): void {
    this.#deps.trace("lose", this.id, 0);
    this.#life++;
    this.#started = false;
    this.lost = true;
    this.driver = undefined;
    this.machine = undefined;
    this.disk.kill();
  }

  deliver(packet: Packet): void {
    const waitMs = this.pausedUntilMs - this.#deps.clock.monotonicMs();
    if (waitMs > 0) {
      const life = this.#life;
      // Rounded up, or a remainder too small to move the clock would come back for ever.
      this.#deps.clock.after(Math.ceil(waitMs), () => life === this.#life && this.deliver(packet));
      return;
    }
    const { driver } = this;
    if (!driver) return;
    this.#turn(() => {
      if (packet.kind === "messages") driver.receive(packet.messages);
      else if (packet.kind === "call") packet.run();
      else {
        const { header, data, answer } = packet;
        driver.receiveSnapshot(header, data, (installed) => {
          this.#deps.send(this.id, header.from, { kind: "call", run: () => answer(installed) });
        });
      }
    });
  }

  propose(data: Uint8Array, done: (outcome: ProposalOutcome) => void): void {
    this.driver!.propose(data, done);
  }

  read(key: number, done: (outcome: ReadOutcome, value: number) => void): void {
    const { machine } = this;
    this.driver!.read((outcome) => done(outcome, machine!.read(key)));
  }

  /** Makes applied state durable and cuts the log behind it. */
  checkpoint(): void {
    if (!this.driver) return;
    const durable = this.#bug.compactApplied ? this.machine!.appliedIndex() : this.machine!.checkpoint();
    this.#turn(() => this.#deps.trace("cut", this.id, this.driver!.compact(durable)));
  }

  #turn(run: () => void): void {
    run();
    this.#deps.checks.stepped(this);
  }

  #send(messages: readonly Message[]): void {
    const byPeer = new Map<NodeId, Message[]>();
    for (const m of messages) {
      this.#deps.checks.sending(this, m);
      const list = byPeer.get(m.to);
      if (list) list.push(m);
      else byPeer.set(m.to, [m]);
    }
    for (const [to, list] of byPeer) this.#deps.send(this.id, to, { kind: "messages", messages: list });
  }

  #sendSnapshot(header: SnapshotHeader, data: Uint8Array, done: (installed: boolean) => void): void {
    let answered = false;
    const life = this.#life;
    const answer = (installed: boolean) => {
      if (answered || life !== this.#life) return;
      answered = true;
      this.#turn(() => done(installed));
    };
    this.#deps.trace("snapshot", header.to, header.meta.index);
    this.#deps.send(this.id, header.to, { kind: "snapshot", header, data, answer });
    this.#deps.clock.after(SNAPSHOT_TIMEOUT_MS, () => answer(false));
  }
}
