import { ListVmsRequestSchema } from "@ultracloud/proto/plasmavmc/v1";
import { create, toBinary, toJsonString } from "@bufbuild/protobuf";
import { findByCommandLine } from "@ultracloud/launch";
import { fillWithVms, planeStore } from "./_thousand_vms.ts";
import { ComputeCloud, project } from "./cloud.ts";

/** The list of 1 000 VMs through the real service, authorised, from the real store. */

const vmsCount = 1_000;
const looks = 100;
/** Calls before those that count: both sides compile what they run often. */
const warmups = 30;

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

/** Milliseconds of each call, sorted. */
async function spansOf(work: () => Promise<unknown>): Promise<number[]> {
  const spans: number[] = [];
  for (let i = 0; i < looks; i++) {
    const start = performance.now();
    await work();
    spans.push(performance.now() - start);
  }
  return spans.sort((a, b) => a - b);
}

/** Milliseconds of processors that a component has used: those do not grow with what else the machine does. */
async function cpuMs(component: string): Promise<number> {
  const [process] = findByCommandLine(`${cloud.dir}/etc/${component}/config.toml`, "deno");
  const stat = await Deno.readTextFile(`/proc/${process!.pid}/stat`);
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) * 10;
}

async function tell(what: string, work: () => Promise<unknown>): Promise<void> {
  for (let i = 0; i < warmups; i++) await work();
  const components = ["plasmavmc", "flaredb"];
  const before = await Promise.all(components.map(cpuMs));
  const spans = await spansOf(work);
  const after = await Promise.all(components.map(cpuMs));
  const at = (share: number) => spans[Math.floor(share * (spans.length - 1))]!.toFixed(1);
  const used = components.map((name, i) => `${name} ${((after[i]! - before[i]!) / looks).toFixed(1)}`).join(", ");
  console.log(`  ${what}: p50 ${at(0.5)} ms, p95 ${at(0.95)} ms, fastest ${at(0)} ms; processor ms: ${used}`);
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
