import { OperationState } from "@ultracloud/proto/common/v1";
import { VmState } from "@ultracloud/proto/plasmavmc/v1";
import { PortService } from "@ultracloud/proto/prismnet/v1";
import { ComputeCloud, project, until, vmRequest } from "./cloud.ts";
import type { Proof } from "./proof.ts";

const mib = 1024n ** 2n;
/** How often each pair of an operation and a victim is tried, each time killed somewhat later. */
const roundsDefault = 4;
/** When the first round kills, and how much later each of the others. */
const firstMs = 40;
const laterMs = 250;

type Victim = "plasmavmc" | "vm-agent" | "flaredb" | "QEMU";
const victims: readonly Victim[] = ["plasmavmc", "vm-agent", "flaredb", "QEMU"];

/** Operations in the middle of which processes are killed. */
export const killed = ["create", "attach", "migrate", "delete"] as const;

/** SIGKILL at growing moments of one operation: it ends done or undone, and nothing leaks. */
export async function kills(proof: Proof, which: (typeof killed)[number]): Promise<void> {
  const rounds = Number(Deno.env.get("KILL_ROUNDS") ?? roundsDefault);
  await using cloud = await ComputeCloud.open({ workers: ["n1", "n2"], leaseTtlMs: 20_000 });
  const { vms, volumes, operations } = cloud;
  await cloud.done(vms.createVm(vmRequest("bystander")));
  await cloud.guest("bystander", "true");
  const bystander = await cloud.guest("bystander", "cat /proc/sys/kernel/random/boot_id");
  const home = (await vms.getVm({ project, vm: "bystander" })).node;

  async function kill(victim: Victim): Promise<void> {
    if (victim === "plasmavmc") {
      await cloud.killPlane();
      cloud.startPlane();
    } else if (victim === "vm-agent") {
      for (const name of ["n1", "n2"]) {
        await cloud.workers.kill(name);
        cloud.workers.start(name);
      }
    } else if (victim === "flaredb") {
      await cloud.stack.process("flaredb")!.kill();
      cloud.stack.start("flaredb");
    } else {
      const { vms: all } = await vms.listVms({ project });
      const id = all.find((vm) => vm.meta!.name === "web")?.meta?.id;
      if (id !== undefined) { for (const name of ["n1", "n2"]) await cloud.workers.killQemus(name, id); }
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

  const make = () => cloud.done(vms.createVm(vmRequest("web")));
  const { kind, setup, begin } = {
    create: {
      kind: "vm.create",
      setup: () => Promise.resolve<unknown>(undefined),
      begin: () => vms.createVm(vmRequest("web")),
    },
    attach: {
      kind: "vm.attach_volume",
      setup: make,
      begin: () => vms.attachVolume({ project, vm: "web", volume: "data" }),
    },
    migrate: { kind: "vm.migrate", setup: make, begin: () => vms.migrateVm({ project, vm: "web" }) },
    delete: { kind: "vm.delete", setup: make, begin: () => vms.deleteVm({ project, vm: "web" }) },
  }[which];
  await cloud.done(volumes.createVolume({ project, name: "data", sizeBytes: 16n * mib, shared: true }));

  for (const victim of victims) {
    const outcomes: string[] = [];
    for (let round = 0; round < rounds; round++) {
      await setup();
      const since = Date.now();
      const asked = begin().catch(() => undefined);
      await new Promise((resolve) => setTimeout(resolve, firstMs + round * laterMs));
      await kill(victim);
      await asked;
      const end = await ended(kind, since);
      outcomes.push(end ? OperationState[end.state]!.toLowerCase() : "never begun");
      const copies = await copiesOf(cloud, "web");
      if (copies > 1) throw new Error(`${kind} with ${victim} killed: ${copies} copies of the guest run`);
      await cleanUp();
      let rest = "";
      await until(
        `${kind} with ${victim} killed in round ${round} leaves nothing`,
        120_000,
        async () => (rest = await leftovers(cloud)) === "",
      ).catch((cause) => {
        throw new Error(`${kind} with ${victim} killed in round ${round} leaves ${rest}`, { cause });
      });
    }
    proof.seen(`${kind} with ${victim} killed: ${outcomes.join(", ")}; nothing is left`);
  }
  const now = await cloud.guest("bystander", "cat /proc/sys/kernel/random/boot_id");
  const { node, state } = await vms.getVm({ project, vm: "bystander" });
  proof.check(
    now === bystander && node === home && state === VmState.RUNNING,
    "a guest beside all this is the same that was started first",
  );
}

/** What there is beside the bystander: processes, shares of workers, files of VMs, slots and ports. */
async function leftovers(cloud: ComputeCloud): Promise<string> {
  const found: string[] = [];
  const workers = ["n1", "n2"];
  const qemus = workers.reduce((sum, name) => sum + cloud.workers.qemusOf(name).length, 0);
  if (qemus !== 1) found.push(`${qemus - 1} QEMUs`);
  const { nodes } = await cloud.nodes.listNodes({});
  const slots = nodes.reduce((sum, n) => sum + n.allocated!.vmSlots, 0);
  if (slots !== 1) found.push(`${slots - 1} shares of workers`);
  const entries = (dir: string, pattern: RegExp) =>
    workers.reduce((sum, name) => {
      const path = `${dir === "run" ? cloud.workers.runDirOf(name) : `${cloud.workers.stateDirOf(name)}/${dir}`}`;
      return sum + [...Deno.readDirSync(path)].filter((entry) => pattern.test(entry.name)).length;
    }, 0);
  const dirs = entries("vms", /./);
  if (dirs !== 1) found.push(`${dirs - 1} directories of VMs`);
  const runs = entries("run", /^slot-/);
  if (runs !== 1) found.push(`${runs - 1} slots`);
  const exports = entries("run", /^vol-/);
  if (exports !== 0) found.push(`${exports} exports`);
  const { volumes } = await cloud.volumes.listVolumes({ project });
  if (volumes.some((v) => v.vmId !== "")) found.push("an attached volume");
  const ports = (await cloud.client(PortService, "prismnet").listPorts({ project })).ports.length;
  if (ports !== 1) found.push(`${ports - 1} ports`);
  return found.join(", ");
}

/** Workers where the guest's processors run. */
async function copiesOf(cloud: ComputeCloud, name: string): Promise<number> {
  const { vms } = await cloud.vms.listVms({ project });
  const id = vms.find((vm) => vm.meta!.name === name)?.meta?.id;
  if (id === undefined) return 0;
  let copies = 0;
  // An agent that was killed is just starting again.
  await until("the workers answer", 60_000, async () => {
    const homes = await Promise.all(["n1", "n2"].map((node) => cloud.workers.guestsRunning(node, id)));
    copies = homes.filter((runs) => runs).length;
    return true;
  });
  return copies;
}
