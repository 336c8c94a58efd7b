import { systemClock, systemRng } from "@ultracloud/base";
import { noopLogger } from "@ultracloud/observe";
import { buckets, flaredbBackend, type KvBackend, openPlatform } from "@ultracloud/platform";
import { DatabaseService, KvService } from "@ultracloud/proto/flaredb/v1";
import { type ComputeCloud, project, vmRequest } from "./cloud.ts";

/** The store of plasmavmc, reached as the operator. */
export function planeStore(cloud: ComputeCloud): KvBackend {
  const kv = cloud.client(KvService, "flaredb");
  const databases = cloud.client(DatabaseService, "flaredb");
  return flaredbBackend({ kv, databases }, "sys_plasmavmc");
}

/**
 * Makes one VM and writes its record under other names until there are `count`: what a list reads, without that many
 * guests.
 */
export async function fillWithVms(cloud: ComputeCloud, kv: KvBackend, count: number): Promise<void> {
  const platform = openPlatform({ service: "plasmavmc" }, { kv, clock: systemClock, rng: systemRng, log: noopLogger });
  await cloud.done(cloud.vms.createVm(vmRequest("vm-0000", { network: false })));
  const [item] = await kv.scan(buckets.records, { prefix: `vm|${project}|`, limit: 1 });
  const record = JSON.parse(new TextDecoder().decode(item!.value));
  const encoder = new TextEncoder();
  for (let at = 1; at < count; at += 100) {
    await platform.transact((tx) => {
      for (let i = at; i < Math.min(count, at + 100); i++) {
        const name = `vm-${String(i).padStart(4, "0")}`;
        const value = { ...record.value, operation: "", state: "stopped" };
        const copy = { ...record, id: tx.newId("vm"), name, value };
        tx.write(buckets.records, `vm|${project}|${name}`, encoder.encode(JSON.stringify(copy)));
      }
    });
  }
}
