import assert from "node:assert/strict";
import { Fault, type Rng, seededRng, systemClock, uniform } from "@ultracloud/base";
import { noopLogger } from "@ultracloud/observe";
import { createTestCa, testUnless } from "@ultracloud/testing";
import type { TlsFiles } from "@ultracloud/config";
import { freePort } from "@ultracloud/launch";
import {
  assertLock,
  map,
  namedUuid,
  openOvsdb,
  type Operation,
  type OvsdbClient,
  parseEndpoint,
  set,
  type Value,
} from "./mod.ts";
import { noServer, startServer, testTables } from "./test_server.ts";
import { canonical, uuid } from "./values.ts";

const open = (path: string, o: { probeMs?: number; requestTimeoutMs?: number } = {}) =>
  openOvsdb({ endpoint: { transport: "unix", path }, database: "Test", tables: testTables, ...o }, {
    clock: systemClock,
    rng: seededRng(1),
    log: noopLogger,
  });

async function until(what: string, condition: () => boolean): Promise<void> {
  for (const deadline = performance.now() + 30_000; !condition();) {
    assert.ok(performance.now() < deadline, `waited in vain until ${what}`);
    await systemClock.sleep(2);
  }
}

async function code(work: Promise<unknown>): Promise<string> {
  return await work.then(() => "ok", (error: unknown) => error instanceof Fault ? error.code : String(error));
}

/** Everything in the database, by uuid, as text: from the replica, or asked of the server row by row. */
function dump(rows: Iterable<[string, Readonly<Record<string, Value>>]>): string[] {
  return [...rows].map(([id, row]) =>
    `${id} ${Object.entries(row).sort(([a], [b]) => a < b ? -1 : 1).map(([c, v]) => `${c}=${canonical(v)}`).join(" ")}`
  ).sort();
}
const held = (client: OvsdbClient) => Object.keys(testTables).flatMap((table) => dump(client.replica.rows(table)));
async function stored(client: OvsdbClient): Promise<string[]> {
  const tables = Object.entries(testTables);
  const results = await client.transact(
    tables.map(([table, columns]) => ({ op: "select", table, where: [], columns: [...columns, "_uuid"] })),
  );
  return results.flatMap((result) =>
    dump(result.rows!.map(({ _uuid, ...row }) => [(_uuid as readonly [string, string])[1], row]))
  );
}

/** Some transaction; several of them collide on purpose. */
function randomOperations(rng: Rng, client: OvsdbClient): Operation[] {
  const pick = <T>(items: readonly T[]): T | undefined => items[uniform(rng, Math.max(1, items.length))];
  const word = () => `w${uniform(rng, 6)}`;
  const words = () => set(new Set(Array.from({ length: uniform(rng, 4) }, word)));
  const pairs = () => map(Object.fromEntries(Array.from({ length: uniform(rng, 4) }, () => [word(), word()])));
  const parents = [...client.replica.rows("Parent").keys()];
  const children = [...client.replica.rows("Child").keys()];
  const columns = (): Record<string, Value> => {
    const row: Record<string, Value> = {};
    if (uniform(rng, 2)) row.size = uniform(rng, 5);
    if (uniform(rng, 2)) row.on = uniform(rng, 2) === 1;
    if (uniform(rng, 2)) row.note = uniform(rng, 2) ? word() : set([]);
    if (uniform(rng, 2)) row.tags = words();
    if (uniform(rng, 2)) row.options = pairs();
    return row;
  };
  return Array.from({ length: 1 + uniform(rng, 3) }, (_, i): Operation[] => {
    const parent = pick(parents);
    const where = [["_uuid", "==", uuid(parent ?? "")]] as const;
    switch (parent === undefined ? 0 : uniform(rng, 9)) {
      case 0:
      case 7:
      case 8:
        return [{ op: "insert", table: "Parent", row: { ...columns(), name: `n${uniform(rng, 12)}` } }];
      case 1:
        return [{ op: "update", table: "Parent", where, row: columns() }];
      case 2:
        return [
          { op: "insert", table: "Child", "uuid-name": `c${i}`, row: { label: word(), levels: set([1, 2]) } },
          { op: "mutate", table: "Parent", where, mutations: [["children", "insert", set([namedUuid(`c${i}`)])]] },
        ];
      case 3: {
        const child = pick(children);
        if (child === undefined) return [];
        return [{ op: "mutate", table: "Parent", where, mutations: [["children", "delete", set([uuid(child)])]] }];
      }
      case 4:
        return [{
          op: "mutate",
          table: "Parent",
          where,
          mutations: [["tags", "insert", words()], ["tags", "delete", words()], ["options", "insert", pairs()]],
        }];
      case 5: {
        const child = pick(children);
        if (child === undefined) return [];
        const levels = set(new Set(Array.from({ length: uniform(rng, 5) }, () => uniform(rng, 5))));
        return [{ op: "update", table: "Child", where: [["_uuid", "==", uuid(child)]], row: { levels } }];
      }
      default:
        return [{ op: "delete", table: "Parent", where }];
    }
  }).flat();
}

const runs = [[1, "standalone"], [2, "standalone"], [3, "standalone"], [4, "clustered"], [5, "clustered"]] as const;
for (const [seed, kind] of runs) {
  const name = `the replica equals a ${kind} database after random transactions and lost connections, seed ${seed}`;
  testUnless(name, noServer, async () => {
    const rng = seededRng(seed);
    await using server = await startServer(kind);
    await using proxy = await cuttable(server.socket);
    await using writer = open(proxy.path);
    await using watcher = open(proxy.path);
    await Promise.all([writer.ready(), watcher.ready()]);
    let rowsMax = 0;
    for (let step = 0; step < 120; step++) {
      if (uniform(rng, 40) === 0) {
        // A server that lives and keeps its history is gone on with from the last transaction, whatever it was.
        const crash = kind === "standalone" && uniform(rng, 2) === 0;
        if (crash) await server.kill();
        proxy.cut();
        await until("both see the loss", () => !writer.connected && !watcher.connected);
        assert.equal(await code(writer.transact([{ op: "comment", comment: "" }])), "ovsdb_disconnected");
        if (crash) await server.start();
        proxy.mend();
        await Promise.all([writer.ready(), watcher.ready()]);
      }
      const before = held(writer);
      const outcome = await code(writer.transact(randomOperations(rng, writer)));
      assert.ok(outcome === "ok" || outcome === "ovsdb_error", outcome);
      if (outcome === "ovsdb_error") assert.deepEqual(held(writer), before, "a refused transaction leaves nothing");
      rowsMax = Math.max(rowsMax, held(writer).length);
      if (step % 10 === 9) {
        const truth = await stored(writer);
        assert.deepEqual(held(writer), truth, "the writer's replica holds what has been answered");
        await until("the watcher's replica follows", () => held(watcher).join() === truth.join());
      }
    }
    if (kind === "clustered") assert.deepEqual([writer.copies, watcher.copies], [1, 1], "nothing was copied anew");
    assert.ok(rowsMax >= 5, `at most ${rowsMax} rows were there at once: the run showed little`);
  });
}

testUnless("a cut connection is continued from the last transaction, without a new copy", noServer, async () => {
  await using server = await startServer("clustered");
  await using proxy = await cuttable(server.socket);
  await using client = open(proxy.path);
  await using other = open(server.socket);
  await Promise.all([client.ready(), other.ready()]);
  await client.transact([{ op: "insert", table: "Parent", row: { name: "a" } }]);
  proxy.cut();
  await until("the loss is seen", () => !client.connected);
  await other.transact([{ op: "insert", table: "Parent", row: { name: "b" } }]);
  proxy.mend();
  await client.ready();
  assert.equal(client.copies, 1);
  assert.deepEqual(held(client), await stored(other));
});

testUnless("a lock has one holder, passes on with the connection, and can be stolen", noServer, async () => {
  await using server = await startServer();
  await using b = open(server.socket);
  await b.ready();
  let lockB;
  {
    await using a = open(server.socket);
    const lockA = a.lock("writer");
    await lockA.acquired();
    lockB = b.lock("writer");
    const guarded: Operation[] = [assertLock("writer"), { op: "insert", table: "Parent", row: { name: "x" } }];
    assert.equal(await code(b.transact(guarded)), "ovsdb_error");
    assert.equal(lockB.held, false);
    assert.equal(await code(a.transact(guarded)), "ok");
    await lockB.steal();
    await until("the old holder is told", () => !lockA.held);
    await lockA.steal();
    await until("and back", () => !lockB!.held && lockA.held);
  }
  await lockB.acquired();
});

for (const seed of [1, 2]) {
  testUnless(`a lock has exactly one holder after random losses and thefts, seed ${seed}`, noServer, async () => {
    const rng = seededRng(seed);
    await using server = await startServer();
    await using stack = new AsyncDisposableStack();
    const rivals = await Promise.all(["a", "b", "c"].map(async (name) => {
      const proxy = stack.use(await cuttable(server.socket));
      const client = stack.use(open(proxy.path));
      return { name, proxy, client, lock: client.lock("writer"), whole: true };
    }));
    await Promise.all(rivals.map(({ client }) => client.ready()));
    let written = 0;
    for (let step = 0; step < 40; step++) {
      const rival = rivals[uniform(rng, rivals.length)]!;
      const action = uniform(rng, 3);
      if (action === 0 && rival.whole) {
        rival.proxy.cut();
        await until("the loss is seen", () => !rival.client.connected);
        rival.whole = false;
      } else if (action === 1 && rival.whole && rival.client.connected) {
        await rival.lock.steal();
      } else if (!rival.whole) {
        rival.proxy.mend();
        await rival.client.ready();
        rival.whole = true;
      }
      const connected = rivals.filter(({ whole }) => whole);
      assert.ok(rivals.every(({ whole, lock }) => whole || !lock.held), "who is cut off holds nothing");
      if (connected.length === 0) continue;
      await until("one holds it", () => connected.filter(({ lock }) => lock.held).length === 1);
      for (const { name, client, lock } of connected) {
        const write: Operation[] = [
          assertLock("writer"),
          { op: "insert", table: "Parent", row: { name: `${name}${step}` } },
        ];
        assert.equal(await code(client.transact(write)), lock.held ? "ok" : "ovsdb_error", `step ${step}, ${name}`);
        written++;
      }
    }
    assert.ok(written > 20, `${written} writes were tried: the run showed little`);
  });
}

testUnless("a silent server is noticed and connected to again once it answers", noServer, async () => {
  await using server = await startServer();
  await using client = open(server.socket, { probeMs: 50, requestTimeoutMs: 200 });
  await client.ready();
  server.signal("SIGSTOP");
  const unknown = code(client.transact([{ op: "insert", table: "Parent", row: { name: "late" } }]));
  assert.equal(await unknown, "ovsdb_outcome_unknown");
  await until("silence is noticed", () => !client.connected);
  server.signal("SIGCONT");
  await client.ready();
  assert.deepEqual(held(client), await stored(client));
});

testUnless(
  "errors name the operation, bad columns are refused, and what is refused is not written",
  noServer,
  async () => {
    await using server = await startServer();
    await using client = open(server.socket);
    await client.ready();
    const insert: Operation = { op: "insert", table: "Parent", row: { name: "one" } };
    await client.transact([insert]);
    await assert.rejects(client.transact([insert]), (error: Fault) => {
      assert.equal(error.code, "ovsdb_error");
      assert.deepEqual(error.detail.metadata, { error: "constraint violation", operation: "1" });
      return true;
    });
    const bad: Operation = { op: "update", table: "Parent", where: [], row: { nothing: 1 } };
    await assert.rejects(client.transact([insert, bad]), /update on Parent \(operation 1\)/);
    const stale: Operation = {
      op: "wait",
      table: "Parent",
      where: [["name", "==", "one"]],
      columns: ["size"],
      until: "==",
      rows: [{ size: 7 }],
      timeout: 0,
    };
    await assert.rejects(client.transact([stale, { op: "delete", table: "Parent", where: [] }]), /timed out/);
    assert.equal(client.replica.rows("Parent").size, 1);
    await using strange = openOvsdb({
      endpoint: { transport: "unix", path: server.socket },
      database: "Test",
      tables: { Parent: ["name", "colour"] },
    }, { clock: systemClock, rng: seededRng(1), log: noopLogger });
    await until("the schema is refused", () => /has no column colour in table Parent/.test(strange.reason));
  },
);

/** A socket before another that can be cut and mended. */
async function cuttable(target: string) {
  const dir = await Deno.makeTempDir({ prefix: "uc-ovsdb-" });
  const path = `${dir}/proxy.sock`;
  const listener = Deno.listen({ transport: "unix", path });
  const conns = new Set<Deno.Conn>();
  let whole = true;
  const cut = () => {
    whole = false;
    for (const conn of conns) {
      try {
        conn.close();
      } catch {
        // The pump has closed it with its other end.
      }
    }
    conns.clear();
  };
  const accepting = (async () => {
    const pumps: Promise<unknown>[] = [];
    for await (const conn of listener) {
      const peer = whole && await Deno.connect({ transport: "unix", path: target }).catch(() => undefined);
      if (!peer) {
        conn.close();
        continue;
      }
      conns.add(conn).add(peer);
      pumps.push(
        conn.readable.pipeTo(peer.writable).catch(() => {}),
        peer.readable.pipeTo(conn.writable).catch(() => {}),
      );
    }
    await Promise.all(pumps);
  })();
  return {
    path,
    cut,
    mend: () => void (whole = true),
    async [Symbol.asyncDispose]() {
      cut();
      listener.close();
      await accepting.catch(() => {});
      await Deno.remove(dir, { recursive: true });
    },
  };
}

testUnless(
  "TLS: both sides show certificates, a renewed one is used, and a stranger's is refused",
  noServer,
  async () => {
    const dir = await Deno.makeTempDir({ prefix: "uc-ovsdb-" });
    try {
      const [ca, strangers] = await Promise.all([createTestCa(), createTestCa()]);
      const ours = await ca.issueFiles(dir, "client");
      const server = await ca.issueFiles(dir, "server");
      const theirs = await strangers.issueFiles(dir, "stranger");
      const port = freePort();
      await using real = await startServer("standalone", [
        `--private-key=${server.keyFile}`,
        `--certificate=${server.certFile}`,
        `--ca-cert=${server.caFile}`,
        `--remote=pssl:${port}:127.0.0.1`,
      ]);
      const at = (tls: TlsFiles) =>
        openOvsdb({ endpoint: parseEndpoint(`ssl:127.0.0.1:${port}`, tls), database: "Test", tables: testTables }, {
          clock: systemClock,
          rng: seededRng(1),
          log: noopLogger,
        });
      await using client = at(ours);
      await client.ready(AbortSignal.timeout(30_000));
      await client.transact([{ op: "insert", table: "Parent", row: { name: "secret" } }]);
      assert.equal(client.replica.rows("Parent").size, 1);
      // Signed by another authority, and knowing ours: the server does not let it in.
      await using stranger = at({ ...theirs, caFile: ours.caFile });
      await until("the stranger is refused", () => !stranger.connected && stranger.reason !== "not yet connected");
      // A server of another authority is not believed, whoever we are.
      await using fooled = at({ ...ours, caFile: theirs.caFile });
      await until("a foreign server is refused", () => /Cannot connect/.test(fooled.reason));
      console.log(`    stranger: ${stranger.reason}\n    fooled: ${fooled.reason}`);
      assert.ok(!stranger.connected && !fooled.connected);
      assert.equal(fooled.copies + stranger.copies, 0, "neither has seen a row");
      // Renewed in place by the same authority: the next connection shows the new one.
      await ca.issueFiles(dir, "client");
      await real.kill();
      await until("the loss is seen", () => !client.connected);
      await real.start();
      await client.ready(AbortSignal.timeout(30_000));
      assert.deepEqual(held(client), await stored(client));
      assert.throws(() => parseEndpoint(`ssl:127.0.0.1:${port}`), /without certificates: wanted rpc.tls set/);
    } finally {
      await Deno.remove(dir, { recursive: true });
    }
  },
);
