import { Consistency } from "@ultracloud/proto/chainfire/v1";
import assert from "node:assert/strict";
import { all, b, eventually, quick, rejects, text } from "./_test_support.ts";
import { prepareCluster } from "./test_cluster.ts";

Deno.test("metrics count what was done under etcd's names", async () => {
  await using cluster = await prepareCluster(1);
  await cluster.startAll();
  const { kv, leases, quotas } = cluster.clients();
  for (let i = 0; i < 3; i++) await kv.put({ key: b("a"), value: b(String(i)) });
  await kv.deleteRange({ key: b("a") });
  await kv.range({ key: b("a") });
  await kv.txn({});
  const { id } = await leases.leaseGrant({ ttlMs: 60_000n });
  await leases.leaseKeepAlive({ id });
  await leases.leaseRevoke({ id });
  await quotas.setQuota({ quota: { namespace: b("n/"), keysMax: 5n } });
  await kv.put({ key: b("n/1"), value: b("22") });
  const { url } = await cluster.address(1);
  const page = await (await fetch(`${url}/metrics`)).text();
  const value = (name: string) => {
    const line = page.split("\n").find((one) => one.startsWith(`chainfire_${name} `));
    return line === undefined ? undefined : Number(line.split(" ").at(-1));
  };
  const wanted = {
    server_has_leader: 1,
    server_is_leader: 1,
    server_is_learner: 0,
    server_proposals_pending: 0,
    mvcc_put_total: 4,
    mvcc_delete_total: 1,
    mvcc_range_total: 1,
    mvcc_txn_total: 1,
    debugging_mvcc_keys_total: 1,
    debugging_mvcc_current_revision: 6,
    debugging_lease_granted_total: 1,
    debugging_lease_renewed_total: 1,
    debugging_lease_revoked_total: 1,
    'namespace_bytes{namespace="n/"}': 5,
    'alarms{type="corrupt"}': 0,
  };
  assert.deepEqual(Object.fromEntries(Object.keys(wanted).map((name) => [name, value(name)])), wanted);
  assert.ok(value("server_proposals_applied_total")! >= 9);
  assert.ok(value("disk_wal_fsync_duration_seconds_count")! >= 9 && value("disk_wal_fsync_duration_seconds_sum")! > 0);
  assert.ok(value("disk_wal_write_duration_seconds_count")! >= 9);
  assert.equal(value("disk_snapshot_save_duration_seconds_count"), 0);
  assert.ok(value("mvcc_db_total_size_in_bytes")! > 0);
  // From the first look on changes are counted.
  await kv.put({ key: b("n/2") });
  await kv.put({ key: b("n/1"), value: b("3") });
  await kv.deleteRange({ key: b("n/1") });
  const later = await (await fetch(`${url}/metrics`)).text();
  assert.match(later, /^chainfire_debugging_mvcc_keys_total 1$/m);
});

Deno.test("metrics tell what members sent each other, and what could not be sent", async () => {
  await using cluster = await prepareCluster(3, quick);
  await cluster.startAll();
  const leader = await cluster.leader();
  const [near, far] = cluster.running().filter((id) => id !== leader);
  const value = async (id: number, series: string) => {
    const { url } = await cluster.address(id);
    const page = await (await fetch(`${url}/metrics`)).text();
    return Number(page.split("\n").find((line) => line.startsWith(`chainfire_network_${series} `))?.split(" ").at(-1));
  };
  const before = await value(leader, `peer_sent_bytes_total{To="${near}"}`);
  await cluster.clients(leader).kv.put({ key: b("k"), value: new Uint8Array(100_000) });
  await cluster.clients(near!).kv.range({ key: b("k") });
  assert.ok(await value(leader, `peer_sent_bytes_total{To="${near}"}`) >= before + 100_000);
  assert.ok(await value(near!, `peer_received_bytes_total{From="${leader}"}`) >= 100_000);
  assert.ok(await value(leader, `peer_received_total{From="${near}"}`) > 0);
  await cluster.kill(far!);
  await eventually(async () => await value(leader, `peer_sent_failures_total{To="${far}"}`) > 0);
});

Deno.test("a stale read is as old as allowed and no older, and pages are cut by bytes", async () => {
  await using cluster = await prepareCluster(3, quick);
  await cluster.startAll();
  const leader = await cluster.leader();
  const follower = leader % 3 + 1;
  const { kv } = cluster.clients(leader);
  const local = cluster.clients(follower).kv;
  await kv.put({ key: b("k"), value: b("1") });
  const stale = (maxAgeMs: bigint) => ({ key: b("k"), consistency: Consistency.BOUNDED_STALE, maxAgeMs });
  assert.equal(text((await local.range(stale(60_000n))).kvs[0]!.value), "1");
  await kv.put({ key: b("k"), value: b("2") });
  const writtenMs = performance.now();
  // Once the write is older than the age, every such read must show it.
  await eventually(() => performance.now() - writtenMs > 60);
  assert.equal(text((await local.range(stale(50n))).kvs[0]!.value), "2");
  await rejects(local.range(stale(0n)), "invalid_argument", "invalid_field");
  await rejects(local.range({ key: b("k"), maxAgeMs: 5n }), "invalid_argument", "invalid_field");

  for (let i = 0; i < 10; i++) await kv.put({ key: b(`page/${i}`), value: new Uint8Array(1_000) });
  const seen: string[] = [];
  for (let key = b("page/");;) {
    const { kvs, more } = await kv.range({ key, rangeEnd: b("page0"), bytesMax: 3_500n });
    assert.ok(kvs.length > 0 && kvs.length <= 4);
    seen.push(...kvs.map((item) => text(item.key)));
    if (!more) break;
    key = new Uint8Array([...kvs.at(-1)!.key, 0]);
  }
  assert.deepEqual(seen, Array.from({ length: 10 }, (_, i) => `page/${i}`));

  // Without the others a member cannot know how old it is.
  await cluster.kill(leader);
  await cluster.kill([1, 2, 3].find((id) => id !== leader && id !== follower)!);
  await eventually(async () =>
    await local.range(stale(200n), { timeoutMs: 2_000 }).then(() => false, (error) => error.kind !== "invalid_argument")
  );
  assert.equal((await local.range({ ...all, consistency: Consistency.SERIALIZABLE })).count, 11n);
});
