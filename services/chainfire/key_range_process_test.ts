import { type Grant, keyPrefixScope, standardGrants } from "@ultracloud/authz";
import { Fault } from "@ultracloud/base";
import { CompareResult, type RequestOpSchema, type TxnRequestSchema } from "@ultracloud/proto/chainfire/v1";
import type { MessageInitShape } from "@bufbuild/protobuf";
import assert from "node:assert/strict";
import { all, b, eventually, text } from "./_test_support.ts";
import { prepareCluster, type TestCluster } from "./test_cluster.ts";

type OpInit = MessageInitShape<typeof RequestOpSchema>;

const resources = ["kv", "watch", "lease", "lock", "election", "session"];
/** Everything on the keys below the name, and nothing else. */
const below = (name: string): Grant[] =>
  resources.map((resource) => ({ permission: `chainfire.${resource}.*`, scope: keyPrefixScope(`${name}/`) }));

async function denied(work: Promise<unknown>, what: string): Promise<Fault> {
  const error = await work.then(() => undefined, (reason) => reason);
  assert.ok(error instanceof Fault && error.kind === "permission_denied", `${what}: ${error ?? "it was allowed"}`);
  return error;
}

/** A stream is refused before its first message. */
async function first<T>(messages: AsyncIterable<T>): Promise<T | undefined> {
  for await (const message of messages) return message;
  return undefined;
}

async function withCluster(grants: Record<string, Grant[]>, work: (cluster: TestCluster) => Promise<void>) {
  await using cluster = await prepareCluster(1, {}, { grants });
  await cluster.startAll();
  await cluster.leader();
  await work(cluster);
}

Deno.test("a component that is granted a range of keys has all of the store within it, and nothing beside it", async () => {
  await withCluster({ red: below("red"), blue: below("blue") }, async (cluster) => {
    const red = cluster.clientsOf("red");
    const blue = cluster.clientsOf("blue");
    // Within its range all of it works.
    await red.kv.put({ key: b("red/a"), value: b("1"), prevKv: true });
    await blue.kv.put({ key: b("blue/secret"), value: b("s") });
    assert.equal((await red.kv.range({ key: b("red/"), rangeEnd: b("red0") })).count, 1n);
    const done = await red.kv.txn({
      compare: [{ key: b("red/a"), result: CompareResult.EQUAL, target: { case: "value", value: b("1") } }],
      success: [{ request: { case: "put", value: { key: b("red/b"), value: b("2") } } }],
      failure: [{ request: { case: "range", value: { key: b("red/"), rangeEnd: b("red0") } } }],
    });
    assert.equal(done.succeeded, true);
    const { id } = await red.leases.leaseGrant({ ttlMs: 60_000n });
    await red.kv.put({ key: b("red/c"), lease: id });
    assert.deepEqual((await red.leases.leaseTimeToLive({ id, keys: true })).keys.map(text), ["red/c"]);
    await red.leases.leaseKeepAlive({ id });
    const lock = await red.locks.lock({ name: b("red/lock"), lease: id });
    await red.locks.unlock({ key: lock.key });
    const { leader } = await red.elections.campaign({ name: b("red/boss"), lease: id, value: b("x") });
    await red.elections.proclaim({ leader, value: b("y") });
    assert.equal(text((await red.elections.leader({ name: b("red/boss") })).kv!.value), "y");
    await red.elections.resign({ leader });
    const session = await red.sessions.openSession({});
    await red.kv.put({ key: b("red/d"), session: { sessionId: session.sessionId, sequence: 1n } });
    await red.sessions.closeSession({ sessionId: session.sessionId });
    const stop = new AbortController();
    const seen: string[] = [];
    const watching = (async () => {
      for await (const { events, streamId } of red.watches.watch({}, { signal: stop.signal })) {
        if (streamId) {
          await denied(
            red.watches.addWatch({ streamId, watch: { key: b("blue/"), rangeEnd: b("blue0") } }),
            "AddWatch",
          );
          await red.watches.addWatch({ streamId, watch: { key: b("red/"), rangeEnd: b("red0"), startRevision: 1n } });
        }
        for (const { kv } of events) seen.push(text(kv!.key));
      }
    })().catch((error) => {
      if (!stop.signal.aborted) throw error;
    });
    await eventually(() => seen.includes("red/d"));
    stop.abort();
    await watching;
    assert.ok(seen.every((key) => key.startsWith("red/")), seen.join());
    await red.leases.leaseRevoke({ id });

    // What belongs to all is nobody's who is granted a part.
    await denied(red.kv.compact({ revision: 2n }), "Compact");
    await denied(red.leases.leaseList({}), "LeaseList");
    await denied(first(red.leases.leaseWatch({})), "LeaseWatch");
    await denied(red.quotas.listQuotas({}), "ListQuotas");
    await denied(red.cluster.status({}), "Status");
    await denied(red.maintenance.hashKv({}), "HashKv");
    // The refusal says what was wanted, and where.
    const refusal = await denied(red.kv.put({ key: b("blue/a b") }), "Put");
    assert.equal(refusal.message, "Cannot use chainfire.kv.update at key:blue/a%20b: not allowed");
  });
});

Deno.test("whoever tries to leave the range of keys it was granted is refused on every way, and nothing changes", async () => {
  await withCluster({ red: below("red"), blue: below("blue") }, async (cluster) => {
    const { kv, leases } = cluster.clients();
    const red = cluster.clientsOf("red");
    const blue = cluster.clientsOf("blue");
    const theirs = b("blue/secret");
    const held = await blue.leases.leaseGrant({ ttlMs: 60_000n });
    await blue.kv.put({ key: theirs, value: b("s"), lease: held.id });
    const place = await blue.locks.lock({ name: b("blue/lock"), lease: held.id });
    const { leader } = await blue.elections.campaign({ name: b("blue/boss"), lease: held.id, value: b("x") });
    await kv.put({ key: b("red"), value: b("beside the range, not in it") });
    await kv.put({ key: b("red0"), value: b("right behind it") });
    const before = await kv.range(all);
    const leasesBefore = (await leases.leaseList({})).ids;

    const ranges: { key: Uint8Array<ArrayBuffer>; rangeEnd?: Uint8Array<ArrayBuffer> }[] = [
      { key: theirs },
      { key: b("blue/"), rangeEnd: b("blue0") },
      { key: b("red") },
      { key: b("red0") },
      { key: b("red/"), rangeEnd: b("red0\0") },
      { key: b("red"), rangeEnd: b("red0") },
      { key: b("a"), rangeEnd: b("z") },
      { key: b("red/"), rangeEnd: all.rangeEnd },
      { key: b("blue/"), rangeEnd: b("a") },
      all,
    ];
    const compare = (key: Uint8Array<ArrayBuffer>, rangeEnd = new Uint8Array(0)) => ({
      key,
      rangeEnd,
      result: CompareResult.EQUAL,
      target: { case: "version" as const, value: 0n },
    });
    const refusedTxn = async (what: string, op: OpInit) => {
      const inner: OpInit = { request: { case: "txn", value: { failure: [op] } } };
      const ways: Readonly<Record<string, MessageInitShape<typeof TxnRequestSchema>>> = {
        success: { success: [op] },
        failure: { failure: [op] },
        nested: { success: [inner] },
        "nested twice": { failure: [{ request: { case: "txn", value: { success: [inner] } } }] },
      };
      for (const [how, request] of Object.entries(ways)) {
        await denied(red.kv.txn(request), `${what} in a transaction, ${how}`);
      }
    };
    for (const range of ranges) {
      const what = `${text(range.key)} to ${text(range.rangeEnd ?? new Uint8Array(0))}`;
      await denied(red.kv.range(range), `range of ${what}`);
      await denied(red.kv.range({ ...range, countOnly: true, consistency: 2 }), `count of ${what}`);
      await denied(red.kv.deleteRange(range), `delete of ${what}`);
      await denied(first(red.watches.watch({ watches: [{ key: b("red/x") }, range] })), `watch of ${what}`);
      await denied(
        red.kv.txn({ compare: [compare(b("red/x")), compare(range.key, range.rangeEnd)] }),
        `compare ${what}`,
      );
      await denied(
        red.kv.txn({
          success: [{ request: { case: "txn", value: { compare: [compare(range.key, range.rangeEnd)] } } }],
        }),
        `nested compare ${what}`,
      );
      await refusedTxn(`range of ${what}`, { request: { case: "range", value: range } });
      await refusedTxn(`delete of ${what}`, { request: { case: "deleteRange", value: range } });
    }
    for (const key of [theirs, b("red"), b("red0"), b("redder/x"), b("Red/x")]) {
      await denied(red.kv.put({ key, value: b("mine") }), `put of ${text(key)}`);
      await denied(red.kv.put({ key, value: b("mine") }, { headers: { "idempotency-key": "k" } }), "put with a key");
      await refusedTxn(`put of ${text(key)}`, { request: { case: "put", value: { key, value: b("mine") } } });
    }
    // A lease of others: not to be bound to, kept, ended or looked into.
    await denied(red.kv.put({ key: b("red/x"), lease: held.id }), "binding to a lease");
    const binding: OpInit = { request: { case: "put", value: { key: b("red/x"), lease: held.id } } };
    await refusedTxn("binding to a lease", binding);
    await denied(red.leases.leaseRevoke({ id: held.id }), "ending a lease");
    await denied(red.leases.leaseKeepAlive({ id: held.id }), "keeping a lease");
    await denied(red.leases.leaseTimeToLive({ id: held.id, keys: true }), "keys of a lease");
    await denied(red.locks.lock({ name: b("red/lock"), lease: held.id }), "locking with a lease");
    await denied(red.elections.campaign({ name: b("red/boss"), lease: held.id }), "standing with a lease");
    // Names of locks and elections.
    for (const name of ["blue/lock", "re", "rede", "blue/boss"]) {
      await denied(red.locks.lock({ name: b(name), ttlMs: 1_000n }), `lock ${name}`);
      await denied(red.elections.campaign({ name: b(name), ttlMs: 1_000n }), `campaign ${name}`);
      await denied(red.elections.leader({ name: b(name) }), `leader ${name}`);
      await denied(first(red.elections.observe({ name: b(name) })), `observe ${name}`);
    }
    await denied(red.locks.unlock({ key: place.key }), "unlock");
    await denied(red.elections.resign({ leader }), "resign");
    await denied(red.elections.proclaim({ leader, value: b("z") }), "proclaim");
    await denied(red.elections.proclaim({ leader: { ...leader!, name: b("red/boss") }, value: b("z") }), "false name");

    // The same in etcd's words, and as a plain watch.
    const { url, authorization } = await cluster.address(1, "red");
    const post = async (path: string, body: unknown) => {
      const response = await fetch(`${url}${path}`, {
        method: "POST",
        headers: { authorization, "content-type": "application/json" },
        body: JSON.stringify(body),
        signal: AbortSignal.timeout(20_000),
      });
      return { status: response.status, text: await response.text() };
    };
    const key = theirs.toBase64();
    const range = { key: b("blue/").toBase64(), range_end: b("blue0").toBase64() };
    for (
      const [path, body] of [
        ["/v3/kv/range", range],
        ["/v3/kv/put", { key, value: "" }],
        ["/v3/kv/deleterange", range],
        ["/v3/kv/txn", { success: [{ request_range: range }] }],
        ["/v3/kv/txn", { failure: [{ request_txn: { success: [{ request_put: { key } }] } }] }],
        ["/v3/kv/txn", { compare: [{ key, target: "VERSION", version: "0" }] }],
        ["/v3/kv/put", { key: b("red/x").toBase64(), lease: String(held.id) }],
        ["/v3/kv/compaction", { revision: "2" }],
        ["/v3/watch", { create_request: range }],
        ["/v3/watch", { create_request: { ...range, start_revision: "1", prev_kv: true } }],
        ["/v3/lease/revoke", { ID: String(held.id) }],
        ["/v3/lease/keepalive", { ID: String(held.id) }],
        ["/v3/lease/timetolive", { ID: String(held.id), keys: true }],
        ["/v3/lease/leases", {}],
        ["/v3/lock/lock", { name: b("blue/lock").toBase64() }],
        ["/v3/lock/unlock", { key: place.key.toBase64() }],
        ["/v3/election/campaign", { name: b("blue/boss").toBase64() }],
        ["/v3/election/leader", { name: b("blue/boss").toBase64() }],
        ["/v3/election/observe", { name: b("blue/boss").toBase64() }],
        ["/v3/election/resign", { leader: { key: leader!.key.toBase64(), lease: String(held.id) } }],
        ["/v3/maintenance/snapshot", {}],
      ] as const
    ) {
      const answer = await post(path, body);
      const refused = answer.status === 403 || /"(grpc_code|code)":7/.test(answer.text);
      assert.ok(refused && !answer.text.includes(b("s").toBase64()), `${path}: ${answer.status} ${answer.text}`);
    }
    const watch = await fetch(`${url}/v1/watch?key=blue/&prefix=true`, { headers: { authorization } });
    assert.equal(watch.status, 403, await watch.text());

    const after = await kv.range(all);
    assert.deepEqual(after.kvs, before.kvs, "nothing may have changed");
    assert.deepEqual((await leases.leaseList({})).ids, leasesBefore, "no lease may have come or gone");
  });
});

Deno.test("a grant may separate reading from writing, and name several ranges", async () => {
  const at = (permission: string, scope: string): Grant => ({ permission, scope });
  const grants = {
    reader: [at("chainfire.kv.get", "key:shared/*"), at("chainfire.kv.txn", "key:shared/*")],
    writer: [
      at("chainfire.kv.update", "key:shared/in,shared/out"),
      at("chainfire.kv.txn", "key:shared/*"),
      at("chainfire.kv.*", "key:own"),
      at("chainfire.lease.*", "key:own"),
    ],
    prismnet: standardGrants("prismnet"),
    plasmavmc: standardGrants("plasmavmc"),
  };
  await withCluster(grants, async (cluster) => {
    const reader = cluster.clientsOf("reader").kv;
    const writer = cluster.clientsOf("writer");
    const key = b("shared/inbox");
    await writer.kv.put({ key, value: b("1") });
    assert.equal(text((await reader.range({ key })).kvs[0]!.value), "1");
    await denied(reader.put({ key }), "put by a reader");
    await denied(writer.kv.range({ key }), "range by a writer");
    await denied(writer.kv.put({ key, prevKv: true }), "the value before by a writer");
    await denied(writer.kv.put({ key: b("shared/out") }), "the end of a range is not in it");
    await denied(writer.kv.deleteRange({ key }), "delete by a writer");
    const get: OpInit = { request: { case: "range", value: { key } } };
    const put = (prevKv: boolean): OpInit => ({ request: { case: "put", value: { key, value: b("2"), prevKv } } });
    await reader.txn({ success: [get] });
    await writer.kv.txn({ success: [put(false), { request: { case: "range", value: { key: b("own") } } }] });
    await denied(reader.txn({ success: [get], failure: [put(false)] }), "a put in the branch not taken");
    await denied(writer.kv.txn({ success: [put(true)] }), "the value before, in a transaction");
    await denied(writer.kv.txn({ success: [put(false)], failure: [get] }), "a range in the branch not taken");
    // A lease over both of its ranges is its own all the same.
    const { id } = await writer.leases.leaseGrant({ ttlMs: 60_000n });
    await writer.kv.put({ key: b("own"), lease: id });
    await writer.kv.put({ key, lease: id });
    await writer.leases.leaseKeepAlive({ id });
    await denied(writer.leases.leaseRevoke({ id }), "it may write one of the keys and not delete it");

    // What the cluster's own services are granted is enough for what they do, and ends at each other's names.
    for (const [own, other] of [["prismnet", "plasmavmc"], ["plasmavmc", "prismnet"]] as const) {
      const { kv, leases } = cluster.clientsOf(own);
      const leadership = b(`/ultracloud/leaders/${own}`);
      const lease = (await leases.leaseGrant({ ttlMs: 60_000n })).id;
      const won = await kv.txn({
        compare: [{ key: leadership, result: CompareResult.EQUAL, target: { case: "createRevision", value: 0n } }],
        success: [{ request: { case: "put", value: { key: leadership, lease } } }],
      });
      assert.ok(won.succeeded);
      await kv.put({ key: b(`/ultracloud/${own}/nodes/n1`), lease, prevKv: true });
      await leases.leaseKeepAlive({ id: lease });
      await denied(kv.range({ key: b(`/ultracloud/leaders/${other}`) }), `${own} reads who leads ${other}`);
      await denied(kv.put({ key: b(`/ultracloud/leaders/${other}`) }), `${own} takes the lead of ${other}`);
      await denied(kv.range({ key: b(`/ultracloud/${other}/`), rangeEnd: b(`/ultracloud/${other}0`) }), "nodes");
      await leases.leaseRevoke({ id: lease });
      assert.equal((await kv.range({ key: leadership })).count, 0n);
    }
  });
});
