import assert from "node:assert/strict";
import { DatabaseService, type RowChange, RowChangeKind, SqlService } from "@ultracloud/proto/flaredb/v1";
import { createRpcClient, toFault } from "@ultracloud/rpc";
import { startReplica } from "./_replicas.ts";

const database = "t_feed";

/** A change as short text: kind, table, before and after. */
function short({ kind, table, before, after }: RowChange): string {
  const values = (list: typeof before) => list.map(({ column, value }) => `${column}=${value?.kind.value}`).join(",");
  return `${RowChangeKind[kind]} ${table} ${values(before)} > ${values(after)}`.trim();
}

Deno.test("changes of rows are told in order, whole entries at a time, and resumed from any index", async () => {
  const dir = await Deno.makeTempDir();
  try {
    await using replica = await startReplica({ dir });
    using stack = new DisposableStack();
    const at = { endpoints: [replica.url], authorization: () => "Bearer test" };
    const databases = stack.use(createRpcClient(DatabaseService, at));
    const sql = stack.use(createRpcClient(SqlService, at));
    await databases.createDatabase({ name: database });
    const batch = (...statements: string[]) =>
      sql.batch({ database, statements: statements.map((text) => ({ sql: text })) });
    await batch("CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)", "CREATE TABLE loose(a)");
    await assert.rejects(
      (async () => {
        for await (const _ of sql.changes({ database })) break;
      })(),
      (error) => toFault(error).code === "not_captured",
    );
    const updated = await databases.updateDatabase({ name: database, settings: { capture: true } });
    assert.equal(updated.settings?.capture, true);
    const from = updated.appliedIndex;
    await batch("INSERT INTO t VALUES(1, 'a'), (2, 'b')", "UPDATE t SET v = 'c' WHERE id = 1");
    const second = await batch("UPDATE t SET v = 'd' WHERE id = 2", "DELETE FROM t WHERE id = 1");
    await batch("INSERT INTO loose VALUES(1)");
    // Comes to nothing, and one that fails leaves nothing.
    await batch("INSERT INTO t VALUES(9, 'x')", "DELETE FROM t WHERE id = 9");
    await assert.rejects(batch("INSERT INTO t VALUES(3, 'x')", "INSERT INTO t VALUES(3, 'x')"));
    await batch("INSERT OR REPLACE INTO t VALUES(2, 'e')");
    const last = await batch("ALTER TABLE t ADD COLUMN w");
    const wanted = [
      "INSERT t  > id=1,v=c",
      "INSERT t  > id=2,v=b",
      "DELETE t id=1,v=c >",
      "UPDATE t id=2,v=b > id=2,v=d",
      "TABLE loose  >",
      "UPDATE t id=2,v=d > id=2,v=e",
      "SCHEMA   >",
    ];
    const read = async (after: bigint, tables: string[] = []) => {
      const told: string[] = [];
      for await (const { index, changes } of sql.changes({ database, afterIndex: after, tables })) {
        told.push(...changes.map(short));
        if (index >= last.index) return told;
      }
      return told;
    };
    const sorted = (list: string[]) => [...list].sort();
    assert.deepEqual(sorted(await read(from)), sorted(wanted));
    assert.deepEqual(await read(second.index), wanted.slice(4));
    assert.deepEqual(await read(second.index, ["loose"]), ["TABLE loose  >", "SCHEMA   >"]);
    await assert.rejects(read(from - 1n), (error) => toFault(error).code === "compacted");
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});
