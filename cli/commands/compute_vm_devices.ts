import { buildRouteMap } from "@stricli/core";
import type { Operation } from "@ultracloud/proto/common/v1";
import {
  type Snapshot,
  type SnapshotSchedule,
  SnapshotScheduleSchema,
  SnapshotSchema,
  SnapshotService,
  SnapshotState,
  VmSchema,
  VmService,
} from "@ultracloud/proto/plasmavmc/v1";
import { type Column, enumName, humanBytes } from "../frame/columns.ts";
import { command, parseDuration, parseInteger, type Run, text } from "../frame/command.ts";
import { follow } from "../frame/operations.ts";
import { many, vmArg, vmColumns, vmNames } from "./_compute_shared.ts";
import { labelFlag, labelsOf, metaColumns, pages } from "./_shared.ts";

/** Follows an operation on a VM and shows the VM. */
export async function showVm(run: Run, vm: string, operation: Operation): Promise<void> {
  const { session } = run;
  const { project } = session;
  if (!await follow(run, "plasmavmc", project, operation)) return;
  await run.one(VmSchema, await session.client(VmService, "plasmavmc").getVm({ project, vm }), vmColumns);
}

const deviceArgs = (brief: string, placeholder: string) => [...vmArg, { brief, placeholder }] as const;

export const vmVolume = buildRouteMap({
  docs: { brief: "Volumes of a VM" },
  routes: {
    attach: command<{ readOnly: boolean }, [string, string]>({
      brief: "Attach a volume; a running guest sees it at once",
      args: deviceArgs("Volume, name or id", "volume"),
      flags: { readOnly: { kind: "boolean", default: false, brief: "The guest may not write" } },
      async run(run, { readOnly }, vm, volume) {
        const client = run.session.client(VmService, "plasmavmc");
        await showVm(run, vm, await client.attachVolume({ project: run.session.project, vm, volume, readOnly }));
      },
    }),
    detach: command<Record<never, never>, [string, string]>({
      brief: "Detach a volume; unmount it in the guest before",
      args: deviceArgs("Volume, name or id", "volume"),
      async run(run, _flags, vm, volume) {
        const client = run.session.client(VmService, "plasmavmc");
        await showVm(run, vm, await client.detachVolume({ project: run.session.project, vm, volume }));
      },
    }),
  },
});

export const vmNic = buildRouteMap({
  docs: { brief: "NICs of a VM" },
  routes: {
    attach: command<{ sg?: readonly string[] }, [string, string]>({
      brief: "Attach a NIC in a subnet",
      args: deviceArgs("Subnet, name or id", "subnet"),
      flags: { sg: many("Security group, repeatable; without it those of the VM") },
      async run(run, { sg }, vm, subnet) {
        const client = run.session.client(VmService, "plasmavmc");
        const request = { project: run.session.project, vm, subnet, securityGroups: [...sg ?? []] };
        await showVm(run, vm, await client.attachNic(request));
      },
    }),
    detach: command<Record<never, never>, [string, string]>({
      brief: "Detach a NIC and free its address",
      args: deviceArgs("Port id, as `uc vm show -o json` tells", "port"),
      async run(run, _flags, vm, portId) {
        const client = run.session.client(VmService, "plasmavmc");
        await showVm(run, vm, await client.detachNic({ project: run.session.project, vm, portId }));
      },
    }),
  },
});

const snapshotColumns: readonly Column<Snapshot>[] = [
  ...metaColumns<Snapshot>(),
  { name: "state", get: (s) => enumName(SnapshotState, s.state) },
  { name: "vm", get: (s) => s.vmId },
  { name: "size", get: (s) => humanBytes(s.sizeBytes), order: (s) => Number(s.sizeBytes) },
  { name: "volumes", get: (s) => String(s.volumeIds.length) },
  { name: "schedule", get: (s) => s.scheduleId, wide: true },
  { name: "node", get: (s) => s.node, wide: true },
  { name: "reason", get: (s) => s.stateReason, wide: true },
];
const scheduleColumns: readonly Column<SnapshotSchedule>[] = [
  ...metaColumns<SnapshotSchedule>(),
  { name: "vm", get: (s) => s.vmId },
  { name: "every", get: (s) => `${Number(s.intervalMs) / 1000}s` },
  { name: "keep", get: (s) => String(s.keep) },
  { name: "next", get: (s) => s.nextTime ? new Date(Number(s.nextTime.seconds) * 1000).toISOString() : "" },
  { name: "failure", get: (s) => s.lastFailure, wide: true },
];
const snapshotArg = [{ brief: "Snapshot, name or id", placeholder: "snapshot" }] as const;

export const vmSnapshot = buildRouteMap({
  docs: { brief: "Snapshots of all disks of a VM at one instant" },
  routes: {
    list: command<{ vm: string }>({
      brief: "List snapshots",
      flags: { vm: { kind: "parsed", parse: text, default: "", brief: "Only of this VM" } },
      async run({ session, list }, { vm }) {
        const client = session.client(SnapshotService, "plasmavmc");
        const { project } = session;
        const all = await pages((page) => client.listSnapshots({ project, page, vm }), (r) => r.snapshots);
        await list(SnapshotSchema, all, snapshotColumns);
      },
    }),
    show: command<Record<never, never>, [string]>({
      brief: "Show a snapshot",
      args: snapshotArg,
      async run({ session, one }, _flags, snapshot) {
        const client = session.client(SnapshotService, "plasmavmc");
        await one(SnapshotSchema, await client.getSnapshot({ project: session.project, snapshot }), snapshotColumns);
      },
    }),
    create: command<{ label?: readonly string[]; volume: string }, [string, string]>({
      brief: "Take a snapshot, of a running VM too",
      args: deviceArgs("Name of the snapshot", "name"),
      flags: {
        label: labelFlag,
        volume: { kind: "parsed", parse: text, default: "", brief: "Only this volume, not every disk" },
      },
      complete: vmNames,
      async run(run, flags, vm, name) {
        const { project } = run.session;
        const client = run.session.client(SnapshotService, "plasmavmc");
        const { label, volume } = flags;
        const operation = await client.createSnapshot({ project, name, vm, volume, labels: labelsOf(label) });
        if (!await follow(run, "plasmavmc", project, operation)) return;
        await run.one(SnapshotSchema, await client.getSnapshot({ project, snapshot: name }), snapshotColumns);
      },
    }),
    restore: command<Record<never, never>, [string]>({
      brief: "Put the disks of a stopped VM back to what they were",
      args: snapshotArg,
      async run(run, _flags, snapshot) {
        run.confirm(`Put the disks back to ${snapshot}? What was written since is lost`);
        const { project } = run.session;
        const client = run.session.client(SnapshotService, "plasmavmc");
        const done = await follow(run, "plasmavmc", project, await client.restoreSnapshot({ project, snapshot }));
        if (done) run.io.err(`Restored ${snapshot}\n`);
      },
    }),
    delete: command<Record<never, never>, string[]>({
      brief: "Delete snapshots",
      variadic: { brief: "Snapshot, name or id", placeholder: "snapshot", minimum: 1 },
      async run(run, _flags, ...names) {
        run.confirm(`Delete ${names.join(", ")}?`);
        const { project } = run.session;
        const client = run.session.client(SnapshotService, "plasmavmc");
        for (const snapshot of names) {
          const done = await follow(run, "plasmavmc", project, await client.deleteSnapshot({ project, snapshot }));
          if (done) run.io.err(`Deleted snapshot ${snapshot}\n`);
        }
      },
    }),
    schedules: command({
      brief: "List schedules",
      async run({ session, list }) {
        const client = session.client(SnapshotService, "plasmavmc");
        const { project } = session;
        const all = await pages((page) => client.listSnapshotSchedules({ project, page }), (r) => r.schedules);
        await list(SnapshotScheduleSchema, all, scheduleColumns);
      },
    }),
    schedule: command<{ every: number; keep: number }, [string, string]>({
      brief: "Take a snapshot every so often and keep the newest",
      args: deviceArgs("Name of the schedule", "name"),
      flags: {
        every: { kind: "parsed", parse: parseDuration, brief: "Time between two, as 1h" },
        keep: { kind: "parsed", parse: parseInteger, default: "7", brief: "How many stay, 1 to 64" },
      },
      complete: vmNames,
      async run({ session, one }, { every, keep }, vm, name) {
        const client = session.client(SnapshotService, "plasmavmc");
        const request = { project: session.project, vm, name, intervalMs: BigInt(every), keep };
        await one(SnapshotScheduleSchema, await client.createSnapshotSchedule(request), scheduleColumns);
      },
    }),
    unschedule: command<Record<never, never>, [string]>({
      brief: "Delete a schedule; its snapshots stay",
      args: [{ brief: "Schedule, name or id", placeholder: "schedule" }],
      async run({ session, confirm, io }, _flags, schedule) {
        confirm(`Delete the schedule ${schedule}?`);
        await session.client(SnapshotService, "plasmavmc").deleteSnapshotSchedule({
          project: session.project,
          schedule,
        });
        io.err(`Deleted schedule ${schedule}\n`);
      },
    }),
  },
});
