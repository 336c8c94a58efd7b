import assert from "node:assert/strict";
import { systemClock } from "@ultracloud/base";
import { BackupService, DatabaseService, KvService, Level, SqlService } from "@ultracloud/proto/flaredb/v1";
import { createRpcClient, toFault } from "@ultracloud/rpc";
import { makeMembers, startReplica, until } from "./_replicas.ts";

const refusedAs = (code: string) => (error: unknown) => {
  assert.equal(toFault(error).code, code);
  return true;
};
const database = "t_levels";

async function inTempDir(work: (dir: string) => Promise<void>): Promise<void> {
  const dir = await Deno.makeTempDir();
  try {
    await work(dir);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

Deno.test("every replica answers as of an index, strong through the log, and stale only as long as it heard its leader", () =>
  inTempDir(async (dir) => {
    await using all = new AsyncDisposableStack();
    const members = makeMembers(3);
    const replicas = await Promise.all(
      members.map(async ({ id }) => all.use(await startReplica({ dir: `${dir}/${id}`, memberId: id, members }))),
    );
    using clients = new DisposableStack();
    const at = (endpoints: readonly string[], retries?: number) => ({
      endpoints,
      authorization: () => "Bearer test",
      timeoutMs: 10_000,
      ...(retries === undefined ? {} : { retries }),
    });
    const endpoints = members.map((member) => member.clientUrl);
    const databases = clients.use(createRpcClient(DatabaseService, at(endpoints)));
    const sql = clients.use(createRpcClient(SqlService, at(endpoints)));
    const done = (work: () => Promise<unknown>) => until("the call", () => work().then(() => true, () => false));
    await done(() => databases.createDatabase({ name: database, ifNotExists: true }));
    await done(() =>
      sql.execute({ database, statement: { sql: "CREATE TABLE IF NOT EXISTS t(a INTEGER PRIMARY KEY)" } })
    );
    const alone = endpoints.map((url) => clients.use(createRpcClient(SqlService, at([url], 0))));
    const query = { database, statement: { sql: "SELECT max(a) FROM t" } };
    const newest = (answer: Awaited<ReturnType<typeof sql.query>>) => answer.result!.rows[0]!.values[0]!.kind.value;
    for (let a = 1; a <= 10; a++) {
      let index = 0n;
      await done(async () => {
        const statement = { sql: `INSERT OR REPLACE INTO t VALUES(${a})` };
        index = (await sql.execute({ database, statement }, { headers: { "idempotency-key": `row-${a}` } })).index;
      });
      // Nobody but the leader had to have it when the write was answered.
      for (const client of alone) {
        const answer = await client.query({ ...query, read: { level: Level.AT_INDEX, atIndex: index } });
        assert.equal(newest(answer), BigInt(a));
        assert.ok(answer.index >= index);
      }
      assert.equal(newest(await sql.query({ ...query, read: { level: Level.STRONG } })), BigInt(a));
    }
    // An index that is not there yet is waited for, and no longer than the caller does.
    const ahead = (await sql.query(query)).index + 1_000n;
    const waiting = alone[0]!.query({ ...query, read: { level: Level.AT_INDEX, atIndex: ahead } }, { timeoutMs: 200 });
    await assert.rejects(waiting, (error) => {
      assert.equal(toFault(error).kind, "deadline_exceeded");
      return true;
    });

    // A watch there ends, so that its reader goes on elsewhere.
    const kv = clients.use(createRpcClient(KvService, at([endpoints[2]!], 0)));
    const told = Promise.withResolvers<void>();
    const watching = (async () => {
      for await (const _ of kv.watch({ database, bucket: "b" }, { timeoutMs: 60_000 })) told.resolve();
    })().catch((error) => (told.reject(error), toFault(error).code));
    await told.promise;

    // The last one alone: what it has, it tells within the age that the caller takes, and nothing else.
    await Promise.all(replicas.slice(0, 2).map((replica) => replica[Symbol.asyncDispose]()));
    const last = alone[2]!;
    const stale = (maxAgeMs: bigint) => last.query({ ...query, read: { level: Level.STALE, maxAgeMs } });
    assert.equal(newest(await stale(60_000n)), 10n);
    await until(
      "its leader to be far",
      () => stale(50n).then(() => false, (error) => toFault(error).code === "too_stale"),
    );
    assert.equal(newest(await stale(600_000n)), 10n);
    assert.equal(await watching, "watch_cut_off");
    // Standing for election again and again is not hearing of a leader.
    for (let i = 0; i < 20; i++) await assert.rejects(stale(2_000n), refusedAs("too_stale"));
    await assert.rejects(stale(0n), refusedAs("invalid_field"));
    await assert.rejects(last.query(query, { timeoutMs: 500 }));
    await assert.rejects(last.query({ ...query, read: { level: Level.STRONG } }, { timeoutMs: 500 }));
  }));

Deno.test("a page of a scan ends before its bytes, and the pages come to everything once", () =>
  inTempDir(async (dir) => {
    await using replica = await startReplica({ dir });
    using stack = new DisposableStack();
    const at = { endpoints: [replica.url], authorization: () => "Bearer test" };
    await stack.use(createRpcClient(DatabaseService, at)).createDatabase({ name: database });
    const kv = stack.use(createRpcClient(KvService, at));
    const keys = Array.from({ length: 30 }, (_, i) => `k${String(i).padStart(2, "0")}`);
    // The last one is larger than a page.
    for (const [i, key] of keys.entries()) {
      await kv.put({ database, bucket: "b", key, value: new Uint8Array(i === 29 ? 5_000 : 100) });
    }
    for (const reverse of [false, true]) {
      const seen: string[] = [];
      let pageToken = "", pages = 0;
      do {
        const page = await kv.scan({ database, bucket: "b", pageBytes: 1_024, pageToken, reverse });
        const bytes = page.items.reduce((sum, { key, value }) => sum + key.length + value.length, 0);
        assert.ok(bytes <= 1_024 || page.items.length === 1, `${page.items.length} items of ${bytes} bytes`);
        assert.ok(page.items.length > 0);
        seen.push(...page.items.map(({ key }) => key));
        pageToken = page.nextPageToken;
        pages++;
      } while (pageToken !== "");
      assert.deepEqual(seen, reverse ? [...keys].reverse() : keys);
      assert.ok(pages >= 4, `${pages} pages`);
    }
  }));

Deno.test("a migration that loses data is refused when the backup is older than is configured", () =>
  inTempDir(async (dir) => {
    await using replica = await startReplica({ dir, backupAgeMsMax: 50 });
    using stack = new DisposableStack();
    const at = { endpoints: [replica.url], authorization: () => "Bearer test" };
    await stack.use(createRpcClient(DatabaseService, at)).createDatabase({ name: database });
    const sql = stack.use(createRpcClient(SqlService, at));
    const backups = stack.use(createRpcClient(BackupService, at));
    const migrations = [{ version: 1n, name: "one", statements: ["CREATE TABLE t(a)", "CREATE TABLE u(a)"] }];
    await sql.migrate({ database, migrations });
    for await (const _ of backups.backup({ database })) {
      // Taken whole: only then it counts.
    }
    const { time } = (await backups.listBackups({ database })).backups[0]!;
    const takenMs = Number(time!.seconds) * 1_000 + time!.nanos / 1_000_000;
    await until("the backup to be old", () => systemClock.nowMs() > takenMs + 100);
    migrations.push({ version: 2n, name: "two", statements: ["DROP TABLE u"] });
    await assert.rejects(sql.migrate({ database, migrations, allowDestructive: true }), refusedAs("backup_needed"));
    assert.equal((await sql.listMigrations({ database })).migrations.length, 1);
  }));
