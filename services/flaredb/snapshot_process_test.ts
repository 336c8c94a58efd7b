import assert from "node:assert/strict";
import { systemClock } from "@ultracloud/base";
import { startMembers } from "./test_members.ts";

const database = "t_late";
/**
 * 36 MiB, more than a checkpoint waits for, in more entries than a cut leaves (10 000): the absent member needs what is
 * gone then.
 */
const entries = 12_000;
const value = new Uint8Array(3 * 1024).map((_, i) => i * 7);

Deno.test("a member that was away while the log was cut catches up by a snapshot in pieces", async () => {
  await using members = await startMembers(3);
  using stack = new DisposableStack();
  const { databases, kv, sql } = members.clients(stack);
  const until = async (what: string, condition: () => Promise<boolean>) => {
    const deadline = performance.now() + 120_000;
    while (!await condition().catch(() => false)) {
      if (performance.now() > deadline) throw new Error(`Waited too long for ${what}`);
      await systemClock.sleep(50);
    }
  };
  await until("the database", async () => {
    await databases.createDatabase({ name: database, ifNotExists: true, replicas: [1n, 2n, 3n] });
    await sql.execute({ database, statement: { sql: "CREATE TABLE IF NOT EXISTS t(a INTEGER PRIMARY KEY, b TEXT)" } });
    return true;
  });
  await members.process(3).kill();
  let next = 0;
  const write = async () => {
    for (let i = next++; i < entries; i = next++) {
      await until(`put ${i}`, async () => {
        await kv.put({ database, bucket: "b", key: `k${i % 4_000}`, value }, {
          headers: { "idempotency-key": `p${i}` },
        });
        return true;
      });
    }
  };
  await Promise.all(Array.from({ length: 48 }, write));
  await sql.execute({ database, statement: { sql: "INSERT INTO t(b) VALUES('before')" } });
  const returning = members.start(3);
  // The others go on meanwhile.
  for (let i = 0; i < 200; i++) {
    const statement = { sql: "INSERT INTO t(b) VALUES('meanwhile')" };
    await until("a row", async () => {
      await sql.execute({ database, statement }, { headers: { "idempotency-key": `s${i}` } });
      return true;
    });
  }
  await returning;
  const log = () => Deno.readTextFile(`${members.dir}/node3.log`);
  await until("the snapshot", async () => (await log()).includes("restored a snapshot"));
  const bytes = [...(await log()).matchAll(/restored a snapshot.*?"?bytes"?[=:]\s*(\d+)/g)].map(([, n]) => Number(n));
  assert.ok(Math.max(...bytes) > 8 * 2 ** 20, `the snapshot had ${bytes} bytes: wanted several pieces of 1 MiB`);
  await until("equal content", async () => {
    const { index, sha256 } = await databases.checkReplicas({ name: database });
    using own = new DisposableStack();
    const { groups } = await members.clients(own, [members.urls[2]!]).databases.status({});
    const group = groups.find((each) => each.database === database);
    return group?.checkedIndex === index && group.checkedSha256 === sha256 && !group.diverged;
  });
  // What it serves by itself is what the others hold.
  using own = new DisposableStack();
  const third = members.clients(own, [members.urls[2]!]);
  const { result } = await third.sql.query({ database, statement: { sql: "SELECT count(*) FROM t" } });
  assert.equal(result!.rows[0]!.values[0]!.kind.value, 201n);
});
