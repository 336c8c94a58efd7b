import { buildRouteMap } from "@stricli/core";
import { fault } from "@ultracloud/base";
import type { Operation } from "@ultracloud/proto/common/v1";
import {
  MachineType,
  MigrationStorage,
  NodeLossPolicy,
  type NodeVerdict,
  NodeVerdictSchema,
  PlacementService,
  RestartPolicy,
  type VmMetrics,
  VmMetricsSchema,
  VmSchema,
  VmService,
} from "@ultracloud/proto/plasmavmc/v1";
import { type Column, humanBytes } from "../frame/columns.ts";
import { command, parseDuration, type Run, text } from "../frame/command.ts";
import { follow } from "../frame/operations.ts";
import { many, vmArg, vmColumns, vmNames } from "./_compute_shared.ts";
import { labelFlag, labelsOf, pages } from "./_shared.ts";
import { vmConsole } from "./compute_console.ts";
import { showVm, vmNic, vmSnapshot, vmVolume } from "./compute_vm_devices.ts";

export { importMessages } from "./compute_image.ts";

/** A verb on one VM that answers an operation and then shows the VM. */
function vmVerb(brief: string, call: (run: Run, vm: string) => Promise<Operation>) {
  return command<Record<never, never>, [string]>({
    brief,
    args: vmArg,
    complete: vmNames,
    async run(run, _flags, vm) {
      const { session } = run;
      const done = await follow(run, "plasmavmc", session.project, await call(run, vm));
      if (done) {
        await run.one(
          VmSchema,
          await session.client(VmService, "plasmavmc").getVm({ project: session.project, vm }),
          vmColumns,
        );
      }
    },
  });
}

interface VmCreateFlags {
  image: string;
  flavor: string;
  subnet?: readonly string[];
  sg?: readonly string[];
  sshKey?: readonly string[];
  userData?: string;
  label?: readonly string[];
  nodeSelector?: readonly string[];
  key?: readonly string[];
  group?: readonly string[];
  volume?: readonly string[];
  restart: string;
  cooldown?: number;
  onNodeLoss: string;
  protect: boolean;
  machine: string;
}

interface UpdateFlags {
  label?: readonly string[];
  restart?: string;
  cooldown?: number;
  onNodeLoss?: string;
  protect?: boolean;
}

interface WhyFlags {
  flavor: string;
  nodeSelector?: readonly string[];
  group?: readonly string[];
}

const restarts: Readonly<Record<string, RestartPolicy>> = {
  never: RestartPolicy.NEVER,
  "on-failure": RestartPolicy.ON_FAILURE,
  always: RestartPolicy.ALWAYS,
};
const losses: Readonly<Record<string, NodeLossPolicy>> = {
  stay: NodeLossPolicy.STAY,
  evacuate: NodeLossPolicy.EVACUATE,
};
const machines: Readonly<Record<string, MachineType>> = { q35: MachineType.Q35, microvm: MachineType.MICROVM };
const storages: Readonly<Record<string, MigrationStorage>> = {
  shared: MigrationStorage.SHARED,
  mirror: MigrationStorage.MIRROR,
};
const cooldownFlag = {
  kind: "parsed",
  parse: parseDuration,
  optional: true,
  brief: "Time between two restarts, like 5m",
} as const;

const verdictColumns: readonly Column<NodeVerdict>[] = [
  { name: "node", get: (v) => v.node },
  { name: "fits", get: (v) => v.fits ? "yes" : "no" },
  { name: "score", get: (v) => v.fits ? v.score.toFixed(2) : "", order: (v) => v.score },
  { name: "why-not", get: (v) => v.whyNot.join("; ") },
];
const total = (all: readonly bigint[]) => humanBytes(all.reduce((sum, n) => sum + n, 0n));
const metricColumns: readonly Column<VmMetrics>[] = [
  { name: "vm", get: (m) => m.vm },
  { name: "cpu", get: (m) => `${(Number(m.cpuTimeMs) / 1000).toFixed(1)}s`, order: (m) => Number(m.cpuTimeMs) },
  { name: "resident", get: (m) => humanBytes(m.residentBytes), order: (m) => Number(m.residentBytes) },
  { name: "memory", get: (m) => humanBytes(m.memoryBytes) },
  { name: "read", get: (m) => total(m.disks.map((d) => d.readBytes)) },
  { name: "written", get: (m) => total(m.disks.map((d) => d.writeBytes)) },
  { name: "received", get: (m) => m.nics.some((n) => n.counted) ? total(m.nics.map((n) => n.receiveBytes)) : "-" },
  { name: "sent", get: (m) => m.nics.some((n) => n.counted) ? total(m.nics.map((n) => n.transmitBytes)) : "-" },
  { name: "node", get: (m) => m.node, wide: true },
];

export const vm = buildRouteMap({
  docs: { brief: "Virtual machines" },
  routes: {
    list: command({
      brief: "List VMs",
      async run({ session, list }) {
        const client = session.client(VmService, "plasmavmc");
        const { project } = session;
        await list(VmSchema, await pages((page) => client.listVms({ project, page }), (r) => r.vms), vmColumns);
      },
    }),
    show: command<Record<never, never>, [string]>({
      brief: "Show a VM",
      args: vmArg,
      complete: vmNames,
      async run({ session, one }, _flags, vm) {
        await one(
          VmSchema,
          await session.client(VmService, "plasmavmc").getVm({ project: session.project, vm }),
          vmColumns,
        );
      },
    }),
    create: command<VmCreateFlags, [string]>({
      brief: "Create and start a VM",
      dryRunOnServer: true,
      args: [{ brief: "Name", placeholder: "name" }],
      flags: {
        image: { kind: "parsed", parse: text, brief: "Image, name or id" },
        flavor: { kind: "parsed", parse: text, default: "tiny", brief: "Flavor" },
        subnet: many("Subnet for a NIC, repeatable"),
        sg: many("Security group, repeatable"),
        sshKey: many("File with a public SSH key, repeatable"),
        userData: { kind: "parsed", parse: text, optional: true, brief: "File with cloud-init user data" },
        label: labelFlag,
        nodeSelector: many("Only nodes with key=value, repeatable"),
        key: many("Stored SSH key, repeatable"),
        group: many("Placement group, repeatable"),
        volume: many("Volume attached before the first boot, repeatable"),
        restart: { kind: "enum", values: Object.keys(restarts), default: "never", brief: "When it is started again" },
        cooldown: cooldownFlag,
        onNodeLoss: { kind: "enum", values: Object.keys(losses), default: "stay", brief: "When its worker is lost" },
        protect: { kind: "boolean", default: false, brief: "Cannot be deleted until unprotected" },
        machine: {
          kind: "enum",
          values: Object.keys(machines),
          default: "q35",
          brief: "microvm: for unikernels; no hot plug, ACPI, screen or migration",
        },
      },
      async run(run, flags, name) {
        const { session } = run;
        const client = session.client(VmService, "plasmavmc");
        const { project } = session;
        const operation = await client.createVm({
          project,
          name,
          image: flags.image,
          flavor: flags.flavor,
          subnets: [...flags.subnet ?? []],
          securityGroups: [...flags.sg ?? []],
          sshAuthorizedKeys: await Promise.all(
            (flags.sshKey ?? []).map(async (file) => (await Deno.readTextFile(file)).trim()),
          ),
          userData: flags.userData === undefined ? "" : await Deno.readTextFile(flags.userData),
          labels: labelsOf(flags.label),
          nodeSelector: labelsOf(flags.nodeSelector),
          dryRun: run.flags.dryRun,
          sshKeys: [...flags.key ?? []],
          groups: [...flags.group ?? []],
          volumes: (flags.volume ?? []).map((volume) => ({ volume })),
          restartPolicy: restarts[flags.restart]!,
          restartCooldownMs: BigInt(flags.cooldown ?? 0),
          nodeLossPolicy: losses[flags.onNodeLoss]!,
          deleteProtection: flags.protect,
          machineType: machines[flags.machine]!,
        });
        if (run.flags.dryRun) return run.io.err("The request is valid and there is room for it; nothing was created\n");
        const done = await follow(run, "plasmavmc", project, operation);
        if (done) await run.one(VmSchema, await client.getVm({ project, vm: name }), vmColumns);
      },
    }),
    start: vmVerb(
      "Start a stopped VM",
      ({ session }, vm) => session.client(VmService, "plasmavmc").startVm({ project: session.project, vm }),
    ),
    reboot: vmVerb("Reset a running VM", ({ session, confirm }, vm) => {
      confirm(`Reset ${vm}?`);
      return session.client(VmService, "plasmavmc").rebootVm({ project: session.project, vm });
    }),
    stop: command<{ force: boolean }, [string]>({
      brief: "Stop a VM: ACPI first, then the plug",
      args: vmArg,
      flags: { force: { kind: "boolean", default: false, brief: "Pull the plug at once" } },
      complete: vmNames,
      async run(run, flags, vm) {
        const { session } = run;
        const client = session.client(VmService, "plasmavmc");
        const { project } = session;
        const done = await follow(run, "plasmavmc", project, await client.stopVm({ project, vm, force: flags.force }));
        if (done) await run.one(VmSchema, await client.getVm({ project, vm }), vmColumns);
      },
    }),
    delete: command<Record<never, never>, string[]>({
      brief: "Delete VMs with their disks",
      variadic: { brief: "VM, name or id", placeholder: "vm", minimum: 1 },
      complete: vmNames,
      async run(run, _flags, ...names) {
        const { session } = run;
        run.confirm(`Delete ${names.join(", ")} and what they stored?`);
        const client = session.client(VmService, "plasmavmc");
        const { project } = session;
        for (const vm of names) {
          const done = await follow(run, "plasmavmc", project, await client.deleteVm({ project, vm }));
          if (done) run.io.err(`Deleted VM ${vm}\n`);
        }
      },
    }),
    pause: vmVerb(
      "Stop a VM's processors; memory and devices stay",
      ({ session }, vm) => session.client(VmService, "plasmavmc").pauseVm({ project: session.project, vm }),
    ),
    resume: vmVerb(
      "Let a paused VM go on",
      ({ session }, vm) => session.client(VmService, "plasmavmc").resumeVm({ project: session.project, vm }),
    ),
    resize: command<{ flavor: string; restart: boolean }, [string]>({
      brief: "Give a VM another size",
      args: vmArg,
      flags: {
        flavor: { kind: "parsed", parse: text, brief: "The new flavor; its root disk must be as large" },
        restart: { kind: "boolean", default: false, brief: "Stop a running VM for it and start it again" },
      },
      complete: vmNames,
      async run(run, { flavor, restart }, vm) {
        if (restart) run.confirm(`Stop ${vm} for its new size?`);
        const client = run.session.client(VmService, "plasmavmc");
        await showVm(run, vm, await client.resizeVm({ project: run.session.project, vm, flavor, restart }));
      },
    }),
    rebuild: command<{ image: string }, [string]>({
      brief: "Make a VM's root disk anew from an image",
      args: vmArg,
      flags: { image: { kind: "parsed", parse: text, default: "", brief: "Another image; without it the one it has" } },
      complete: vmNames,
      async run(run, { image }, vm) {
        run.confirm(`Rebuild ${vm}? What its root disk holds is lost`);
        const client = run.session.client(VmService, "plasmavmc");
        await showVm(run, vm, await client.rebuildVm({ project: run.session.project, vm, image }));
      },
    }),
    update: command<UpdateFlags, [string]>({
      brief: "Change a VM's labels and policies",
      args: vmArg,
      flags: {
        label: labelFlag,
        restart: { kind: "enum", values: Object.keys(restarts), optional: true, brief: "When it is started again" },
        cooldown: cooldownFlag,
        onNodeLoss: { kind: "enum", values: Object.keys(losses), optional: true, brief: "When its worker is lost" },
        protect: { kind: "boolean", optional: true, brief: "Cannot be deleted; --no-protect lets it" },
      },
      complete: vmNames,
      async run({ session, one }, flags, vm) {
        const paths = [
          ...(flags.label ? ["labels"] : []),
          ...(flags.restart ? ["restart_policy"] : []),
          ...(flags.cooldown === undefined ? [] : ["restart_cooldown_ms"]),
          ...(flags.onNodeLoss ? ["node_loss_policy"] : []),
          ...(flags.protect === undefined ? [] : ["delete_protection"]),
        ];
        if (paths.length === 0) {
          throw fault("invalid_argument", "nothing_to_change", `Cannot update ${vm} without a change: wanted a flag`);
        }
        const changed = await session.client(VmService, "plasmavmc").updateVm({
          project: session.project,
          vm,
          updateMask: { paths },
          labels: labelsOf(flags.label),
          restartPolicy: restarts[flags.restart ?? ""] ?? RestartPolicy.UNSPECIFIED,
          restartCooldownMs: BigInt(flags.cooldown ?? 0),
          nodeLossPolicy: losses[flags.onNodeLoss ?? ""] ?? NodeLossPolicy.UNSPECIFIED,
          deleteProtection: flags.protect ?? false,
        });
        await one(VmSchema, changed, vmColumns);
      },
    }),
    migrate: command<{ node: string; storage?: string; deadline: number }, [string]>({
      brief: "Move a running VM to another worker",
      details: "Cancel it with `uc operation cancel`: the VM then goes on where it was.",
      dryRunOnServer: true,
      args: vmArg,
      flags: {
        node: { kind: "parsed", parse: text, default: "", brief: "Worker to go to; without it placement chooses" },
        storage: {
          kind: "enum",
          values: Object.keys(storages),
          optional: true,
          brief: "shared: disks stay where they are; mirror: they are copied",
        },
        deadline: { kind: "parsed", parse: parseDuration, default: "10m", brief: "Give up after this" },
      },
      complete: vmNames,
      async run(run, flags, vm) {
        const { session, io } = run;
        const client = session.client(VmService, "plasmavmc");
        const operation = await client.migrateVm({
          project: session.project,
          vm,
          node: flags.node,
          storage: storages[flags.storage ?? ""] ?? MigrationStorage.UNSPECIFIED,
          deadlineMs: BigInt(flags.deadline),
          dryRun: run.flags.dryRun,
        });
        if (run.flags.dryRun) return io.err("The VM can migrate and there is room for it; nothing was done\n");
        await showVm(run, vm, operation);
        const { migration } = await client.getVm({ project: session.project, vm });
        if (run.flags.wait && migration) {
          io.err(`Moved from ${migration.source}: ${migration.downtimeMs} ms down, ${migration.totalMs} ms in all\n`);
        }
      },
    }),
    why: command<WhyFlags, [string?]>({
      brief: "Say for each worker why a VM would fit or not",
      args: [{ brief: "VM that is there; without it one of --flavor", placeholder: "vm", optional: true }],
      flags: {
        flavor: { kind: "parsed", parse: text, default: "tiny", brief: "Size of a VM to be" },
        nodeSelector: many("Only nodes with key=value, repeatable"),
        group: many("Placement group, repeatable"),
      },
      complete: vmNames,
      async run({ session, list, io }, flags, vm) {
        const answer = await session.client(PlacementService, "plasmavmc").explainPlacement({
          project: session.project,
          vm: vm ?? "",
          flavor: flags.flavor,
          nodeSelector: labelsOf(flags.nodeSelector),
          groups: [...flags.group ?? []],
        });
        await list(NodeVerdictSchema, answer.verdicts, verdictColumns);
        io.err(answer.chosen === "" ? "It fits nowhere\n" : `It would go to ${answer.chosen}\n`);
      },
    }),
    metrics: command<Record<never, never>, [string?]>({
      brief: "What VMs have used since power-on",
      args: [{ brief: "VM; without it all that run", placeholder: "vm", optional: true }],
      complete: vmNames,
      async run({ session, list }, _flags, vm) {
        const client = session.client(VmService, "plasmavmc");
        const { project } = session;
        const all = vm === undefined
          ? (await client.listVmMetrics({ project })).vms
          : [await client.getVmMetrics({ project, vm })];
        await list(VmMetricsSchema, all, metricColumns);
      },
    }),
    screenshot: command<{ file: string }, [string]>({
      brief: "Save a picture of the VM's screen",
      args: vmArg,
      flags: { file: { kind: "parsed", parse: text, brief: "PNG file to write" } },
      complete: vmNames,
      async run({ session, io }, { file }, vm) {
        const { png } = await session.client(VmService, "plasmavmc").screenshot({ project: session.project, vm });
        await Deno.writeFile(file, png, { mode: 0o600 });
        io.err(`Wrote ${humanBytes(png.length)} to ${file}\n`);
      },
    }),
    console: vmConsole,
    volume: vmVolume,
    nic: vmNic,
    snapshot: vmSnapshot,
  },
});
