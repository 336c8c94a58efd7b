import { Fault, seededRng, uniform, utf8 } from "@ultracloud/base";
import { type Database, openDatabase } from "@ultracloud/sqlite";
import assert from "node:assert/strict";
import { checkOp } from "../domain/check.ts";
import { callKeyTtlMs, sessionsCountMax, sessionUnansweredMax } from "../domain/limits.ts";
import type { CallKey, Command, KvEvent, Op, RangeOp, RangeResult, SessionCall } from "../domain/types.ts";
import { encodeEntry } from "./entry_codec.ts";
import { ChainfireState } from "./machine.ts";
import { randomSessionCall } from "./_random_admin.ts";
import { type Choices, randomCommand, randomRange } from "./_random_commands.ts";
import { TwinState } from "./_twin.ts";

const b = utf8.encode;
const none = new Uint8Array(0);
const put = (key: string, value: string, more: Partial<Extract<Op, { kind: "put" }>> = {}): Command => ({
  kind: "put",
  key: b(key),
  value: b(value),
  lease: 0n,
  prevKv: false,
  ignoreValue: false,
  ignoreLease: false,
  ...more,
});
const remove = (key: string, end = ""): Command => ({ kind: "delete", key: b(key), end: b(end), prevKv: true });
const range = (key: string, more: Partial<RangeOp> = {}): RangeOp => ({
  kind: "range",
  key: b(key),
  end: none,
  limit: 0,
  revision: 0,
  descending: false,
  target: "key",
  keysOnly: false,
  countOnly: false,
  minMod: 0,
  maxMod: 0,
  minCreate: 0,
  maxCreate: 0,
  ...more,
});

/** A state with the index it is at, fed one command at a time. */
class Fed {
  readonly db: Database;
  readonly state: ChainfireState;
  readonly events: KvEvent[] = [];

  readonly lost: Error[] = [];

  constructor(path = ":memory:") {
    this.db = openDatabase(path);
    this.state = new ChainfireState(this.db, undefined, (error) => this.lost.push(error));
    this.state.listen({ changed: (events) => void this.events.push(...events), replaced: () => {} });
  }

  apply(command: Command, clockMs = 0, call?: CallKey, session?: SessionCall): unknown {
    const data = encodeEntry({ clockMs, call, session, command });
    return this.state.applyBatch([{ index: this.state.appliedIndex() + 1, term: 1, data }])[0];
  }

  [Symbol.dispose](): void {
    this.db.close();
  }
}

/** Faults as their codes, so that answers of twins compare. */
const plain = (result: unknown) => result instanceof Fault ? { kind: result.kind, code: result.code } : result;
const attempt = (work: () => unknown) => {
  try {
    return work();
  } catch (error) {
    return error;
  }
};

Deno.test("state answers every command and every read as its plain twin does", () => {
  const codes = new Set<string>();
  for (let seed = 1; seed <= 60; seed++) {
    const rng = seededRng(seed);
    using fed = new Fed();
    const twin = new TwinState();
    let clockMs = 0;
    for (let step = 0; step < 120; step++) {
      const at = `seed ${seed} step ${step}`;
      clockMs += uniform(rng, 40);
      const choices: Choices = { revision: twin.revision };
      const command = randomCommand(rng, choices);
      if (command.kind === "txn" && attempt(() => checkOp(command)) instanceof Fault) continue;
      const before = fed.events.length;
      const session = uniform(rng, 3) === 0 ? randomSessionCall(rng) : undefined;
      const actual = plain(fed.apply(command, clockMs, undefined, session));
      assert.deepEqual(actual, plain(twin.apply(command, clockMs, session)), at);
      if (actual !== null && typeof actual === "object" && "code" in actual) codes.add(String(actual.code));
      assert.deepEqual(fed.state.alarms, twin.admin.alarms, at);
      assert.deepEqual(new Map([...fed.state.members].sort()), new Map([...twin.admin.members].sort()), at);
      for (const { quota, usage } of fed.state.quotas.list()) {
        assert.deepEqual(usage, twin.admin.usage(quota, twin.now), `${at} usage`);
      }
      assert.equal(fed.state.revision, twin.revision, at);
      for (const event of fed.events.slice(before)) assert.ok(event.kv.modRevision <= twin.revision, at);
      if (uniform(rng, 4) === 0) fed.state.sweep();
      const read = randomRange(rng, { revision: twin.revision });
      assert.deepEqual(plain(attempt(() => fed.state.range(read))), plain(twin.range(read)), `${at} range`);
    }
    // What history tells from any revision on is what was told as it happened.
    const all = { key: new Uint8Array([0]), end: new Uint8Array([0]) };
    const from = Math.max(twin.compactRevision, 1);
    const told: KvEvent[] = [];
    for (let next = from; next <= fed.state.revision;) {
      const part = fed.state.changes(all, next, 7, true);
      told.push(...part.events);
      next = part.next;
    }
    const expected = fed.events.filter((event) => event.kv.modRevision >= from);
    const withoutPrev = (event: KvEvent) => ({ type: event.type, kv: event.kv });
    assert.deepEqual(told.map(withoutPrev), expected.map(withoutPrev), `seed ${seed} changes`);
  }
  // Rejections that the random commands must have met, or they prove nothing.
  const wanted = [
    "compacted",
    "key_not_found",
    "lease_exists",
    "lease_not_found",
    "member_id_used",
    "member_not_found",
    "quota_exceeded",
    "quota_not_found",
    "sequence_answered",
    "sequence_mismatch",
    "session_expired",
  ];
  assert.deepEqual(wanted.filter((code) => !codes.has(code)), []);
});

Deno.test("restore() of a snapshot gives the same answers and the same snapshot", () => {
  using source = new Fed();
  const rng = seededRng(7);
  for (let i = 0; i < 200; i++) source.apply(randomCommand(rng, { revision: source.state.revision }), i);
  source.apply(put("z", "1"), 500, { caller: "a", key: "k", bodyHash: "h" });
  const bytes = source.state.snapshot();
  using copy = new Fed();
  copy.apply(put("gone", "x"));
  copy.state.restore(source.state.appliedIndex(), bytes);
  assert.deepEqual(copy.state.snapshot(), bytes);
  assert.equal(copy.state.appliedIndex(), source.state.appliedIndex());
  assert.deepEqual(copy.apply(put("n", "1")), source.apply(put("n", "1")));
});

Deno.test("a snapshot through a file carries the same state as one of bytes", async () => {
  const dir = await Deno.makeTempDir();
  try {
    using source = new Fed();
    const rng = seededRng(8);
    for (let i = 0; i < 200; i++) source.apply(randomCommand(rng, { revision: source.state.revision }), i);
    source.apply(put("z", "1"), 500, { caller: "a", key: "k", bodyHash: "h" });
    const index = await source.state.snapshotTo(`${dir}/state`);
    assert.equal(index, source.state.appliedIndex());
    // What comes later is not in it.
    const before = source.state.snapshot();
    source.apply(put("later", "x"));
    using copy = new Fed();
    copy.apply(put("gone", "x"));
    for (let i = 0; i < 2; i++) await copy.state.restoreFrom(index, `${dir}/state`);
    assert.deepEqual(copy.state.snapshot(), before);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});

Deno.test("a range larger than an answer is cut where it is full, and says so", () => {
  using fed = new Fed();
  const keys = Array.from({ length: 400 }, (_, i) => `k${String(i).padStart(3, "0")}`);
  keys.forEach((key, i) => fed.apply(put(key, "x".repeat(i < 100 ? 10 : 20_000))));
  const all = { end: new Uint8Array([0]) };
  const names = (found: RangeResult) => found.kvs.map((kv) => utf8.decode(kv.key));
  const cut = fed.state.range(range("k", all));
  assert.deepEqual([cut.more, cut.count], [true, 400]);
  assert.ok(cut.kvs.length > 200 && cut.kvs.length < 300, `${cut.kvs.length} keys`);
  assert.deepEqual(names(cut), keys.slice(0, cut.kvs.length));
  const rest = fed.state.range(range(keys[cut.kvs.length]!, { ...all, limit: 90 }));
  assert.deepEqual(names(rest), keys.slice(cut.kvs.length, cut.kvs.length + 90));
  assert.deepEqual(names(fed.state.range(range("k", { ...all, keysOnly: true }))), keys);
  const last = { ...all, descending: true, limit: 130, keysOnly: true };
  assert.deepEqual(names(fed.state.range(range("k", last))), keys.toReversed().slice(0, 130));
  fed.apply(put("z", "y".repeat(1_400_000)));
  fed.apply(put("zz", "y".repeat(1_400_000)));
  assert.deepEqual(names(fed.state.range(range("z", all))), ["z", "zz"]);

  using copy = new Fed();
  copy.state.restore(fed.state.appliedIndex(), fed.state.snapshot());
  assert.deepEqual(copy.state.range(range("k", { ...all, keysOnly: true })).kvs.length, 402);
  assert.deepEqual(copy.state.snapshot(), fed.state.snapshot());
});

Deno.test("a rejected transaction leaves nothing behind, not even an event", () => {
  using fed = new Fed();
  const before = fed.state.snapshot();
  const txn: Command = {
    kind: "txn",
    compares: [],
    success: [put("a", "1") as Op, put("b", "1", { lease: 9n }) as Op],
    failure: [],
  };
  assert.equal((fed.apply(txn) as Fault).code, "lease_not_found");
  assert.deepEqual(fed.events, []);
  assert.equal(fed.state.revision, 1);
  assert.equal(fed.state.range(range("a")).count, 0);
  assert.notDeepEqual(fed.state.snapshot(), before); // the index moved on
});

Deno.test("a call repeated under its idempotency key is answered, not done again", () => {
  using fed = new Fed();
  const call = { caller: "user:usr_1", key: "k", bodyHash: "h" };
  const first = fed.apply(put("a", "1", { prevKv: true }), 0, call);
  assert.deepEqual(fed.apply(put("a", "1", { prevKv: true }), 5, call), first);
  assert.equal(fed.state.revision, 2);
  assert.equal((fed.apply(put("a", "2"), 5, { ...call, bodyHash: "other" }) as Fault).code, "idempotency_mismatch");
  fed.apply(put("a", "1"), 5, { ...call, caller: "user:usr_2" });
  assert.equal(fed.state.revision, 3);
  // Once its time is over a key is forgotten, at the latest when another comes.
  fed.apply(put("b", "1"), callKeyTtlMs + 10, { ...call, key: "other" });
  fed.apply(put("a", "1"), callKeyTtlMs + 10, call);
  assert.equal(fed.state.revision, 5);
});

Deno.test("a lease never ends before its time on the replicated clock, and then takes its keys with it", () => {
  using fed = new Fed();
  fed.apply({ kind: "grant", id: 5n, ttlMs: 100 }, 1_000);
  fed.apply(put("a", "1", { lease: 5n }), 1_000);
  fed.apply({ kind: "expire" }, 1_099);
  assert.equal(fed.state.range(range("a")).count, 1);
  fed.apply({ kind: "keep_alive", id: 5n }, 1_099);
  fed.apply({ kind: "expire" }, 1_199);
  assert.equal(fed.state.range(range("a")).count, 1);
  fed.apply({ kind: "expire" }, 900); // an old leader's clock does not turn time back
  assert.equal(fed.state.clockMs, 1_199);
  fed.apply({ kind: "expire" }, 1_200);
  assert.equal(fed.state.range(range("a")).count, 0);
  assert.deepEqual(fed.events.at(-1)?.type, "delete");
  assert.equal((fed.apply({ kind: "keep_alive", id: 5n }, 1_300) as Fault).code, "lease_not_found");
});

Deno.test("sweep() frees what compaction made unreachable and nothing else", () => {
  using fed = new Fed();
  for (let i = 0; i < 700; i++) fed.apply(put("a", String(i)));
  fed.apply(remove("a"));
  fed.apply(put("b", "1"));
  fed.apply({ kind: "compact", revision: fed.state.revision });
  while (fed.state.sweep());
  assert.deepEqual(fed.db.all<{ n: number }>("SELECT COUNT(*) AS n FROM history")[0]?.n, 1);
  assert.equal(fed.state.range(range("b")).count, 1);
});

Deno.test("a database opened again goes on where it was", () => {
  const dir = Deno.makeTempDirSync();
  try {
    {
      using db = openDatabase(`${dir}/x.db`);
      const state = new ChainfireState(db);
      const data = encodeEntry({ clockMs: 77, call: undefined, command: put("a", "1") });
      state.applyBatch([{ index: 4, term: 1, data }]);
      state.skipTo(5);
      // A read that stops early must not leave a cursor that holds up the checkpoint.
      state.range(range("a", { end: new Uint8Array([0]), limit: 5_000 }));
      assert.equal(state.checkpoint(), 5);
    }
    using db = openDatabase(`${dir}/x.db`);
    const state = new ChainfireState(db);
    assert.deepEqual([state.appliedIndex(), state.revision, state.clockMs], [5, 2, 77]);
  } finally {
    Deno.removeSync(dir, { recursive: true });
  }
});

Deno.test("what a full disk undoes is read no more and never taken for written: the log brings it back", async () => {
  const dir = await Deno.makeTempDir();
  try {
    const puts = [..."abcde"].map((key) => put(key, "1"));
    {
      using fed = new Fed(`${dir}/state.db`);
      fed.state.checkpoint();
      for (const command of puts) fed.apply(command);
      // Counting writes what was put into the open transaction.
      assert.equal(fed.state.countKeys(), 5);
      const { n } = fed.db.get<{ n: number }>("SELECT page_count AS n FROM pragma_page_count()")!;
      fed.db.exec(`PRAGMA max_page_count=${n}`);
      fed.apply(put("big", "x".repeat(100_000)));
      assert.throws(() => fed.state.checkpoint(), /full/);
      assert.match(fed.lost[0]!.message, /what was applied is lost/);
      // Room again, too late for this process.
      fed.db.exec("PRAGMA max_page_count=1000000");
      for (const use of [() => fed.state.range(range("a")), () => fed.apply(put("f", "1")), () => fed.state.sweep()]) {
        assert.throws(use, /what was applied is lost/);
      }
      assert.throws(() => fed.state.checkpoint(), /what was applied is lost/);
      assert.equal(fed.lost.length, 1);
    }
    using fed = new Fed(`${dir}/state.db`);
    assert.equal(fed.state.appliedIndex(), 0, "the log is asked for all of them");
    for (const command of puts) fed.apply(command);
    assert.equal(fed.state.countKeys(), 5);
    fed.state.checkpoint();
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});

Deno.test("the session unused for longest makes room, also after a restart, and its writes are refused for good", async () => {
  const dir = await Deno.makeTempDir();
  try {
    const openAll = (state: Fed) => {
      const ids: bigint[] = [];
      for (let i = 0; i < sessionsCountMax; i++) {
        ids.push((state.apply({ kind: "open_session", caller: "a" }) as { id: bigint }).id);
      }
      return ids;
    };
    const write = (session: bigint, sequence: number) => ({
      caller: "a",
      session,
      sequence,
      answeredBelow: 0,
      bodyHash: 0,
    });
    let ids: bigint[];
    {
      using fed = new Fed(`${dir}/state.db`);
      ids = openAll(fed);
      // Used again: no longer the oldest.
      fed.apply(put("a", "1"), 0, undefined, write(ids[0]!, 1));
      fed.state.checkpoint();
    }
    using fed = new Fed(`${dir}/state.db`);
    fed.apply({ kind: "open_session", caller: "a" });
    const gone = fed.apply(put("a", "2"), 0, undefined, write(ids[1]!, 1));
    assert.equal((gone as Fault).code, "session_expired");
    const again = fed.apply(put("a", "1"), 0, undefined, write(ids[0]!, 1));
    assert.deepEqual(again, { kind: "put", revision: 2, prev: undefined });
    assert.equal(fed.state.revision, 2);
    for (let i = 2; i < 2 + sessionUnansweredMax - 1; i++) {
      fed.apply(put("a", "x"), 0, undefined, write(ids[0]!, i));
    }
    const full = fed.apply(put("a", "y"), 0, undefined, write(ids[0]!, 1_000));
    assert.equal((full as Fault).code, "session_full");
    const room = fed.apply(put("a", "y"), 0, undefined, { ...write(ids[0]!, 1_000), answeredBelow: 50 });
    assert.equal((room as { kind: string }).kind, "put");
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});

Deno.test("the rolling hash is equal where the same was applied, however often it restarted, and differs otherwise", () => {
  using one = new Fed();
  using two = new Fed();
  const rng = seededRng(11);
  for (let i = 0; i < 300; i++) {
    const command = randomCommand(rng, { revision: one.state.revision });
    one.apply(command, i);
    two.apply(command, i);
    if (i % 50 === 0) two.state.restore(one.state.appliedIndex(), one.state.snapshot());
    if (i % 7 === 0) two.state.sweep();
    assert.equal(one.state.stateHash, two.state.stateHash, `step ${i}`);
  }
  one.apply(put("a", "1"));
  two.apply(put("a", "2"));
  assert.notEqual(one.state.stateHash, two.state.stateHash);
});
