import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { type Rng, uniform } from "@ultracloud/base";
import { BatchRequestSchema } from "@ultracloud/proto/flaredb/v1";
import type { Entry } from "@ultracloud/raft";
import { type SeedOutcome, SimClock, SimNet, splitRng } from "@ultracloud/testing";
import { openDatabase } from "@ultracloud/sqlite";
import { decodeEntry, encodeEntry, entryKinds } from "../domain/log_entry.ts";
import type { PlantedBug } from "./test_bugs.ts";
import { SimClients } from "./test_clients.ts";
import { type Packet, SimNode } from "./test_node.ts";
import { DatabaseMachine } from "../state/database_machine.ts";

const faultsMs = 2_500;
const recoveryMs = 6_000;
const schema = [
  "CREATE TABLE entry(n INTEGER PRIMARY KEY AUTOINCREMENT, op TEXT, r INTEGER, at TEXT)",
  "CREATE TABLE counter(id INTEGER PRIMARY KEY, n INTEGER)",
  "INSERT INTO counter VALUES(1, 0)",
];

export class Violation extends Error {
  override readonly name = "Violation";
}

function require(condition: boolean, rule: string): asserts condition {
  if (!condition) throw new Violation(rule);
}

function pick<T>(rng: Rng, from: readonly T[]): T {
  return from[uniform(rng, from.length)]!;
}

/**
 * Several groups on several machines in one thread: the real driver and the real state machine over a simulated clock,
 * network and log, with clients, under faults drawn from the seed. Throws a Violation when a promise is broken.
 */
export function simulateFlaredb(seed: number, bug: PlantedBug = {}): SeedOutcome {
  return new World(seed, bug).run();
}

class World {
  readonly #clock = new SimClock({ epochMs: 1_700_000_000_000 });
  readonly #rng: Rng;
  readonly #bug: PlantedBug;
  readonly #groups: readonly number[];
  readonly #nodes: SimNode[] = [];
  readonly #net: SimNet<Packet>;
  readonly #clients: SimClients;
  readonly #faults: Record<string, number> = {};
  /** What was decided at each index, by group, and the state's digest there. */
  readonly #decided = new Map<string, Entry>();
  readonly #digests = new Map<string, string>();
  #violation: Error | undefined;
  #calm = false;
  #events = 0;
  #hash = 0;

  constructor(seed: number, bug: PlantedBug) {
    this.#bug = bug;
    const knobs = splitRng(seed, 1);
    this.#rng = splitRng(seed, 2);
    const voters = Array.from({ length: pick(knobs, [3, 3, 3, 5]) }, (_, i) => i + 1);
    this.#groups = Array.from({ length: pick(knobs, [2, 3]) }, (_, i) => i + 2);
    this.#net = new SimNet<Packet>({
      drop: pick(knobs, [0, 0.02, 0.15]),
      duplicate: pick(knobs, [0, 0.05]),
      replay: pick(knobs, [0, 0.01]),
      delayMsMin: 1,
      delayMsMax: pick(knobs, [3, 20, 60]),
    }, {
      clock: this.#clock,
      rng: splitRng(seed, 3),
      deliver: (to, packet) => this.#nodes[to - 1]!.deliver(packet),
      count: (fault) => this.#count(fault),
    });
    const raft = {
      electionTicks: 10,
      heartbeatTicks: 2,
      messageBytesMax: pick(knobs, [1, 400, 10_000]),
      inflightMessagesMax: pick(knobs, [1, 8]),
      applyBytesMax: pick(knobs, [1, 500, 10_000]),
      cacheBytesMax: pick(knobs, [1, 10_000]),
      retainedEntries: pick(knobs, [0, 3, 30]),
    };
    for (const id of voters) {
      this.#nodes.push(
        new SimNode({ id, seed, groups: this.#groups, voters, raft, bug }, {
          clock: this.#clock,
          send: (from, to, packet) => this.#net.send(from, to, packet),
          applied: (node, group, entry, result, digest) => this.#applied(node, group, entry, result, digest),
          fatal: (node, error) =>
            this.#violation ??= new Violation(`Replica ${node.id} ended: ${error.message}`, { cause: error }),
        }),
      );
    }
    this.#clients = new SimClients(this.#nodes, {
      clock: this.#clock,
      rng: splitRng(seed, 4),
      groups: this.#groups,
      bug,
    });
  }

  run(): SeedOutcome {
    try {
      for (const node of this.#nodes) node.boot();
      for (const group of this.#groups) this.#found(group);
      this.#clients.start(8);
      this.#clock.after(200, () => this.#trouble());
      this.#runUntil(this.#clock.monotonicMs() + faultsMs);
      this.#recover();
      this.#judge();
    } finally {
      for (const node of this.#nodes) node.crash(true, () => 0);
    }
    return {
      traceHash: this.#hash.toString(16),
      events: this.#events,
      faults: { ...this.#faults, "(writes)": this.#clients.acknowledged.size, "(reads)": this.#clients.reads },
    };
  }

  /** The schema of a group, before any client. */
  #found(group: number): void {
    const request = create(BatchRequestSchema, { statements: schema.map((sql) => ({ sql })) });
    const payload = toBinary(BatchRequestSchema, request);
    const base = { kind: entryKinds.batch, timeMs: this.#clock.nowMs(), seed: new Uint8Array(16), dedupe: undefined };
    const data = encodeEntry({ ...base, payload });
    let done = false, asked = false;
    for (let waited = 0; !done; waited++) {
      require(waited < 400, `Group ${group} found no leader`);
      const leader = this.#nodes.find(({ replicas }) => replicas.get(group)?.driver.status().role === "leader");
      if (leader !== undefined && !asked) {
        asked = true;
        leader.replicas.get(group)!.driver.propose(data, (outcome) => {
          done = !("refused" in outcome);
          asked = false;
        });
      }
      this.#runUntil(this.#clock.monotonicMs() + 20);
      // A refusal says that nothing happened, or that it did: nobody else writes yet.
      if (this.#entriesOf(group).length > 0) done = true;
    }
  }

  #applied(node: number, group: number, entry: Entry, result: unknown, digest: string | undefined): void {
    const at = `${group}/${entry.index}`;
    this.#trace(node * 64 + group, entry.index * 1024 + entry.term);
    const before = this.#decided.get(at);
    if (before === undefined) {
      this.#decided.set(at, entry);
      if (entry.kind === "normal" && entry.data.length > 0) this.#performed(entry, result);
    } else if (before.term !== entry.term) {
      this.#violation ??= new Violation(`Replica ${node} applies another entry at ${at}`);
    }
    if (digest === undefined) return;
    const other = this.#digests.get(at);
    if (other === undefined) this.#digests.set(at, digest);
    else if (other !== digest) this.#violation ??= new Violation(`Replica ${node} has other content at ${at}`);
  }

  #performed(entry: Entry, result: unknown): void {
    const { dedupe, kind } = decodeEntry(entry.data);
    if (dedupe === undefined || result instanceof Error) return;
    const swapped = kind !== entryKinds.compareAndSwap || (result as { swapped: boolean }).swapped;
    this.#clients.performed(dedupe.key, swapped);
  }

  #runUntil(ms: number): void {
    while (this.#clock.step(ms)) {
      this.#events++;
      if (this.#violation) throw this.#violation;
    }
    this.#clock.run(ms - this.#clock.monotonicMs());
  }

  #trouble(): void {
    if (this.#calm) return;
    const rng = this.#rng;
    const node = pick(rng, this.#nodes);
    const ids = this.#nodes.map(({ id }) => id);
    const group = pick(rng, this.#groups);
    const leader = this.#nodes.find(({ replicas }) => replicas.get(group)?.driver.status().role === "leader");
    const action = pick(rng, actions);
    this.#count(action);
    switch (action) {
      case "power cut":
        this.#crash(node, true);
        break;
      case "power cut of all":
        for (const each of this.#nodes) this.#crash(each, true);
        break;
      case "kill of a leader":
        if (leader) this.#crash(leader, uniform(rng, 2) === 0);
        break;
      case "isolation of a leader":
        if (!leader) break;
        this.#net.heal();
        this.#net.partition([leader.id], ids.filter((id) => id !== leader.id));
        break;
      case "partition": {
        const left = ids.filter(() => uniform(rng, 2) === 0);
        this.#net.partition(left, ids.filter((id) => !left.includes(id)));
        break;
      }
      case "healing":
        this.#net.heal();
        break;
      case "pause":
        node.pausedUntilMs = this.#clock.monotonicMs() + 50 + uniform(rng, 400);
        break;
      case "slow disk":
        node.syncMsMax = pick(rng, [1, 20, 80]);
        break;
      case "transfer":
        leader?.replicas.get(group)?.driver.transferLeader(pick(rng, ids));
        break;
      case "checkpoint":
        for (const each of this.#nodes) if (uniform(rng, 2) === 0) each.checkpoint();
        break;
    }
    this.#clock.after(20 + uniform(rng, 180), () => this.#trouble());
  }

  #crash(node: SimNode, power: boolean): void {
    if (!node.up) return;
    node.crash(power, (waiting) => uniform(this.#rng, waiting + 1));
    this.#clock.after(20 + uniform(this.#rng, 400), () => {
      if (!node.up) node.boot();
    });
  }

  /** Everything heals: answers and the same state everywhere are due in bounded time. */
  #recover(): void {
    this.#calm = true;
    this.#net.heal();
    Object.assign(this.#net.faults, { drop: 0, duplicate: 0, replay: 0, delayMsMax: 5 });
    for (const node of this.#nodes) {
      node.pausedUntilMs = 0;
      node.syncMsMax = 2;
      if (!node.up) node.boot();
    }
    const deadline = this.#clock.monotonicMs() + recoveryMs;
    const before = this.#clients.acknowledged.size;
    while (this.#clients.acknowledged.size < before + 3) {
      require(
        this.#clock.monotonicMs() < deadline,
        `No write was answered within ${recoveryMs} ms after everything healed`,
      );
      this.#runUntil(this.#clock.monotonicMs() + 50);
    }
    this.#clients.stopped = true;
    this.#runUntil(this.#clock.monotonicMs() + 2_000);
    const behind = () =>
      this.#groups.filter((group) => {
        const indexes = this.#nodes.map(({ replicas }) => replicas.get(group)?.machine.appliedIndex());
        return indexes.some((index) => index !== indexes[0] || index === undefined);
      });
    while (behind().length > 0) {
      require(this.#clock.monotonicMs() < deadline + recoveryMs, `Groups ${behind()} have not come together`);
      this.#runUntil(this.#clock.monotonicMs() + 50);
    }
  }

  #judge(): void {
    const broken = this.#clients.broken();
    require(broken.length === 0, `History of keys ${broken} is not linearizable`);
    for (const group of this.#groups) {
      const replicas = this.#nodes.map(({ replicas }) => replicas.get(group)!);
      const hashes = replicas.map(({ machine }) => machine.hash());
      require(hashes.every((hash) => hash === hashes[0]), `Replicas of group ${group} differ in content`);
      const { db } = replicas[0]!.machine;
      const counts = db.all<{ op: string; c: number }>("SELECT op, count(*) AS c FROM entry GROUP BY op");
      const twice = counts.find(({ c }) => c > 1);
      require(twice === undefined, `Write ${twice?.op} took effect ${twice?.c} times`);
      this.#replay(group, replicas[0]!.machine, hashes[0]!);
      const held = new Set([...counts.map(({ op }) => op), ...this.#keysWritten(group)]);
      for (const each of this.#clients.acknowledged) {
        const [of, op] = each.split(" ") as [string, string];
        require(
          Number(of) !== group || held.has(op),
          `Write ${op} was acknowledged and is not in the log of group ${group}`,
        );
      }
    }
  }

  #entriesOf(group: number): Entry[] {
    const entries = [...this.#decided].filter(([at]) => at.startsWith(`${group}/`)).map(([, entry]) => entry);
    return entries.filter(({ kind, data }) => kind === "normal" && data.length > 0).sort((a, b) => a.index - b.index);
  }

  #keysWritten(group: number): string[] {
    return this.#entriesOf(group).flatMap(({ data }) => decodeEntry(data).dedupe?.key ?? []);
  }

  /** The log once more on a machine of its own, and its statements on plain SQLite. */
  #replay(group: number, machine: DatabaseMachine, hash: string): void {
    using fresh = new DatabaseMachine({ path: ":memory:" });
    for (const entry of this.#entriesOf(group)) fresh.applyBatch([entry]);
    require(fresh.hash() === hash, `A replay of group ${group} has other content`);
    using plain = openDatabase(":memory:");
    const seen = new Set<string>();
    for (const { data } of this.#entriesOf(group)) {
      const { kind, dedupe, payload } = decodeEntry(data);
      if (
        (kind !== entryKinds.batch && kind !== entryKinds.checkedBatch) ||
        (dedupe !== undefined && seen.has(dedupe.key))
      ) continue;
      try {
        plain.transaction(() => {
          const { statements, expectedResults } = fromBinary(BatchRequestSchema, payload);
          for (const { statement } of expectedResults) {
            const { n } = plain.get<{ n: number }>("SELECT n FROM counter")!;
            if (String(n) !== statement!.positional[0]!.kind.value) throw new Error("It rests on another counter");
          }
          for (const { sql, positional } of statements) {
            plain.run(sql, ...positional.map(({ kind }) => kind.case === "text" ? kind.value : null));
          }
        });
        if (dedupe !== undefined) seen.add(dedupe.key);
      } catch {
        // Refused there as here: the comparison tells.
      }
    }
    // What is left out is chance and time, which plain SQLite draws anew.
    for (const sql of ["SELECT n, op FROM entry ORDER BY n", "SELECT id, n FROM counter"]) {
      const [here, there] = [machine.db.all(sql), plain.all(sql)].map((rows) => JSON.stringify(rows));
      require(here === there, `Plain SQLite answers otherwise to ${sql} of group ${group}`);
    }
  }

  #count(fault: string): void {
    this.#faults[fault] = (this.#faults[fault] ?? 0) + 1;
  }

  #trace(a: number, b: number): void {
    const at = Math.round(this.#clock.monotonicMs() * 1_000);
    this.#hash = (Math.imul(this.#hash ^ at, 0x01000193) ^ Math.imul(a, 0x85ebca6b) ^ b) >>> 0;
  }
}

const actions = [
  "power cut",
  "power cut of all",
  "kill of a leader",
  "kill of a leader",
  "isolation of a leader",
  "isolation of a leader",
  "partition",
  "healing",
  "healing",
  "healing",
  "pause",
  "slow disk",
  "transfer",
  "checkpoint",
  "checkpoint",
  "checkpoint",
] as const;
