import assert from "node:assert/strict";
import { Fault } from "@ultracloud/base";
import { create, toBinary } from "@bufbuild/protobuf";
import { PutRequestSchema, StatementSchema } from "@ultracloud/proto/flaredb/v1";
import { openDatabase } from "@ultracloud/sqlite";
import fc from "fast-check";
import { encodeEntry, entryKinds, noSeed } from "../domain/log_entry.ts";
import { LoggedMachine } from "./_machine_fixture.ts";
import { DatabaseMachine } from "./database_machine.ts";

const utf8 = new TextEncoder();

/** A machine on a file in a directory of its own. */
class OnFile implements Disposable {
  readonly dir: string = Deno.makeTempDirSync();
  readonly path: string = `${this.dir}/x.db`;
  readonly lost: Error[] = [];
  readonly machine: DatabaseMachine;

  constructor(entriesMax?: number) {
    this.machine = new DatabaseMachine({ path: this.path, entriesMax, onLost: (error) => this.lost.push(error) });
  }
  put(key: string, value = utf8.encode(key)): void {
    const payload = toBinary(PutRequestSchema, create(PutRequestSchema, { bucket: "b", key, value }));
    const data = encodeEntry({ kind: entryKinds.put, timeMs: 1, seed: noSeed, dedupe: undefined, payload });
    this.machine.applyBatch([{ index: this.machine.appliedIndex() + 1, term: 1, data }]);
  }
  /** What the file says to whoever opens it. */
  inFile(): { readonly applied: number; readonly keys: number } {
    using other = openDatabase(this.path, { readOnly: true });
    const applied = other.get<{ n: number }>("SELECT value AS n FROM _uc_meta WHERE key='applied_index'")?.n ?? 0;
    return { applied, keys: other.get<{ n: number }>("SELECT count(*) AS n FROM _uc_kv")!.n };
  }
  /** The files as a process leaves them that is killed now. */
  killed(): string {
    const path = `${this.dir}/killed.db`;
    for (const suffix of ["", "-wal"]) Deno.copyFileSync(this.path + suffix, path + suffix);
    return path;
  }
  [Symbol.dispose](): void {
    this.machine.close();
    Deno.removeSync(this.dir, { recursive: true });
  }
}

/** A step of a database's life; some are refused half way. */
const steps: readonly ((m: LoggedMachine, i: number) => unknown)[] = [
  (m, i) => m.put({ bucket: "b", key: `k${i % 7}`, value: utf8.encode(`v${i}`), ttlMs: BigInt(i % 3 * 5) }, `p${i}`),
  (m, i) => m.delete({ bucket: "b", key: `k${i % 7}` }),
  (m, i) => m.cas({ bucket: "b", key: `k${i % 7}`, expectedVersion: BigInt(i % 2), value: utf8.encode("c") }),
  (m) => m.sweep(),
  (m, i) => m.execute("INSERT INTO t(v, r) VALUES(?, random())", text(`row ${i}`), `e${i % 5}`),
  (m, i) => m.execute("UPDATE t SET v = v || ? WHERE id % 3 = 0", text(String(i))),
  (m) => m.execute("INSERT INTO t(id, v) SELECT id + 1, 'clash' FROM t ORDER BY id DESC"),
  (m) => m.batch("INSERT INTO t(v) VALUES('half')", "INSERT INTO t(id) VALUES(1), (1)"),
  (m) => m.batch("INSERT INTO t(v) VALUES('both')", "DELETE FROM t WHERE id = (SELECT min(id) FROM t WHERE id > 1)"),
  (m, i) => m.batch(`CREATE TABLE made${i}(a UNIQUE)`, `INSERT INTO made${i} VALUES(1), (2)`),
  (m, i) => m.batch(`CREATE TABLE lost${i}(a)`, "INSERT INTO nowhere VALUES(1)"),
];
const text = (value: string) => ({ positional: [{ kind: { case: "text" as const, value } }] });

Deno.test("a process that is killed at any entry comes back to the same state from its file and the log", () => {
  let lagged = 0;
  const life = fc.record({
    steps: fc.array(fc.nat(steps.length - 1), { minLength: 1, maxLength: 40 }),
    entriesMax: fc.integer({ min: 1, max: 12 }),
    batch: fc.integer({ min: 1, max: 5 }),
    checkpointEvery: fc.integer({ min: 3, max: 30 }),
  });
  fc.assert(
    fc.property(life, ({ steps: chosen, entriesMax, batch, checkpointEvery }) => {
      using m = new LoggedMachine();
      using live = new OnFile(entriesMax);
      m.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v, r)");
      for (const [i, step] of chosen.entries()) {
        m.nowMs += i % 4;
        try {
          steps[step]!(m, i);
        } catch (error) {
          if (!(error instanceof Fault)) throw error;
        }
      }
      for (let at = 0; at < m.log.length; at += batch) {
        live.machine.applyBatch(m.log.slice(at, at + batch));
        if (at % checkpointEvery === 0) live.machine.checkpoint();
      }
      using revived = new DatabaseMachine({ path: live.killed() });
      const from = revived.appliedIndex();
      assert.ok(from >= m.log.length - entriesMax - batch, `${from} of ${m.log.length} with ${entriesMax}`);
      if (from < m.log.length) lagged++;
      if (from < m.log.length) revived.applyBatch(m.log.slice(from));
      assert.equal(revived.hash(), m.machine.hash());
      assert.equal(live.machine.hash(), m.machine.hash());
    }),
    { numRuns: 60 },
  );
  assert.ok(lagged > 10, `the file was behind in ${lagged} runs`);
});

Deno.test("batches share a transaction: others see it when it has collected enough, at a checkpoint and in copies", async () => {
  using file = new OnFile(5);
  for (let i = 1; i <= 4; i++) file.put(`k${i}`);
  assert.deepEqual(file.inFile(), { applied: 0, keys: 0 });
  assert.equal(file.machine.parts.kv.get("b", "k4", 0)?.version, 4, "here it is seen at once");
  file.put("k5");
  assert.deepEqual(file.inFile(), { applied: 5, keys: 5 });
  file.put("k6");
  assert.deepEqual(file.inFile(), { applied: 5, keys: 5 });
  assert.equal(file.machine.checkpoint(), 6);
  assert.deepEqual(file.inFile(), { applied: 6, keys: 6 });
  file.put("k7");
  const taking = file.machine.copyTo(`${file.dir}/copy.db`);
  file.put("k8");
  await taking;
  {
    using copy = new DatabaseMachine({ path: `${file.dir}/copy.db` });
    assert.ok(copy.appliedIndex() >= 7);
  }
  assert.ok(await file.machine.snapshotTo(`${file.dir}/snapshot`) >= 8);
  file.put("k9");
  file.machine.close();
  assert.deepEqual(file.inFile(), { applied: 9, keys: 9 });
});

Deno.test("many bytes, many rows and a changed schema end the transaction, too", () => {
  using m = new LoggedMachine();
  using file = new OnFile();
  const grown = () => {
    file.machine.applyBatch(m.log.slice(file.machine.appliedIndex()));
    return file.inFile().applied;
  };
  m.put({ bucket: "b", key: "k", value: new Uint8Array(1) });
  assert.equal(grown(), 0);
  m.execute("CREATE TABLE t(a)");
  assert.equal(grown(), 2);
  m.execute("INSERT INTO t VALUES(1)");
  assert.equal(grown(), 2);
  m.execute(
    "WITH n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 10000) INSERT INTO t SELECT x FROM n",
  );
  assert.equal(grown(), 4);
  m.put({ bucket: "b", key: "k", value: new Uint8Array(1) });
  assert.equal(grown(), 4);
  m.put({ bucket: "b", key: "k", value: new Uint8Array(2 ** 20) });
  assert.equal(grown(), 6);
});

Deno.test("what SQLite undid by itself is not read, not stored and not told to be durable", () => {
  using file = new OnFile(3);
  for (let i = 1; i <= 4; i++) file.put(`k${i}`);
  const { machine } = file;
  machine.db.raw.exec("ROLLBACK");
  for (
    const use of [() => machine.parts, () => machine.db, () => machine.checkpoint(), () => file.put("k5")]
  ) assert.throws(use, /SQLite has ended|is lost/);
  assert.equal(file.lost.length, 1);
  machine.close();
  assert.deepEqual(file.inFile(), { applied: 3, keys: 3 });
});

Deno.test("when the disk is full, applying and committing end the process, and the file stays at the last commit", () => {
  for (const fails of ["applying", "committing"] as const) {
    using file = new OnFile(3);
    for (let i = 1; i <= 4; i++) file.put(`k${i}`);
    const { machine } = file;
    const { pages } = machine.db.get<{ pages: number }>("SELECT page_count AS pages FROM pragma_page_count()")!;
    if (fails === "applying") {
      machine.db.get(`PRAGMA max_page_count=${pages}`);
      assert.throws(() => file.put("large", new Uint8Array(100_000)), /full/);
    } else {
      // What goes with a commit finds no room.
      machine.db.exec("CREATE TEMP TRIGGER full BEFORE UPDATE ON _uc_meta BEGIN SELECT raise(FAIL, 'no room'); END");
      assert.throws(() => machine.checkpoint(), /no room/);
    }
    assert.equal(file.lost.length, 1);
    assert.throws(() => machine.checkpoint());
    assert.throws(() => machine.parts);
    machine.close();
    assert.deepEqual(file.inFile(), { applied: 3, keys: 3 });
  }
});

Deno.test("a rehearsal that finds the disk full takes nothing along that was applied", () => {
  using m = new LoggedMachine();
  using file = new OnFile();
  const { machine } = file;
  m.execute("CREATE TABLE t(a)");
  m.execute("INSERT INTO t VALUES('applied')");
  machine.applyBatch(m.log);
  const { pages } = machine.db.get<{ pages: number }>("SELECT page_count AS pages FROM pragma_page_count()")!;
  machine.db.get(`PRAGMA max_page_count=${pages}`);
  const statement = create(StatementSchema, { sql: "INSERT INTO t VALUES(zeroblob(100000))" });
  assert.throws(() => machine.rehearse([statement], { timeMs: 1, seed: noSeed }, () => {}), /full/);
  assert.deepEqual(file.lost, []);
  assert.equal(machine.checkpoint(), 2);
  assert.equal(machine.hash(), m.machine.hash());
});
