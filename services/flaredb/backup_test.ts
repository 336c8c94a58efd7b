import assert from "node:assert/strict";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import {
  type BackupPart,
  BackupService,
  DatabaseService,
  KvService,
  type RestoreTarget,
  SqlService,
} from "@ultracloud/proto/flaredb/v1";
import { createRpcClient, toFault } from "@ultracloud/rpc";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { RestoreTargetSchema } from "@ultracloud/proto/flaredb/v1";
import { startReplica, until } from "./_replicas.ts";

const refusedAs = (code: string) => (error: unknown) => {
  assert.equal(toFault(error).code, code, String(error));
  return true;
};
const utf8 = new TextEncoder();
const database = "t_source";

async function world(work: (w: ReturnType<typeof clientsOf>) => Promise<void>): Promise<void> {
  const dir = await Deno.makeTempDir();
  try {
    await using replica = await startReplica({ dir });
    using stack = new DisposableStack();
    const w = clientsOf(replica.url, stack);
    await w.databases.createDatabase({ name: database });
    await work(w);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

function clientsOf(url: string, stack: DisposableStack) {
  const at = { endpoints: [url], authorization: () => "Bearer test", timeoutMs: 60_000 };
  const databases = stack.use(createRpcClient(DatabaseService, at));
  const sql = stack.use(createRpcClient(SqlService, at));
  const kv = stack.use(createRpcClient(KvService, at));
  const backups = stack.use(createRpcClient(BackupService, at));
  return {
    databases,
    sql,
    kv,
    backups,
    run: (text: string, name = database) => sql.execute({ database: name, statement: { sql: text } }),
    rows: async (text: string, name = database) => {
      const { result } = await sql.query({ database: name, statement: { sql: text } });
      return result!.rows.map((row) => row.values.map(({ kind }) => kind.case === "null" ? null : kind.value));
    },
    take: async (afterIndex = 0n): Promise<BackupPart[]> => {
      const parts: BackupPart[] = [];
      for await (const part of backups.backup({ database, afterIndex })) parts.push(part);
      return parts;
    },
    restore: (target: MessageInitShape<typeof RestoreTargetSchema>, ...files: readonly BackupPart[][]) =>
      backups.restore((async function* () {
        yield { part: { case: "target" as const, value: target as RestoreTarget } };
        for (const value of files.flat()) yield { part: { case: "backup" as const, value } };
      })()),
  };
}

const headerOf = (parts: BackupPart[]) => {
  const { part } = parts[0]!;
  assert.ok(part.case === "header");
  return part.value;
};

Deno.test("a backup taken under load and restored into a new database has every row, key, version and rule", () =>
  world(async ({ run, rows, kv, sql, take, restore, databases }) => {
    await run(
      "CREATE TABLE parent(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE, at TEXT DEFAULT CURRENT_TIMESTAMP)",
    );
    await run("CREATE TABLE child(p INTEGER REFERENCES parent(id) ON DELETE CASCADE, n INTEGER, d AS (n * 2))");
    await run("CREATE TABLE loose(a, b REAL, c BLOB)");
    await run("CREATE TABLE keyed(k TEXT PRIMARY KEY, v) WITHOUT ROWID");
    await run("CREATE INDEX child_n ON child(n)");
    await run("CREATE VIEW both AS SELECT name, n FROM parent JOIN child ON p = id");
    await run(
      "CREATE TRIGGER twice AFTER INSERT ON parent BEGIN INSERT INTO child VALUES(new.id, 1), (new.id, 2); END",
    );
    await run("INSERT INTO parent(name) VALUES('gone'), ('a')");
    await run("DELETE FROM parent WHERE name = 'gone'");
    await run("INSERT INTO loose VALUES(9007199254740993, 2.0, x'00ff'), (NULL, NULL, 'text'), ('', -0.5, x'')");
    await run("DELETE FROM loose WHERE rowid = 2");
    await run("INSERT INTO keyed VALUES('k', random())");
    const put = await kv.put({ database, bucket: "b", key: "k", value: utf8.encode("v"), ttlMs: 3_600_000n });
    let wrote = 0, stop = false;
    const load = (async () => {
      while (!stop) {
        await sql.execute({ database, statement: { sql: "INSERT INTO parent(name) VALUES('load' || random())" } });
        wrote++;
      }
    })();
    await until("some load", () => wrote > 20);
    const parts = await take();
    const during = wrote;
    await until("more load", () => wrote > during);
    stop = true;
    await load;
    const copied = await restore({ database: "t_copy" }, parts);
    const [[count]] = await rows("SELECT count(*) FROM parent", "t_copy") as [[bigint]];
    assert.ok(count >= 20n && count <= BigInt(wrote) + 1n, `${count} of ${wrote}`);
    assert.equal(copied.index, headerOf(parts).index);
    const same = [
      `SELECT * FROM parent WHERE id <= ${count}`,
      `SELECT rowid, * FROM child WHERE p <= ${count}`,
      "SELECT rowid, *, typeof(b), typeof(c) FROM loose",
      "SELECT * FROM keyed",
      `SELECT * FROM both WHERE name = 'a'`,
    ];
    for (const query of same) assert.deepEqual(await rows(query, "t_copy"), await rows(query), query);
    const { item } = await kv.get({ database: "t_copy", bucket: "b", key: "k" });
    assert.deepEqual([item?.version, item?.value], [put.version, utf8.encode("v")]);
    assert.ok(item?.expireTime);
    // It counts on, and its rules are in force.
    const next = await kv.put({ database: "t_copy", bucket: "b", key: "new", value: utf8.encode("v") });
    assert.ok(next.version > copied.index);
    const [[last]] = await rows("SELECT max(id) FROM parent", "t_copy") as [[bigint]];
    const made = await run("INSERT INTO parent(name) VALUES('after')", "t_copy");
    assert.equal(made.result?.lastInsertId, last + 1n);
    assert.deepEqual(await rows("SELECT n, d FROM child WHERE p = (SELECT max(id) FROM parent)", "t_copy"), [[1n, 2n], [
      2n,
      4n,
    ]]);
    await run("DELETE FROM parent WHERE name = 'after'", "t_copy");
    assert.deepEqual(await rows(`SELECT count(*) FROM child WHERE p = ${last + 1n}`, "t_copy"), [[0n]]);
    await assert.rejects(run("INSERT INTO child(p) VALUES(-1)", "t_copy"), refusedAs("sql_error"));
    await assert.rejects(restore({ database: "t_copy" }, parts), refusedAs("database_exists"));
    const check = await databases.checkReplicas({ name: "t_copy" });
    assert.match(check.sha256, /^[0-9a-f]{64}$/);
  }));

Deno.test("incremental backups restore to the end, to an index and to a time; chance and refusals come out the same", () =>
  world(async ({ run, rows, kv, databases, take, restore }) => {
    await databases.updateDatabase({ name: database, settings: { archive: true } });
    await run("CREATE TABLE t(id INTEGER PRIMARY KEY, v DEFAULT (random()), at DEFAULT (strftime('%f', 'now')))");
    await run("INSERT INTO t(id) VALUES(1)");
    const key = { database, bucket: "b", key: "k" };
    const first = await kv.put({ ...key, value: utf8.encode("one") });
    const full = await take();
    await run("INSERT INTO t(id) VALUES(2)");
    await assert.rejects(run("INSERT INTO t(id) VALUES(2)"), refusedAs("sql_error"));
    await kv.compareAndSwap({ ...key, expectedVersion: first.version, value: utf8.encode("two") });
    const incremental = await take(headerOf(full).index);
    const { index: middle } = await run("INSERT INTO t(id) VALUES(3)");
    const rowsThen = await rows("SELECT * FROM t");
    await until("a later millisecond", () => Date.now() > 0);
    const between = Date.now();
    await until("the clock to go on", () => Date.now() > between + 1);
    await run("DELETE FROM t");
    await kv.delete(key);
    const rest = await take(headerOf(incremental).index);

    const end = await restore({ database: "t_end" }, full, incremental, rest);
    assert.deepEqual(await rows("SELECT * FROM t", "t_end"), []);
    assert.equal((await kv.get({ ...key, database: "t_end" })).item, undefined);
    assert.ok(end.index >= middle);
    await restore({ database: "t_index", toIndex: middle }, full, incremental, rest);
    assert.deepEqual(await rows("SELECT * FROM t", "t_index"), rowsThen);
    const kept = await kv.get({ ...key, database: "t_index" });
    assert.deepEqual(kept.item?.value, utf8.encode("two"));
    assert.deepEqual(kept.item?.version, (await kv.get({ ...key, database: "t_index" })).item?.version);
    await restore({ database: "t_time", toTime: timestampFromMs(between) }, full, incremental, rest);
    assert.deepEqual(await rows("SELECT * FROM t", "t_time"), rowsThen);
    await assert.rejects(restore({ database: "t_early", toIndex: 1n }, full), refusedAs("backup_too_new"));
    await assert.rejects(restore({ database: "t_gap" }, full, rest), refusedAs("backup_damaged"));
    const { databases: all } = await databases.listDatabases({});
    assert.deepEqual(all.map(({ name }) => name).filter((name) => /gap|early/.test(name)), []);
  }));

Deno.test("a backup that was changed or cut is refused wherever the damage is, and leaves nothing", () =>
  world(async ({ run, take, restore, databases }) => {
    await run("CREATE TABLE t(a)");
    await run("INSERT INTO t VALUES(zeroblob(600000))");
    const parts = await take();
    const kinds = parts.map(({ part }) => part.case);
    assert.ok(kinds.filter((kind) => kind === "chunk").length >= 2);
    const flipped = (at: number) =>
      parts.map((whole, i) => {
        if (i !== at || whole.part.case !== "chunk") return whole;
        const value = whole.part.value.slice();
        value[value.length >> 1]! ^= 1;
        return { ...whole, part: { case: "chunk" as const, value } };
      });
    const header = parts[0]!;
    assert.ok(header.part.case === "header");
    const renamed = {
      ...header,
      part: { case: "header" as const, value: { ...header.part.value, database: "t_other" } },
    };
    const damaged: BackupPart[][] = [
      flipped(1),
      flipped(2),
      parts.slice(0, -1),
      parts.slice(0, -2),
      parts.slice(1),
      [parts[0]!, parts.at(-1)!],
      [renamed, ...parts.slice(1)],
      [parts[0]!, parts[2]!, parts[1]!, ...parts.slice(3)],
    ];
    for (const [i, bad] of damaged.entries()) {
      await assert.rejects(restore({ database: "t_bad" }, bad), refusedAs("backup_damaged"), `damage ${i}`);
    }
    const verified = await restore({ database: "t_bad", verifyOnly: true }, parts);
    assert.deepEqual(verified.tables.map(({ table, rows }) => [table, rows]), [["t", 1n]]);
    const { databases: all } = await databases.listDatabases({});
    assert.deepEqual(all.map(({ name }) => name), [database]);
  }));

Deno.test("migrations add under load; what loses data needs leave and a young backup, and is undone from it", () =>
  world(async ({ run, rows, sql, take, restore, databases, backups }) => {
    const one = {
      version: 1n,
      name: "people",
      statements: ["CREATE TABLE person(id INTEGER PRIMARY KEY, name TEXT, mail TEXT)"],
    };
    const two = {
      version: 2n,
      name: "age",
      statements: ["ALTER TABLE person ADD COLUMN age INTEGER DEFAULT 0", "CREATE INDEX person_age ON person(age)"],
    };
    const three = { version: 3n, name: "no mail", statements: ["ALTER TABLE person DROP COLUMN mail"] };
    const migrate = (migrations: (typeof one)[], more: { dryRun?: boolean; allowDestructive?: boolean } = {}) =>
      sql.migrate({ database, migrations, ...more });
    assert.equal((await migrate([one])).version, 1n);
    let wrote = 0, stop = false;
    const load = (async () => {
      while (!stop) {
        await run(`INSERT INTO person(name, mail) VALUES('n${wrote}', 'm')`);
        wrote++;
      }
    })();
    await until("load", () => wrote > 10);
    const dry = await migrate([one, two], { dryRun: true });
    assert.deepEqual([dry.applied.length, dry.version], [1, 1n]);
    const [applied, raced] = await Promise.allSettled([migrate([one, two]), migrate([one, two])]);
    assert.ok([applied, raced].some(({ status }) => status === "fulfilled"));
    const before = wrote;
    await until("more load", () => wrote > before + 10);
    stop = true;
    await load;
    assert.deepEqual(await rows("SELECT count(*), sum(age) FROM person"), [[BigInt(wrote), 0n]]);
    assert.equal((await migrate([one, two])).applied.length, 0);

    await assert.rejects(migrate([one, { ...two, name: "other" }]), refusedAs("migration_changed"));
    await assert.rejects(migrate([one]), refusedAs("migration_unknown"));
    await assert.rejects(migrate([one, two, { ...three, version: 4n }]), /wanted 3/);
    const broken = { version: 3n, name: "broken", statements: ["CREATE TABLE ok(a)", "CREATE TABLE ok(a)"] };
    await assert.rejects(migrate([one, two, broken]), refusedAs("sql_error"));
    await assert.rejects(rows("SELECT * FROM ok"), refusedAs("sql_error"));

    const destructive = await migrate([one, two, three], { dryRun: true });
    assert.deepEqual(destructive.destructive, three.statements);
    await assert.rejects(migrate([one, two, three]), refusedAs("migration_destructive"));
    await assert.rejects(migrate([one, two, three], { allowDestructive: true }), refusedAs("backup_needed"));
    const held = await rows("SELECT * FROM person");
    const parts = await take();
    assert.equal((await backups.listBackups({ database })).backups.length, 1);
    assert.equal((await migrate([one, two, three], { allowDestructive: true })).version, 3n);
    await assert.rejects(rows("SELECT mail FROM person"), refusedAs("sql_error"));

    // Undone: checked, then in the place of what was lost.
    await restore({ database: "t_checked", verifyOnly: true }, parts);
    await databases.deleteDatabase({ name: database });
    await restore({ database }, parts);
    assert.deepEqual(await rows("SELECT * FROM person"), held);
    const { migrations } = await sql.listMigrations({ database });
    assert.deepEqual(migrations.map(({ version, name }) => [version, name]), [[1n, "people"], [2n, "age"]]);
  }));
