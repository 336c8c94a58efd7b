import { type Rng, uniform } from "@ultracloud/base";
import { isJoint, type NodeId } from "@ultracloud/raft";
import { checkLinearizable } from "./history.ts";
import { type SeedOutcome, splitRng } from "./seeds.ts";
import { SimClock } from "./sim_clock.ts";
import { SimNet } from "./sim_net.ts";
import { RaftChecks, Violation } from "./sim_raft_checks.ts";
import { SimClients } from "./sim_raft_clients.ts";
import { type MachineKit, registerKit } from "./sim_raft_machine.ts";
import { ACTIONS, pick, raftKnobs } from "./sim_raft_knobs.ts";
import { SimMembers } from "./sim_raft_members.ts";
import { type Packet, type PlantedBug, SimNode, type SimParts, TICK_MS_MAX, TICK_MS_MIN } from "./sim_raft_node.ts";

/** How long faults are injected, and how long a healed cluster may take to come back. */
const FAULTS_MS = 6_000;
const RECOVERY_MS = 4_000;
/** The log's longest chain of promises that nothing but itself resolves, with room to spare. */
const PROMISE_TURNS = 12;
/** A small, quiet cluster runs on until this much has happened to it. */
const EVENTS_MIN = 2_000;

/**
 * A whole cluster in one thread: real core and driver over a simulated clock, network and disks, with clients, under
 * faults drawn from the seed. Throws a Violation as soon as a rule is broken.
 */
export function simulateRaft(seed: number, bug: PlantedBug = {}): SeedOutcome {
  const turns = new RaftWorld(seed, bug, { machine: registerKit }).run();
  for (;;) {
    const turn = turns.next();
    if (turn.done) return turn.value;
  }
}

/** The same with the real write-ahead log, whose promises get their turns after each event, and with any machine. */
export async function simulateStack(seed: number, machine: MachineKit = registerKit): Promise<SeedOutcome> {
  const walSegmentBytes = pick(splitRng(seed, 6), [500, 2_000, 20_000]);
  const turns = new RaftWorld(seed, {}, { machine, walSegmentBytes }).run();
  for (;;) {
    const turn = turns.next();
    if (turn.done) return turn.value;
    for (let i = 0; i < PROMISE_TURNS; i++) await undefined;
  }
}

class RaftWorld {
  readonly #clock = new SimClock();
  readonly #faults: Record<string, number> = {};
  readonly #nodes: SimNode[] = [];
  readonly #net: SimNet<Packet>;
  readonly #checks: RaftChecks;
  readonly #clients: SimClients;
  readonly #members: SimMembers;
  readonly #rng: Rng;
  readonly #addNode: () => SimNode;
  /** Share of new leaders that are struck down before they get anything done. */
  readonly #struckLeaders: number;
  readonly #troubleMsMax: number;
  readonly #downMsMax: number;
  /** Packets from long ago come back, so that elections may happen for no reason. */
  readonly #replays: boolean;
  /** The real log works with promises. */
  readonly #promises: boolean;
  #disksLost = 0;
  #violation: Error | undefined;
  #hash = 0x811c9dc5;
  #hash2 = 0;
  #events = 0;
  #calm = false;

  constructor(seed: number, bug: PlantedBug, parts: SimParts) {
    this.#promises = parts.walSegmentBytes !== undefined;
    const knobs = splitRng(seed, 1);
    this.#rng = splitRng(seed, 2);
    this.#struckLeaders = pick(knobs, [0, 40, 80, 95]);
    this.#troubleMsMax = pick(knobs, [40, 150, 400]);
    this.#downMsMax = pick(knobs, [60, 250, 800]);
    const founders = Array.from({ length: pick(knobs, [1, 3, 3, 3, 5, 5]) }, (_, i) => i + 1);
    const nodes = () => this.#nodes;
    this.#checks = new RaftChecks(founders, nodes);
    const replay = pick(knobs, [0, 0.005, 0.02]);
    this.#replays = replay > 0;
    this.#net = new SimNet<Packet>({
      drop: pick(knobs, [0, 0.02, 0.25]),
      duplicate: pick(knobs, [0, 0.02, 0.1]),
      replay,
      delayMsMin: 1,
      delayMsMax: pick(knobs, [3, 20, 80]),
    }, {
      clock: this.#clock,
      rng: splitRng(seed, 3),
      deliver: (to, packet) => this.#nodes[to - 1]!.deliver(packet),
      count: (fault) => this.#count(fault),
    });
    const clock = this.#clock;
    const trace = (what: string, a: number, b: number) => this.#trace(what, a, b);
    const count = (fault: string) => this.#count(fault);
    const raft = raftKnobs(knobs);
    const leases = pick(knobs, [true, false]);
    this.#addNode = () => {
      const node = new SimNode({ id: this.#nodes.length + 1, seed, founders, raft, parts, leases, bug }, {
        clock,
        checks: this.#checks,
        send: (from, to, packet) => this.#send(from, to, packet),
        trace,
        performed: (performed) => this.#clients.performed(performed),
        elected: (elected) => this.#elected(elected),
        fatal: (failed, error) => this.#fatal(failed, error),
      });
      this.#nodes.push(node);
      return node;
    };
    for (const _ of founders) this.#addNode();
    this.#clients = new SimClients({ lateRepeats: pick(knobs, [0, 0.05, 0.2]), encode: parts.machine.encode }, {
      clock,
      rng: splitRng(seed, 4),
      checks: this.#checks,
      nodes,
      delayMs: () => this.#net.delayMs(),
      count,
      trace,
    });
    const create = () => {
      const node = this.#addNode();
      node.boot();
      return node;
    };
    this.#members = new SimMembers({ clock, rng: splitRng(seed, 5), nodes, create, count, trace });
    const everyMs = pick(knobs, [0, 120, 400, 1200]);
    if (everyMs > 0) this.#changeMembers(everyMs);
  }

  #changeMembers(everyMs: number): void {
    this.#clock.after(everyMs / 2 + uniform(this.#rng, everyMs), () => {
      if (this.#calm) return;
      this.#members.change();
      this.#changeMembers(everyMs);
    });
  }

  /** Yields after every event that promises may wait for, and answers how it went. */
  *run(): Generator<void, SeedOutcome> {
    for (const node of this.#nodes) node.boot();
    this.#clients.start(6);
    this.#clock.after(300, () => this.#trouble());
    yield* this.#runUntil(this.#clock.monotonicMs() + FAULTS_MS);
    while (this.#events < EVENTS_MIN) yield* this.#runUntil(this.#clock.monotonicMs() + 500);
    yield* this.#recover();
    const broken = checkLinearizable(this.#clients.settledHistory());
    if (broken.length > 0) throw new Violation(`History of register ${broken.join(", ")} is not linearizable`);
    return {
      traceHash: `${this.#hash.toString(16)}-${this.#hash2.toString(16)}`,
      events: this.#events,
      faults: {
        ...this.#faults,
        "(writes)": this.#clients.acknowledgedWrites,
        "(reads)": this.#clients.servedReads,
        "(changes of members)": this.#members.changes,
      },
    };
  }

  *#runUntil(ms: number): Generator<void> {
    while (this.#clock.step(ms)) {
      this.#events++;
      if (this.#promises) yield;
      if (this.#violation) throw this.#violation;
    }
    this.#clock.run(ms - this.#clock.monotonicMs());
  }

  /** Everything heals: a leader, an answer to a write, and the same state everywhere are due in bounded time. */
  *#recover(): Generator<void> {
    this.#calm = true;
    this.#net.heal();
    Object.assign(this.#net.faults, { drop: 0, duplicate: 0, replay: 0, delayMsMax: 5 });
    for (const node of this.#nodes) {
      node.pausedUntilMs = 0;
      node.syncMsMax = 2;
      node.disk.failSyncs(0);
      node.disk.capacityBytes = Infinity;
      if (!node.started) node.boot();
    }
    const deadline = this.#clock.monotonicMs() + RECOVERY_MS;
    const before = this.#clients.acknowledgedWrites;
    while (this.#clients.acknowledgedWrites < before + 3) {
      const now = this.#clock.monotonicMs();
      if (now >= deadline) {
        if (this.#hopeless()) return yield* this.#giveUp();
        throw new Violation(`No write was served within ${RECOVERY_MS} ms after everything healed`);
      }
      this.#members.leave();
      yield* this.#runUntil(now + 50);
    }
    // Every operation comes to its end, or what it wrote would be missing in the history.
    this.#clients.stopped = true;
    yield* this.#runUntil(this.#clock.monotonicMs() + 500);
    for (let apart = this.#apart(); apart !== undefined; apart = this.#apart()) {
      const now = this.#clock.monotonicMs();
      if (now >= deadline) {
        if (this.#hopeless()) return yield* this.#giveUp();
        throw new Violation(`Replicas have not come together after everything healed: ${apart}`);
      }
      this.#members.leave();
      yield* this.#runUntil(now + 50);
    }
    if (!this.#replays) yield* this.#rest();
  }

  /** Nobody is left to answer: what clients wait for runs out. */
  *#giveUp(): Generator<void> {
    this.#count("(quorum lost with a disk)");
    this.#clients.stopped = true;
    yield* this.#runUntil(this.#clock.monotonicMs() + 1000);
  }

  /** True when the disk went in the moment in which a change made it indispensable: no majority comes together again. */
  #hopeless(): boolean {
    const known = this.#checks.configuration;
    const lost = (id: NodeId) => this.#nodes[id - 1]!.lost;
    return [known.voters, known.votersOutgoing].some((half) =>
      2 * half.filter(lost).length >= Math.max(1, half.length)
    );
  }

  /** How the members differ, in state or in the way to their last configuration; undefined when they are one. */
  #apart(): string | undefined {
    const configuration = this.#members.configuration;
    if (!configuration) return "no leader";
    if (isJoint(configuration)) return "a joint configuration";
    const members = this.#nodes.filter(({ id, lost }) =>
      !lost && (configuration.voters.includes(id) || configuration.learners.includes(id))
    );
    const states = members.map(({ core, machine }) => `${core?.appliedIndex}/${machine?.hash}`);
    const applied = members[0]!.core?.appliedIndex ?? 0;
    const same = states.every((state) => state === states[0]) && applied >= this.#checks.decidedLast;
    return same ? undefined : states.join(" ");
  }

  /** Nothing happens any more: nobody may disturb the leader, members that were removed and do not know it least of all. */
  *#rest(): Generator<void> {
    const terms = () => this.#nodes.map(({ core }) => core?.role === "leader" ? core.term : 0).join();
    const before = terms();
    yield* this.#runUntil(this.#clock.monotonicMs() + 400);
    if (terms() !== before) throw new Violation(`Leadership changed in a healthy cluster: ${before} became ${terms()}`);
  }

  /** One fault, and the next one later. */
  #trouble(): void {
    if (this.#calm) return;
    const rng = this.#rng;
    const node = pick(rng, this.#nodes);
    const ids = this.#nodes.map(({ id }) => id);
    const others = ids.filter((id) => id !== node.id);
    const leader = this.#nodes.find(({ core }) => core?.role === "leader");
    const action = pick(rng, ACTIONS);
    this.#count(action);
    this.#trace(action, node.id, 0);
    switch (action) {
      case "power cut":
        this.#crash(node, true);
        break;
      case "power cut of all":
        for (const each of this.#nodes) this.#crash(each, true);
        break;
      case "kill":
        this.#crash(node, false);
        break;
      case "kill of the leader":
        if (leader) this.#crash(leader, uniform(rng, 2) === 0);
        break;
      case "isolation of the leader":
        if (!leader) break;
        // The others can go on without it.
        this.#net.heal();
        this.#net.partition([leader.id], ids.filter((id) => id !== leader.id));
        // For a clock that is slow it has led for a moment only, while for the others an age has passed.
        if (uniform(rng, 3) === 0) {
          this.#count("clock drift");
          for (const each of this.#nodes) each.drift(each === leader ? TICK_MS_MAX : TICK_MS_MIN);
        }
        break;
      case "partition": {
        const left = ids.filter(() => uniform(rng, 2) === 0);
        this.#net.partition(left, ids.filter((id) => !left.includes(id)));
        break;
      }
      case "one-way cut":
        if (others.length > 0) this.#net.cut(node.id, pick(rng, others));
        break;
      case "healing":
        this.#net.heal();
        break;
      case "pause":
        node.pausedUntilMs = this.#clock.monotonicMs() + 50 + uniform(rng, 600);
        break;
      case "slow disk":
        node.syncMsMax = pick(rng, [1, 20, 150]);
        break;
      case "failed sync":
        node.disk.failSyncs(1);
        break;
      case "full disk":
        // Room comes back, as when somebody has cleaned up.
        node.disk.capacityBytes = 0;
        this.#clock.after(50 + uniform(rng, 600), () => node.disk.capacityBytes = Infinity);
        break;
      case "loss of a disk":
        this.#loseDisk();
        break;
      case "clock drift":
        node.drift(pick(rng, [TICK_MS_MIN, 10, 14, TICK_MS_MAX]));
        break;
      case "transfer":
        if (leader && others.length > 0) leader.driver!.transferLeader(pick(rng, ids));
        break;
      case "checkpoint":
        for (const each of this.#nodes) if (uniform(rng, 2) === 0) each.checkpoint();
        break;
    }
    this.#clock.after(5 + uniform(rng, this.#troubleMsMax), () => this.#trouble());
  }

  /** One disk breaks down for good, of a group that goes on without it and replaces the member. */
  #loseDisk(): void {
    const configuration = this.#members.configuration;
    if (this.#disksLost > 0 || !configuration || isJoint(configuration) || configuration.voters.length < 4) return;
    const id = pick(this.#rng, configuration.voters);
    this.#disksLost++;
    this.#count("(disks lost)");
    this.#nodes[id - 1]!.lose();
  }

  /** Leaders that fall right after their election leave logs that differ: the paper's figure 8. */
  #elected(node: SimNode): void {
    if (this.#calm || uniform(this.#rng, 100) >= this.#struckLeaders) return;
    this.#clock.after(uniform(this.#rng, 4 * this.#net.faults.delayMsMax), () => {
      if (this.#calm) return;
      this.#count("fall of a new leader");
      this.#net.heal();
      if (uniform(this.#rng, 2) === 0) this.#crash(node, true);
      else this.#net.partition([node.id], this.#nodes.map(({ id }) => id).filter((id) => id !== node.id));
    });
  }

  #crash(node: SimNode, power: boolean): void {
    if (!node.started) return;
    node.crash(power, uniform(this.#rng, 2) === 0);
    this.#restartLater(node);
  }

  #restartLater(node: SimNode): void {
    this.#clock.after(5 + uniform(this.#rng, this.#downMsMax), () => {
      if (!node.started) node.boot();
    });
  }

  #fatal(node: SimNode, error: Error): void {
    const code = ((error.cause ?? error) as { code?: string }).code;
    if (code !== "EIO" && code !== "ENOSPC") {
      this.#violation ??= error instanceof Violation
        ? error
        : new Violation(`Replica ${node.id} stopped itself: ${error.message}`, { cause: error });
      return;
    }
    // A disk that failed a sync cannot be trusted; the process ends, and its successor reads what is really there.
    this.#clock.after(0, () => this.#crash(node, code === "EIO"));
  }

  #send(from: NodeId, to: NodeId, packet: Packet): void {
    if (packet.kind === "messages") {
      for (const m of packet.messages) this.#trace(m.kind, m.from * 8 + m.to, m.index * 64 + m.term);
    }
    this.#net.send(from, to, packet);
  }

  #count(fault: string): void {
    this.#faults[fault] = (this.#faults[fault] ?? 0) + 1;
  }

  /** Two rolling hashes over everything that happens, with its time. */
  #trace(what: string, a: number, b: number): void {
    const at = Math.round(this.#clock.monotonicMs() * 1000);
    let mixed = Math.imul(at ^ (at / 4294967296), 0x9e3779b1) ^ Math.imul(a, 0x85ebca6b) ^ Math.imul(b, 0xc2b2ae35);
    for (let i = 0; i < what.length; i++) mixed = Math.imul(mixed ^ what.charCodeAt(i), 0x01000193);
    this.#hash = Math.imul(this.#hash ^ mixed, 0x01000193) >>> 0;
    this.#hash2 = (Math.imul(this.#hash2, 31) + (mixed >>> 3)) >>> 0;
  }
}
