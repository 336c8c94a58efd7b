import { systemClock } from "@ultracloud/base";
import { connectQmp } from "@ultracloud/qmp";
import { MigrationStorage } from "@ultracloud/proto/plasmavmc/v1";
import { argumentsOf } from "./_bare_qemu.ts";
import { ComputeCloud, project, until } from "./cloud.ts";

/** An idle guest of 256 MiB migrates between two workers, beside two QEMUs by themselves over a unix socket. */

const rounds = 5;
const marker = "ULTRACLOUD_GUEST_READY";

await using cloud = await ComputeCloud.open({ workers: ["n1", "n2"] });
const { FlavorService } = await import("@ultracloud/proto/plasmavmc/v1");
const flavor = { name: "quarter", vcpus: 1, memoryBytes: 256n * 1024n ** 2n, diskBytes: 0n };
await cloud.client(FlavorService).createFlavor({ flavor });
const request = { ...cloud.vmRequest("web", { network: false }), flavor: "quarter", userData: "" };
await cloud.done(cloud.vms.createVm(request));
await until(
  "the guest is up",
  120_000,
  async () => new TextDecoder().decode((await cloud.vms.getConsoleLog({ project, vm: "web" })).data).includes(marker),
);
const { node } = await cloud.vms.getVm({ project, vm: "web" });
const args = await argumentsOf(cloud.qemusOf(node)[0]!);
const down: number[] = [];
const total: number[] = [];
const whole: number[] = [];
for (let i = 0; i < rounds; i++) {
  const start = performance.now();
  await cloud.done(cloud.vms.migrateVm({ project, vm: "web", storage: MigrationStorage.SHARED }));
  whole.push(performance.now() - start);
  const { migration } = await cloud.vms.getVm({ project, vm: "web" });
  down.push(Number(migration!.downtimeMs));
  total.push(Number(migration!.totalMs));
}
await cloud.done(cloud.vms.stopVm({ project, vm: "web", force: true }));

const bare: number[] = [];
const bareDown: number[] = [];
for (let i = 0; i < rounds; i++) {
  const seen = await migrateBare(`${cloud.dir}/bare${i}`);
  bare.push(seen.totalMs);
  bareDown.push(seen.downtimeMs);
}
const median = (all: number[]) => [...all].sort((a, b) => a - b)[Math.floor(all.length / 2)]!;
const ratio = median(total) / median(bare);
console.log(
  `bare QEMU over a unix socket: ${median(bareDown)} ms down, ${median(bare)} ms in all (median of ${rounds})`,
);
console.log(
  `plasmavmc: ${median(down)} ms down (wanted: at most 100), ${median(total)} ms in all, ${
    ratio.toFixed(2)
  } x bare (wanted: at most 2)`,
);
console.log(`the whole operation, target started and source cleared: ${median(whole).toFixed(0)} ms`);

/** Two QEMUs with the worker's own arguments, one waiting for the other. */
async function migrateBare(dir: string): Promise<{ downtimeMs: number; totalMs: number }> {
  await Deno.mkdir(dir, { recursive: true });
  const slotDir = args.join(" ").match(/(\/[^ ,]*\/slot-\d\d)\//)![1]!;
  const start = async (side: string, more: string[]) => {
    const own = `${dir}/${side}`;
    await Deno.mkdir(own);
    const mapped = args.slice(1).filter((arg) => arg !== "-S").map((arg) => arg.replaceAll(slotDir, own))
      .map((arg) => arg.replace(/logfile=[^,]*/, `logfile=${own}/serial.log`));
    await Deno.writeTextFile(`${own}/serial.log`, "");
    const command = new Deno.Command(args[0]!, {
      args: [...mapped, ...more],
      stdin: "null",
      stdout: "null",
      stderr: "null",
    });
    return { child: command.spawn(), own };
  };
  const source = await start("source", []);
  const target = await start("target", ["-incoming", `unix:${dir}/migrate.sock`]);
  try {
    await until(
      "the bare guest is up",
      60_000,
      async () => (await Deno.readTextFile(`${source.own}/serial.log`)).includes(marker),
    );
    await until("the target listens", 20_000, async () => (await Deno.stat(`${dir}/migrate.sock`)).isSocket === true);
    await using qmp = await connectQmp({ path: `${source.own}/qmp.sock` }, { clock: systemClock });
    await qmp.execute("migrate", { uri: `unix:${dir}/migrate.sock` });
    let seen: Record<string, number | string> = {};
    await until("the bare guest has moved", 60_000, async () => {
      seen = await qmp.execute<typeof seen>("query-migrate");
      return seen.status === "completed";
    });
    return { downtimeMs: Number(seen.downtime), totalMs: Number(seen["total-time"]) };
  } finally {
    for (const { child } of [source, target]) {
      try {
        child.kill("SIGKILL");
      } catch {
        // It has ended.
      }
      await child.status;
    }
  }
}
