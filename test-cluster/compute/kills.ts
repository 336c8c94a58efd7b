import { OperationState } from "@ultracloud/proto/common/v1";
import { VmState } from "@ultracloud/proto/plasmavmc/v1";
import { ComputeCloud, project, until } from "./cloud.ts";
import type { Proof } from "./proof.ts";

const mib = 1024n ** 2n;
/** How often each pair of an operation and a victim is tried, each time killed somewhat later. */
const roundsDefault = 3;

type Victim = "plasmavmc" | "vm-agent" | "flaredb" | "QEMU";
const victims: readonly Victim[] = ["plasmavmc", "vm-agent", "flaredb", "QEMU"];

/** SIGKILL at growing moments of every operation: it ends done or undone, and nothing leaks. */
export async function kills(proof: Proof): Promise<void> {
  const rounds = Number(Deno.env.get("KILL_ROUNDS") ?? roundsDefault);
  await using cloud = await ComputeCloud.open({ workers: ["n1", "n2"], leaseTtlMs: 20_000 });
  const { vms, volumes, operations } = cloud;
  await cloud.done(vms.createVm(cloud.vmRequest("bystander")));
  await cloud.guest("bystander", "true");
  const bystander = await cloud.guest("bystander", "cat /proc/sys/kernel/random/boot_id");
  const home = (await vms.getVm({ project, vm: "bystander" })).node;

  async function kill(victim: Victim): Promise<void> {
    if (victim === "plasmavmc") {
      await cloud.killPlane();
      cloud.startPlane();
    } else if (victim === "vm-agent") {
      for (const name of ["n1", "n2"]) {
        await cloud.killWorker(name);
        cloud.startWorker(name);
      }
    } else if (victim === "flaredb") {
      await cloud.stack.process("flaredb")!.kill();
      cloud.stack.start("flaredb");
    } else {
      const { vms: all } = await vms.listVms({ project });
      const id = all.find((vm) => vm.meta!.name === "web")?.meta?.id;
      if (id !== undefined) { for (const name of ["n1", "n2"]) await cloud.killQemus(name, id); }
    }
  }

  /** The newest operation of the kind once it is over; undefined when it was never begun. */
  async function ended(kind: string, since: number) {
    await until("the control plane answers", 120_000, async () => {
      await operations.listOperations({ project });
      return true;
    });
    const { operations: all } = await operations.listOperations({ project });
    const found = all.find((o) => o.kind === kind && Number(o.startTime!.seconds) * 1000 >= since - 1_000);
    return found && await cloud.over(found);
  }

  const exists = async () => (await vms.listVms({ project })).vms.some((vm) => vm.meta!.name === "web");
  const cleanUp = async () => {
    await until(
      "nothing is under way",
      120_000,
      async () => (await vms.listVms({ project })).vms.every((vm) => vm.operation === ""),
    );
    if (await exists()) await cloud.done(vms.deleteVm({ project, vm: "web" }));
  };

  const cases: readonly {
    readonly kind: string;
    readonly setup: () => Promise<unknown>;
    readonly begin: () => Promise<unknown>;
  }[] = [
    { kind: "vm.create", setup: () => Promise.resolve(), begin: () => vms.createVm(cloud.vmRequest("web")) },
    {
      kind: "vm.attach_volume",
      setup: () => cloud.done(vms.createVm(cloud.vmRequest("web"))),
      begin: () => vms.attachVolume({ project, vm: "web", volume: "data" }),
    },
    {
      kind: "vm.migrate",
      setup: () => cloud.done(vms.createVm(cloud.vmRequest("web"))),
      begin: () => vms.migrateVm({ project, vm: "web" }),
    },
    {
      kind: "vm.delete",
      setup: () => cloud.done(vms.createVm(cloud.vmRequest("web"))),
      begin: () => vms.deleteVm({ project, vm: "web" }),
    },
  ];
  await cloud.done(volumes.createVolume({ project, name: "data", sizeBytes: 16n * mib, shared: true }));

  for (const { kind, setup, begin } of cases) {
    for (const victim of victims) {
      const outcomes: string[] = [];
      for (let round = 0; round < rounds; round++) {
        await setup();
        const since = Date.now();
        const asked = begin().catch(() => undefined);
        await new Promise((resolve) => setTimeout(resolve, 40 + round * 350));
        await kill(victim);
        await asked;
        const end = await ended(kind, since);
        outcomes.push(end ? OperationState[end.state]!.toLowerCase() : "never begun");
        const copies = await copiesOf(cloud, "web");
        if (copies > 1) throw new Error(`${kind} with ${victim} killed: ${copies} copies of the guest run`);
        await cleanUp();
        await until(`${kind} with ${victim} killed in round ${round} leaves nothing`, 120_000, async () => {
          const left = cloud.qemusOf("n1").length + cloud.qemusOf("n2").length;
          const { nodes } = await cloud.nodes.listNodes({});
          const slots = nodes.reduce((sum, n) => sum + n.allocated!.vmSlots, 0);
          return left === 1 && slots === 1;
        });
      }
      proof.seen(`${kind} with ${victim} killed: ${outcomes.join(", ")}; nothing is left`);
    }
  }
  const now = await cloud.guest("bystander", "cat /proc/sys/kernel/random/boot_id");
  const { node, state } = await vms.getVm({ project, vm: "bystander" });
  proof.check(
    now === bystander && node === home && state === VmState.RUNNING,
    "a guest beside all this is the same that was started first",
  );
}

async function copiesOf(cloud: ComputeCloud, name: string): Promise<number> {
  const { vms } = await cloud.vms.listVms({ project });
  const id = vms.find((vm) => vm.meta!.name === name)?.meta?.id;
  if (id === undefined) return 0;
  const homes = await Promise.all(["n1", "n2"].map(async (node) => (await cloud.guestsRunning(node, id)) ? 1 : 0));
  return homes.reduce((a: number, b) => a + b, 0);
}
