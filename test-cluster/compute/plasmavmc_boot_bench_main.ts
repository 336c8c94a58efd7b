import { argumentsOf, bootBare } from "./_bare_qemu.ts";
import { ComputeCloud, project, until, vmRequest } from "./cloud.ts";

/**
 * From the create call to the first words of the guest, beside QEMU by itself with the same arguments. As a guest boots
 * for seconds under TCG, which on a busy machine differ by more than what is looked for, also to the operation's end:
 * by then the guest has had its first instruction.
 */

const marker = "ULTRACLOUD_GUEST_READY";
const rounds = 5;

await using cloud = await ComputeCloud.open({ workers: ["n1"] });

async function viaPlasmavmc(name: string): Promise<{ readonly runsMs: number; readonly wordsMs: number }> {
  const start = performance.now();
  const operation = await cloud.vms.createVm(vmRequest(name, { network: false }));
  const runs = cloud.over(operation).then(() => performance.now() - start);
  await until("the guest is up", 120_000, async () => {
    const { data } = await cloud.vms.getConsoleLog({ project, vm: name });
    return new TextDecoder().decode(data).includes(marker);
  });
  const wordsMs = performance.now() - start;
  return { runsMs: await runs, wordsMs };
}

await viaPlasmavmc("warm");
const args = await argumentsOf(cloud.workers.qemusOf("n1")[0]!);
const runDir = cloud.workers.runDirOf("n1");
await until("idle", 30_000, async () => (await cloud.vms.getVm({ project, vm: "warm" })).operation === "");
await cloud.done(cloud.vms.stopVm({ project, vm: "warm", force: true }));

const bare: number[] = [];
const through: number[] = [];
const runs: number[] = [];
for (let i = 0; i < rounds; i++) {
  // Slots are directories of their own.
  const slot = args.join(" ").match(/slot-\d\d/)?.[0] ?? "slot-00";
  bare.push(await bootBare(args, `${runDir}/${slot}`, `${cloud.dir}/bare${i}`, marker));
  const name = `vm${i}`;
  const seen = await viaPlasmavmc(name);
  through.push(seen.wordsMs);
  runs.push(seen.runsMs);
  await until("idle", 30_000, async () => (await cloud.vms.getVm({ project, vm: name })).operation === "");
  await cloud.done(cloud.vms.deleteVm({ project, vm: name }));
}
const median = (all: number[]) => [...all].sort((a, b) => a - b)[Math.floor(all.length / 2)]!;
console.log(
  `bare QEMU, same arguments: ${median(bare).toFixed(0)} ms to the guest's first words (median of ${rounds})`,
);
console.log(`create call through plasmavmc: ${median(through).toFixed(0)} ms`);
console.log(`overhead: ${(median(through) - median(bare)).toFixed(0)} ms (wanted: at most 1 000 ms)`);
console.log(
  `create call to the operation's end, the guest running: ${median(runs).toFixed(0)} ms (worst ${
    Math.max(...runs).toFixed(0)
  }); load of the machine ${Deno.loadavg()[0]!.toFixed(1)}`,
);
