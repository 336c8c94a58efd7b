/**
 * From the start of a killed process to the first linearizable read, with many keys in the store, beside etcd.
 * `deno task bench chainfire/bench/restart`, or with the number of keys as argument.
 */
import { fault, systemClock, utf8 } from "@ultracloud/base";
import { prepareCluster } from "../test_cluster.ts";
import { Etcd } from "./_etcd.ts";
import { installed, residentMb } from "./_load.ts";

const keys = Number(Deno.args[0] ?? 1_000_000);
const valueBytes = 64;
const keysPerTxn = 100;
const inFlight = 8;

const name = (i: number) => `key-${String(i).padStart(9, "0")}`;
const value = utf8.encode("v".repeat(valueBytes));

/** Calls `put` with each batch of keys, several at once. */
async function fill(put: (names: readonly string[]) => Promise<void>): Promise<number> {
  const begin = performance.now();
  let next = 0;
  await Promise.all(Array.from({ length: inFlight }, async () => {
    while (next < keys) {
      const from = next;
      next += keysPerTxn;
      await put(Array.from({ length: Math.min(keysPerTxn, keys - from) }, (_, i) => name(from + i)));
    }
  }));
  return (performance.now() - begin) / 1_000;
}

{
  await using cluster = await prepareCluster(1);
  await cluster.startAll();
  await cluster.leader();
  const { kv } = cluster.clients(1);
  const took = await fill(async (names) => {
    const success = names.map((key) => ({
      request: { case: "put" as const, value: { key: utf8.encode(key), value } },
    }));
    await kv.txn({ success });
  });
  const before = residentMb(cluster.pid(1));
  await cluster.kill(1);
  const begin = performance.now();
  await cluster.start(1);
  const { kv: again } = cluster.clients(1);
  const found = await again.range({ key: utf8.encode(name(keys - 1)) });
  const ready = (performance.now() - begin) / 1_000;
  if (found.kvs.length !== 1) throw fault("data_loss", "bench_failed", `${name(keys - 1)} is gone after the restart`);
  console.log(
    `chainfire: ${keys} keys written in ${took.toFixed(1)} s, restart to first linearizable read ${
      ready.toFixed(2)
    } s (wanted below 5 s), resident ${before.toFixed(0)} MB before, ${residentMb(cluster.pid(1)).toFixed(0)} MB after`,
  );
}

if (!installed("etcd")) {
  console.log("left out: etcd is not installed (Debian package etcd-server)");
} else {
  await using etcd = await Etcd.start(1);
  const { url } = etcd.target(0);
  const encoded = value.toBase64();
  const took = await fill(async (names) => {
    const success = names.map((key) => ({ requestPut: { key: btoa(key), value: encoded } }));
    const response = await fetch(`${url}/v3/kv/txn`, { method: "POST", body: JSON.stringify({ success }) });
    await response.body?.cancel();
    if (!response.ok) throw fault("internal", "bench_failed", `etcd answers ${response.status}`);
  });
  const before = residentMb(etcd.pids[0]!);
  await etcd.kill(0);
  const begin = performance.now();
  etcd.restart(0);
  for (;;) {
    const body = JSON.stringify({ key: btoa(name(keys - 1)) });
    const found = await fetch(`${url}/v3/kv/range`, { method: "POST", body }).then((r) => r.json(), () => undefined);
    if ((found as { kvs?: unknown[] } | undefined)?.kvs?.length === 1) break;
    await systemClock.sleep(5);
  }
  const ready = (performance.now() - begin) / 1_000;
  console.log(
    `etcd: ${keys} keys written in ${took.toFixed(1)} s, restart to first linearizable read ${
      ready.toFixed(2)
    } s, resident ${before.toFixed(0)} MB before, ${residentMb(etcd.pids[0]!).toFixed(0)} MB after`,
  );
}
