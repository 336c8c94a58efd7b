import { systemClock } from "@ultracloud/base";
import { AlarmAction, AlarmType, Consistency, type Member } from "@ultracloud/proto/chainfire/v1";
import { openDatabase } from "@ultracloud/sqlite";
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { all, b, eventually, patiently, quick, rejects, text } from "./_test_support.ts";
import { prepareCluster, type TestCluster } from "./test_cluster.ts";

const plain = (members: readonly Member[]) =>
  members.map(({ id, name, peerUrl, clientUrl }) => ({ id: Number(id), name, peerUrl, clientUrl }));

async function saveSnapshot(cluster: TestCluster, path: string): Promise<Uint8Array> {
  using file = await Deno.open(path, { create: true, write: true, truncate: true });
  const hash = createHash("sha256");
  let said: Uint8Array | undefined;
  for await (const { chunk, sha256 } of anyClient(cluster).maintenance.snapshot({})) {
    if (sha256.length > 0) said = sha256;
    else hash.update(chunk);
    for (let at = 0; at < chunk.length;) at += await file.write(chunk.subarray(at));
  }
  assert.deepEqual(new Uint8Array(hash.digest()), new Uint8Array(said!));
  return said!;
}

const anyClient = (cluster: TestCluster) => cluster.clients(...cluster.running());

Deno.test("a snapshot taken under writes founds a new cluster, above the old revisions, whose later members get all of it", async () => {
  await using old = await prepareCluster(1);
  await old.startAll();
  const { kv, leases, quotas } = old.clients();
  for (let i = 0; i < 3_000; i++) await kv.put({ key: b(`k${i % 700}`), value: b(String(i)) });
  const { id: lease } = await leases.leaseGrant({ ttlMs: 600_000n });
  await kv.put({ key: b("leased"), lease });
  await kv.deleteRange({ key: b("k3") });
  await quotas.setQuota({ quota: { namespace: b("q/"), keysMax: 1n } });
  const truth = await kv.range({ ...all, limit: 1_000_000n });
  const dir = await Deno.makeTempDir({ prefix: "chainfire-backup-" });
  await using _dir = { [Symbol.asyncDispose]: () => Deno.remove(dir, { recursive: true }) };
  let writing = true;
  const writes = (async () => {
    for (let i = 0; writing; i++) await kv.put({ key: b(`later${i}`), value: b("x") });
  })();
  await saveSnapshot(old, `${dir}/backup`);
  writing = false;
  await writes;

  await using fresh = await prepareCluster(1, { ...quick, restoreRevisionBump: 5_000 }, { spares: 1 });
  await Deno.copyFile(`${dir}/backup`, `${fresh.stateDir(1)}/restore.snapshot`);
  await fresh.startAll();
  const restored = anyClient(fresh);
  const found = await restored.kv.range({ ...all, limit: 1_000_000n });
  const known = new Set(truth.kvs.map((item) => text(item.key)));
  assert.deepEqual(found.kvs.filter((item) => known.has(text(item.key))), truth.kvs);
  assert.ok(found.kvs.every((item) => known.has(text(item.key)) || text(item.key).startsWith("later")));
  assert.ok(found.header!.revision >= truth.header!.revision + 5_000n);
  assert.deepEqual((await restored.leases.leaseTimeToLive({ id: lease, keys: true })).keys.map(text), ["leased"]);
  await restored.kv.put({ key: b("q/1") });
  await rejects(restored.kv.put({ key: b("q/2") }), "resource_exhausted", "quota_exceeded");
  await rejects(restored.kv.range({ key: b("k1"), revision: 100n }), "out_of_range", "compacted");
  // Whoever watched the old store is told to start over.
  const watch = { watchId: 1n, key: b("k1"), startRevision: truth.header!.revision };
  for await (const message of restored.watches.watch({ watches: [watch] })) {
    if (!message.cancelled) continue;
    assert.ok(message.compactRevision > truth.header!.revision);
    break;
  }
  const { member, members } = await patiently(() => restored.cluster.memberAdd({ ...fresh.spare(), isLearner: true }));
  await fresh.join(Number(member!.id), plain(members));
  const joined = fresh.clients(Number(member!.id));
  await eventually(async () =>
    (await joined.kv.range({ key: b("leased"), consistency: Consistency.SERIALIZABLE })).count === 1n
  );
  const revision = (await restored.cluster.status({})).header!.revision;
  await eventually(async () => (await joined.cluster.status({})).header!.revision >= revision);
  const [one, two] = await Promise.all(
    [restored, joined].map(({ maintenance }) => maintenance.hashKv({ revision })),
  );
  assert.equal(one!.hash, two!.hash);

  // A member that has a log takes no backup, and a damaged backup founds nothing.
  await fresh.stop(1);
  await Deno.copyFile(`${dir}/backup`, `${fresh.stateDir(1)}/restore.snapshot`);
  await assert.rejects(fresh.start(1));
  assert.match(await fresh.log(1), /restore_refused|has a log already/);
  await using damaged = await prepareCluster(1);
  const bytes = await Deno.readFile(`${dir}/backup`);
  bytes[1_000]! ^= 1;
  await Deno.writeFile(`${damaged.stateDir(1)}/restore.snapshot`, bytes);
  await assert.rejects(damaged.start(1));
  assert.match(await damaged.log(1), /its digest is/);
});

Deno.test("a member whose rows were damaged is found by the comparison of hashes and serves no more; the others go on", async () => {
  await using cluster = await prepareCluster(3, { ...quick, hashCheckMs: 300 });
  await cluster.startAll();
  const leader = await cluster.leader();
  const { kv } = cluster.clients(leader);
  for (let i = 0; i < 50; i++) await kv.put({ key: b(`k${i}`), value: b("1") });
  const revision = (await kv.range({ key: b("k1") })).header!.revision;
  const hashes = async () =>
    await Promise.all([1, 2, 3].map((id) => cluster.clients(id).maintenance.hashKv({ revision }).then((a) => a.hash)));
  await eventually(async () =>
    (await Promise.all([1, 2, 3].map((id) => cluster.clients(id).cluster.status({}))))
      .every((status) => status.header!.revision >= revision)
  );
  assert.equal(new Set(await hashes()).size, 1);

  const damaged = leader % 3 + 1;
  await cluster.stop(damaged);
  {
    using db = openDatabase(`${cluster.stateDir(damaged)}/state.db`);
    db.run("UPDATE history SET version = version + 7 WHERE key = ?", b("k7"));
  }
  await cluster.start(damaged);
  const said = await hashes();
  assert.equal(said.filter((hash) => hash === said[damaged - 1]).length, 1, "the scan of the rows sees it at once");
  // The rolling hash sees it as soon as the row is used.
  await kv.put({ key: b("k7"), value: b("2") });
  const { maintenance } = cluster.clients(leader);
  await eventually(async () =>
    (await maintenance.alarm({ action: AlarmAction.GET })).alarms.some(({ memberId, type }) =>
      memberId === BigInt(damaged) && type === AlarmType.CORRUPT
    )
  );
  const gone = cluster.clients(damaged);
  const stale = { key: b("k7"), consistency: Consistency.SERIALIZABLE };
  await eventually(async () => await gone.kv.range(stale).then(() => false, (e) => e.code === "corrupt"));
  await rejects(gone.kv.range({ key: b("k1") }), "data_loss", "corrupt");
  assert.match((await gone.cluster.status({})).errors.join(), /alarm corrupt of member/);
  await kv.put({ key: b("still"), value: b("served") });
  const healthy = [1, 2, 3].find((id) => id !== leader && id !== damaged)!;
  assert.equal((await cluster.clients(healthy).kv.range({ key: b("still") })).count, 1n);
});

Deno.test("space that compaction freed goes back to the disk while writes go on; alarms are raised and taken back", async () => {
  await using cluster = await prepareCluster(1);
  await cluster.startAll();
  const { kv, maintenance, cluster: status } = cluster.clients();
  const value = new Uint8Array(20_000).fill(7);
  for (let i = 0; i < 1_500; i++) await kv.put({ key: b(`k${i % 300}`), value });
  await kv.deleteRange({ key: b("k"), rangeEnd: b("l") });
  const { revision } = (await kv.range({ key: b("k1") })).header!;
  await kv.compact({ revision, physical: true });
  const before = await status.status({});
  assert.ok(before.dbBytesInUse * 4n < before.dbBytes, `${before.dbBytesInUse} of ${before.dbBytes} bytes in use`);
  let writing = true;
  let writes = 0;
  let stallMs = 0;
  const writer = (async () => {
    while (writing) {
      const from = performance.now();
      await kv.put({ key: b("w"), value: b("x") });
      stallMs = Math.max(stallMs, performance.now() - from);
      writes++;
    }
  })();
  const answer = await maintenance.reclaim({});
  writing = false;
  await writer;
  assert.equal(answer.bytesBefore >= before.dbBytes, true);
  assert.ok(answer.bytesAfter * 4n < answer.bytesBefore, `${answer.bytesBefore} bytes became ${answer.bytesAfter}`);
  const { size } = await Deno.stat(`${cluster.stateDir(1)}/state.db`);
  assert.ok(BigInt(size) < answer.bytesBefore / 2n, `the file has ${size} bytes`);
  assert.ok(writes > 0, "writes went on");
  console.log(
    `${answer.bytesBefore - answer.bytesAfter} bytes given back under ${writes} writes, longest ${
      Math.round(stallMs)
    } ms`,
  );

  const nospace = { action: AlarmAction.ACTIVATE, type: AlarmType.NOSPACE };
  assert.deepEqual((await maintenance.alarm(nospace)).alarms.map(({ memberId }) => memberId), [1n]);
  await rejects(kv.put({ key: b("a") }), "resource_exhausted", "no_space");
  assert.equal((await kv.range({ key: b("w") })).count, 1n);
  await kv.deleteRange({ key: b("w") });
  assert.equal((await maintenance.alarm({ action: AlarmAction.DEACTIVATE })).alarms.length, 1);
  await kv.put({ key: b("a") });
  await rejects(
    maintenance.alarm({ action: AlarmAction.ACTIVATE }),
    "invalid_argument",
    "invalid_field",
  );
  await rejects(maintenance.hashKv({ revision: 10_000_000n }), "out_of_range", "future_revision");
});

Deno.test("quotas bound what a namespace holds and how fast it is written, and tell its usage", async () => {
  await using cluster = await prepareCluster(1);
  await cluster.startAll();
  const { kv, quotas, leases, watches } = cluster.clients();
  await kv.put({ key: b("t/1"), value: b("12345") });
  const quota = { namespace: b("t/"), keysMax: 3n, bytesMax: 40n, leasesMax: 1n, watchesMax: 1n };
  await quotas.setQuota({ quota });
  const usage = async () => (await quotas.getQuota({ namespace: b("t/") })).usage!;
  assert.deepEqual([(await usage()).keys, (await usage()).bytes], [1n, 8n]);
  const { id: first } = await leases.leaseGrant({ ttlMs: 60_000n });
  const { id: second } = await leases.leaseGrant({ ttlMs: 60_000n });
  await kv.put({ key: b("t/2"), value: b("1"), lease: first });
  await rejects(kv.put({ key: b("t/3"), lease: second }), "resource_exhausted", "quota_exceeded");
  await rejects(kv.put({ key: b("t/3"), value: new Uint8Array(30) }), "resource_exhausted", "quota_exceeded");
  await kv.put({ key: b("t/3") });
  await rejects(kv.put({ key: b("t/4") }), "resource_exhausted", "quota_exceeded");
  await kv.put({ key: b("other"), value: new Uint8Array(1_000) });
  await leases.leaseRevoke({ id: first });
  assert.deepEqual([(await usage()).keys, (await usage()).leases], [2n, 0n]);
  await kv.put({ key: b("t/4") });

  const stop = new AbortController();
  const open = watches.watch({ watches: [{ watchId: 1n, key: b("t/"), rangeEnd: b("t0") }] }, { signal: stop.signal });
  const reading = (async () => {
    for await (const _ of open);
  })().catch(() => {});
  await eventually(async () => (await usage()).watches === 1n);
  await rejects(
    (async () => {
      for await (const _ of watches.watch({ watches: [{ watchId: 1n, key: b("t/1") }] }));
    })(),
    "resource_exhausted",
    "quota_exceeded",
  );
  stop.abort();
  await reading;

  await quotas.setQuota({ quota: { namespace: b("slow/"), writesPerSecondMax: 2n } });
  const outcomes = await Promise.all(
    Array.from({ length: 20 }, () => kv.put({ key: b("slow/1") }).then(() => "ok", (e) => e.code as string)),
  );
  assert.ok(outcomes.filter((outcome) => outcome === "ok").length >= 2);
  assert.ok(outcomes.includes("rate_exceeded"), outcomes.join());
  await eventually(async () => {
    await systemClock.sleep(600);
    return await kv.put({ key: b("slow/1") }).then(() => true, () => false);
  });
  assert.equal((await quotas.listQuotas({})).quotas.length, 2);
  await quotas.deleteQuota({ namespace: b("t/") });
  await kv.put({ key: b("t/5"), value: new Uint8Array(1_000) });
  await rejects(quotas.getQuota({ namespace: b("t/") }), "not_found", "quota_not_found");
  await rejects(quotas.setQuota({ quota: { namespace: b("x") } }), "invalid_argument", "invalid_field");
});
