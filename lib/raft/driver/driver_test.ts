import assert from "node:assert/strict";
import { seededRng } from "@ultracloud/base";
import { MemoryView } from "../core/_test_support.ts";
import { bootstrapBatch } from "../core/configuration.ts";
import { message } from "../core/message.ts";
import type { Entry, HardState } from "../core/types.ts";
import { RaftDriver } from "./driver.ts";
import type {
  Done,
  LogBatch,
  LogStore,
  ProposalOutcome,
  ReadOutcome,
  Snapshot,
  SnapshotHeader,
  StateMachine,
} from "./types.ts";

/** A log whose writes become durable when the test says so. */
class HeldLog extends MemoryView implements LogStore {
  hardState: HardState = { term: 0, vote: 0, commit: 0 };
  readonly waiting: Done[] = [];
  released = 0;
  snapshot: Snapshot | undefined;

  initialState() {
    return { hardState: this.hardState, base: this.base };
  }
  write(batch: LogBatch): void {
    this.append(batch.entries);
    if (batch.hardState) this.hardState = batch.hardState;
  }
  override append(batch: LogBatch | readonly Entry[], done?: Done): void {
    if (!done) return super.append(batch as readonly Entry[]);
    this.write(batch as LogBatch);
    this.waiting.push(done);
  }
  installSnapshot(snapshot: Snapshot, done: Done): void {
    this.snapshot = snapshot;
    this.base = snapshot.meta;
    this.held = [];
    this.waiting.push(done);
  }
  loadSnapshot() {
    return this.snapshot;
  }
  releaseSnapshot(index: number): void {
    this.released = index;
  }
  compact(): void {}
  complete(error?: Error): void {
    for (const done of this.waiting.splice(0)) done(error);
  }
}

class Texts implements StateMachine {
  index = 0;
  texts: string[] = [];
  appliedIndex = () => this.index;
  apply(entries: readonly Entry[], done: (results: readonly unknown[]) => void): void {
    this.index = entries.at(-1)!.index;
    done(
      entries.map(({ kind, data }) => kind === "normal" && data.length > 0 ? this.texts.push(text(data)) : undefined),
    );
  }
  snapshot(done: (taken: { index: number; data: Uint8Array }) => void): void {
    done({ index: this.index, data: bytes(this.texts.join()) });
  }
  restore(snapshot: Snapshot, done: Done): void {
    this.index = snapshot.meta.index;
    this.texts = text(snapshot.data).split(",");
    done();
  }
}

const bytes = (s: string) => new TextEncoder().encode(s);
const text = (b: Uint8Array) => new TextDecoder().decode(b);

function single(log = new HeldLog(), machine = new Texts(), more: { nowMs?: () => number } = {}) {
  if (log.hardState.term === 0) log.write(bootstrapBatch([1]));
  const events = { wakes: 0, fatal: undefined as Error | undefined };
  const leaseReads = more.nowMs ? { leaseReads: { tickMs: 10, driftMax: 0.1 } } : {};
  const options = { id: 1, electionTicks: 10, heartbeatTicks: 2, retainedEntries: 0, ...leaseReads };
  const sent: { header: SnapshotHeader; done: (installed: boolean) => void }[] = [];
  const driver = new RaftDriver(options, {
    ...more,
    log,
    machine,
    transport: { send: () => {}, sendSnapshot: (header, _, done) => void sent.push({ header, done }) },
    events: { wake: () => void events.wakes++, fatal: (error) => (events.fatal = error) },
    rng: seededRng(1),
  });
  /** Runs and completes writes until nothing is left. */
  const settle = () => {
    do {
      log.complete();
      driver.run();
    } while (log.waiting.length > 0);
  };
  return { driver, log, machine, events, settle, sent };
}

Deno.test("RaftDriver answers a proposal after its write is durable and applied, with the machine's result", () => {
  const { driver, log, machine, settle } = single();
  driver.start();
  settle();
  assert.equal(driver.status().role, "leader");
  const outcomes: ProposalOutcome[] = [];
  driver.propose(bytes("a"), (outcome) => outcomes.push(outcome));
  driver.propose(bytes("b"), (outcome) => outcomes.push(outcome));
  driver.run();
  assert.equal(log.waiting.length, 1, "both share one write");
  assert.deepEqual([outcomes, machine.texts], [[], []]);
  settle();
  assert.deepEqual(outcomes, [{ index: 3, result: 1 }, { index: 4, result: 2 }]);
  assert.deepEqual(machine.texts, ["a", "b"]);
});

Deno.test("RaftDriver serves no read before everything that survived a restart is applied", () => {
  const before = single();
  before.driver.start();
  before.settle();
  before.driver.propose(bytes("a"), () => {});
  before.settle();
  const { driver, log, machine, settle } = single(before.log);
  driver.start();
  const reads: ReadOutcome[] = [];
  driver.run();
  driver.read((outcome) => reads.push(outcome));
  assert.deepEqual(machine.texts, []);
  settle();
  driver.read((outcome) => reads.push(outcome));
  settle();
  assert.deepEqual(machine.texts, ["a"]);
  assert.ok(reads.some((read) => "index" in read && read.index === log.lastIndex()));
});

Deno.test("RaftDriver ends itself when the log fails, and refuses whoever waits", () => {
  const { driver, log, events, settle } = single();
  driver.start();
  settle();
  const outcomes: ProposalOutcome[] = [];
  driver.propose(bytes("a"), (outcome) => outcomes.push(outcome));
  driver.run();
  log.complete(new Error("Input/output error"));
  assert.match(events.fatal!.message, /Input\/output/);
  assert.deepEqual(outcomes, [{ refused: "stopped", leader: 0 }]);
  driver.propose(bytes("b"), (outcome) => outcomes.push(outcome));
  assert.equal(outcomes.length, 2);
});

Deno.test("RaftDriver restores a state machine that is behind the log from the snapshot the log holds", () => {
  const log = new HeldLog();
  const configuration = { voters: [1], votersOutgoing: [], learners: [], learnersNext: [], autoLeave: false };
  log.base = { index: 7, term: 2, configuration };
  log.hardState = { term: 2, vote: 0, commit: 7 };
  log.snapshot = { meta: log.base, data: bytes("x,y") };
  const { driver, machine, settle } = single(log);
  driver.start();
  settle();
  assert.deepEqual(machine.texts, ["x", "y"]);
  assert.equal(driver.status().role, "leader");
  assert.equal(driver.compact(machine.index), machine.index);
  assert.equal(log.released, 7);
});

Deno.test("RaftDriver refuses to start on a log whose front is gone without a snapshot of it", () => {
  const log = new HeldLog();
  const configuration = { voters: [1], votersOutgoing: [], learners: [], learnersNext: [], autoLeave: false };
  log.base = { index: 7, term: 2, configuration };
  log.hardState = { term: 2, vote: 0, commit: 7 };
  assert.throws(() => single(log).driver.start(), /without a snapshot/);
});

Deno.test("RaftDriver answers a change of the members when it is in force and applied", () => {
  const { driver, settle } = single();
  driver.start();
  settle();
  const outcomes: unknown[] = [];
  driver.changeConfiguration({ steps: [{ type: "add_learner", id: 2 }] }, (outcome) => outcomes.push(outcome));
  driver.changeConfiguration({ steps: [{ type: "add_learner", id: 3 }] }, (outcome) => outcomes.push(outcome));
  assert.deepEqual(outcomes, [{ refused: "change_pending", leader: 1 }]);
  settle();
  const { configuration, progress } = driver.status();
  assert.deepEqual(outcomes[1], { index: 3, configuration });
  assert.deepEqual(configuration.learners, [2]);
  assert.deepEqual([...progress!.keys()], [2]);
  assert.throws(() => driver.changeConfiguration({ leave: true }, () => {}), { code: "not_joint" });
});

Deno.test("RaftDriver keeps the log behind a snapshot that is on its way, and cuts it afterwards", () => {
  const { driver, machine, settle, sent, log } = single();
  driver.start();
  settle();
  for (let i = 0; i < 10; i++) driver.propose(bytes("x"), () => {});
  settle();
  log.cut(5);
  driver.core!.compacted(5);
  driver.changeConfiguration({ steps: [{ type: "add_learner", id: 2 }] }, () => {});
  settle();
  // The newcomer refuses everything: it has nothing, and what it needs is cut off.
  const { term, progress } = driver.status();
  const refused = progress!.get(2)!.next - 1;
  driver.receive([message("append_response", 2, 1, term, 0, refused, 0, [], true, 0, 0)]);
  driver.run();
  assert.equal(sent.length, 1);
  const at = sent[0]!.header.meta.index;
  for (let i = 0; i < 10; i++) driver.propose(bytes("y"), () => {});
  settle();
  assert.equal(driver.compact(machine.index), at);
  log.cut(at);
  sent[0]!.done(true);
  driver.run();
  assert.equal(driver.compact(machine.index), machine.index);
});

Deno.test("RaftDriver within its lease answers reads at once, and asks again when it is over", () => {
  let nowMs = 0;
  const { driver, settle } = single(undefined, undefined, { nowMs: () => nowMs });
  driver.start();
  settle();
  const reads: ReadOutcome[] = [];
  const read = () => driver.read((outcome) => reads.push(outcome));
  read();
  assert.equal(reads.length, 0);
  settle();
  assert.equal(reads.length, 1);
  read();
  assert.equal(reads.length, 2, "nobody was asked");
  nowMs += 10_000;
  read();
  assert.equal(reads.length, 2);
  settle();
  assert.equal(reads.length, 3);
});
