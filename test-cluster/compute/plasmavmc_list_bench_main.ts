import { systemClock, systemRng } from "@ultracloud/base";
import { noopLogger } from "@ultracloud/observe";
import { buckets, flaredbBackend, openPlatform } from "@ultracloud/platform";
import { DatabaseService, KvService } from "@ultracloud/proto/flaredb/v1";
import { ComputeCloud, project } from "./cloud.ts";

/** The list of 1 000 VMs through the real service, authorised, from the real store. */

const vmsCount = 1_000;
const looks = 40;

await using cloud = await ComputeCloud.open({ workers: ["n1"] });
await cloud.done(cloud.vms.createVm(cloud.vmRequest("vm-0000", { network: false })));
const kv = flaredbBackend({
  kv: cloud.client(KvService, "flaredb"),
  databases: cloud.client(DatabaseService, "flaredb"),
}, "sys_plasmavmc");
const platform = openPlatform({ service: "plasmavmc" }, { kv, clock: systemClock, rng: systemRng, log: noopLogger });
const [item] = await kv.scan(buckets.records, { prefix: `vm|${project}|`, limit: 1 });
const record = JSON.parse(new TextDecoder().decode(item!.value));
const encoder = new TextEncoder();
for (let at = 1; at < vmsCount; at += 100) {
  // The record of a real VM under other names: what a list reads, without a thousand guests.
  await platform.transact((tx) => {
    for (let i = at; i < Math.min(vmsCount, at + 100); i++) {
      const name = `vm-${String(i).padStart(4, "0")}`;
      const copy = { ...record, id: tx.newId("vm"), name, value: { ...record.value, operation: "", state: "stopped" } };
      tx.write(buckets.records, `vm|${project}|${name}`, encoder.encode(JSON.stringify(copy)));
    }
  });
}
const request = { project, page: { pageSize: vmsCount } };
const spans: number[] = [];
for (let i = 0; i < looks; i++) {
  const start = performance.now();
  const { vms } = await cloud.vms.listVms(request);
  if (vms.length !== vmsCount) throw new Error(`listed ${vms.length} VMs`);
  spans.push(performance.now() - start);
}
spans.sort((a, b) => a - b);
const at = (share: number) => spans[Math.floor(share * (spans.length - 1))]!.toFixed(1);
console.log(`list of ${vmsCount} VMs: p50 ${at(0.5)} ms, p95 ${at(0.95)} ms (wanted: p50 at most 20 ms)`);
