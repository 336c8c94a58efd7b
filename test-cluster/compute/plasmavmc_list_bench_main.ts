import { ListVmsRequestSchema } from "@ultracloud/proto/plasmavmc/v1";
import { create, toBinary, toJsonString } from "@bufbuild/protobuf";
import { fillWithVms, planeStore } from "./_thousand_vms.ts";
import { ComputeCloud, project } from "./cloud.ts";

/** The list of 1 000 VMs through the real service, authorised, from the real store. */

const vmsCount = 1_000;
const looks = 100;

await using cloud = await ComputeCloud.open({ workers: ["n1"] });
const kv = planeStore(cloud);
await fillWithVms(cloud, kv, vmsCount);
const request = { project, page: { pageSize: vmsCount } };
const message = create(ListVmsRequestSchema, request);
const url = `${cloud.stack.endpoint("plasmavmc")}/ultracloud.plasmavmc.v1.VmService/ListVms`;
const { UC_TOKEN: token } = await cloud.ucEnvironment();

/** The answer's bytes, from the call to the last of them. */
async function answerBytes(contentType: string, body: Uint8Array<ArrayBuffer> | string): Promise<number> {
  const headers = { "content-type": contentType, "authorization": `Bearer ${token}`, "accept-encoding": "identity" };
  const response = await fetch(url, { method: "POST", headers, body });
  const bytes = await response.bytes();
  if (!response.ok) throw new Error(`The list answers ${response.status}: ${new TextDecoder().decode(bytes)}`);
  return bytes.length;
}

/** Milliseconds of each call, sorted; the first ones warm up both sides. */
async function spansOf(work: () => Promise<unknown>): Promise<number[]> {
  for (let i = 0; i < 20; i++) await work();
  const spans: number[] = [];
  for (let i = 0; i < looks; i++) {
    const start = performance.now();
    await work();
    spans.push(performance.now() - start);
  }
  return spans.sort((a, b) => a - b);
}

async function tell(what: string, work: () => Promise<unknown>): Promise<void> {
  const spans = await spansOf(work);
  const at = (share: number) => spans[Math.floor(share * (spans.length - 1))]!.toFixed(1);
  console.log(`  ${what}: p50 ${at(0.5)} ms, p95 ${at(0.95)} ms, fastest ${at(0)} ms`);
}

console.log(`list of ${vmsCount} VMs, ${looks} calls each (wanted: p50 at most 20 ms)`);
await tell("binary, to the last byte", () => answerBytes("application/proto", toBinary(ListVmsRequestSchema, message)));
await tell(
  "JSON, to the last byte",
  () => answerBytes("application/json", toJsonString(ListVmsRequestSchema, message)),
);
await tell("TypeScript client, decoded", async () => {
  const { vms } = await cloud.vms.listVms(request);
  if (vms.length !== vmsCount) throw new Error(`listed ${vms.length} VMs`);
});
console.log(`of it the store, load of the machine ${Deno.loadavg()[0]!.toFixed(1)}`);
const scan = { prefix: `vm|${project}|`, limit: vmsCount };
await tell("keys and versions, as a list asks", () => kv.scan("records", { ...scan, keysOnly: true }));
await tell("whole records", () => kv.scan("records", scan));
