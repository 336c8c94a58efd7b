import assert from "node:assert/strict";
import { backupDatabase, openDatabase } from "./mod.ts";

Deno.test("backupDatabase() copies one consistent moment while rows are written, and lets the event loop go on", async () => {
  const dir = await Deno.makeTempDir();
  try {
    using db = openDatabase(`${dir}/from.db`);
    db.exec("CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB)");
    // Rows come in pairs: a copy with an odd number would be torn.
    const pair = () =>
      db.transaction(() => {
        for (let i = 0; i < 2; i++) db.run("INSERT INTO t(b) VALUES(?)", new Uint8Array(1_000));
      });
    for (let i = 0; i < 2_000; i++) pair();
    let ticks = 0;
    let done = false;
    const copying = backupDatabase(`${dir}/from.db`, `${dir}/to.db`).finally(() => done = true);
    while (!done) {
      ticks++;
      pair();
      await new Promise((resolve) => setTimeout(resolve, 0));
    }
    assert.ok(await copying > 0);
    assert.ok(ticks > 1, `${ticks} turns of the event loop`);
    using copy = openDatabase(`${dir}/to.db`, { readOnly: true });
    assert.deepEqual(copy.integrityCheck(), []);
    const { n } = copy.get<{ n: number }>("SELECT count(*) AS n FROM t")!;
    assert.ok(n >= 4_000 && n % 2 === 0, `${n} rows`);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});

Deno.test("backupDatabase() says what it could not read and leaves nothing", async () => {
  const dir = await Deno.makeTempDir();
  try {
    await assert.rejects(backupDatabase(`${dir}/absent.db`, `${dir}/to.db`), { code: "backup_failed" });
    assert.deepEqual([...Deno.readDirSync(dir)], []);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});
