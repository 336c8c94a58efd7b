import assert from "node:assert/strict";
import { createWorkloadSigner } from "@ultracloud/authz";
import { Fault, seededRng, systemClock } from "@ultracloud/base";
import { noopLogger } from "@ultracloud/observe";
import { DatabaseService, KvService } from "@ultracloud/proto/flaredb/v1";
import { createRpcClient } from "@ultracloud/rpc";
import { startTestStack } from "@ultracloud/testing";
import { allocate } from "./allocate.ts";
import { watchRecords } from "./events.ts";
import { flaredbBackend } from "./flaredb_kv.ts";
import { openPlatform } from "./platform.ts";
import { defineKind, type StoredRecord } from "./records.ts";
import { kvContract } from "./test_kv_contract.ts";

const things = defineKind<{ readonly size: number }>({ name: "thing", prefix: "vm" });
const project = "acme/prod";

Deno.test("flaredb keeps the contract of records' store", async (t) => {
  await using test = await startTestStack({ components: ["flaredb"], start: false });
  const { stack } = test;
  stack.start("flaredb");
  const identity = { clusterId: "test", name: "operator", keyFile: stack.operatorKeyFile };
  const signer = await createWorkloadSigner(identity, { clock: systemClock });
  using clients = new DisposableStack();
  const at = { endpoints: [stack.endpoint("flaredb")], authorization: signer.authorization("flaredb") };
  const kv = flaredbBackend({
    kv: clients.use(createRpcClient(KvService, at)),
    databases: clients.use(createRpcClient(DatabaseService, at)),
  }, "sys_prismnet");

  await t.step("it is unavailable until it is there, and then works by itself", async () => {
    for (let away = 0;; away++) {
      try {
        await kv.get("b", "a");
        break;
      } catch (error) {
        assert.ok(error instanceof Fault && error.kind === "unavailable" && away < 1000, String(error));
        await systemClock.sleep(20);
      }
    }
  });
  for (const [i, { name, run }] of kvContract.entries()) await t.step(name, () => run(kv, `case${i}`));

  const platform = openPlatform({ service: "prismnet" }, {
    kv,
    clock: systemClock,
    rng: seededRng(1),
    log: noopLogger,
  });
  await t.step("50 concurrent callers get 50 different numbers", async () => {
    const pool = { name: "ip", first: 1, last: 60 };
    const numbers = await Promise.all(
      Array.from({ length: 50 }, (_, i) => platform.transact((tx) => allocate(tx, pool, `h${i}`), { serialize: "ip" })),
    );
    assert.equal(new Set(numbers).size, 50);
  });
  await t.step("events are told in order and resumed inside one write", async () => {
    const views = { thing: (r: StoredRecord) => r.value };
    const start = await kv.write([], [{ bucket: "rows", key: "mark", put: new Uint8Array(1) }]);
    assert.ok(start.committed);
    await platform.transact(async (tx) => {
      for (const name of ["c", "a", "b"]) await tx.create(things, { project, name, value: { size: 1 } });
    });
    await platform.transact(async (tx) => tx.remove(things, await tx.get(things, project, "a")));
    const read = async (cursor: string, count: number) => {
      const stop = new AbortController();
      const seen: { cursor: string; text: string }[] = [];
      for await (const e of watchRecords(kv, { service: "t", views }, { project, cursor, kinds: [] }, stop.signal)) {
        seen.push({ cursor: e.cursor!, text: `${e.type} ${e.ref!.name}` });
        if (seen.length === count) break;
      }
      stop.abort();
      return seen;
    };
    const all = await read(String(start.version), 4);
    assert.equal(all.at(-1)!.text, "3 a");
    for (let i = 0; i < 3; i++) assert.deepEqual(await read(all[i]!.cursor, 3 - i), all.slice(i + 1));
  });
});
