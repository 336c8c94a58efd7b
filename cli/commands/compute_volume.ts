import { buildRouteMap } from "@stricli/core";
import type { Operation } from "@ultracloud/proto/common/v1";
import { type Volume, VolumeSchema, VolumeService, VolumeState } from "@ultracloud/proto/plasmavmc/v1";
import { type Column, enumName, humanBytes } from "../frame/columns.ts";
import { command, type Run, text } from "../frame/command.ts";
import { follow } from "../frame/operations.ts";
import type { Session } from "../frame/session.ts";
import { parseSize } from "./_compute_shared.ts";
import { labelFlag, labelsOf, metaColumns, pages } from "./_shared.ts";

const volumeColumns: readonly Column<Volume>[] = [
  ...metaColumns<Volume>(),
  { name: "size", get: (v) => humanBytes(v.sizeBytes), order: (v) => Number(v.sizeBytes) },
  { name: "state", get: (v) => enumName(VolumeState, v.state) },
  { name: "vm", get: (v) => v.vm },
  { name: "shared", get: (v) => v.shared ? "yes" : "no" },
  { name: "node", get: (v) => v.node },
  { name: "protected", get: (v) => v.deleteProtection ? "yes" : "", wide: true },
  { name: "reason", get: (v) => v.stateReason, wide: true },
];

const volumeArg = [{ brief: "Volume, name or id", placeholder: "volume" }] as const;
const volumeNames = async (session: Session) => {
  const client = session.client(VolumeService, "plasmavmc");
  const all = await pages((page) => client.listVolumes({ project: session.project, page }), (r) => r.volumes);
  return all.map((v) => v.meta!.name);
};

/** Follows an operation on a volume and shows what became of it. */
async function finish(run: Run, volume: string, operation: Operation): Promise<void> {
  const { session } = run;
  const { project } = session;
  if (!await follow(run, "plasmavmc", project, operation)) return;
  const client = session.client(VolumeService, "plasmavmc");
  await run.one(VolumeSchema, await client.getVolume({ project, volume }), volumeColumns);
}

interface CreateFlags {
  size: number;
  shared: boolean;
  node: string;
  near: string;
  image: string;
  protect: boolean;
  label?: readonly string[];
}

export const volume = buildRouteMap({
  docs: { brief: "Volumes: disks that outlive VMs" },
  routes: {
    list: command({
      brief: "List volumes",
      async run({ session, list }) {
        const client = session.client(VolumeService, "plasmavmc");
        const { project } = session;
        const all = await pages((page) => client.listVolumes({ project, page }), (r) => r.volumes);
        await list(VolumeSchema, all, volumeColumns);
      },
    }),
    show: command<Record<never, never>, [string]>({
      brief: "Show a volume",
      args: volumeArg,
      complete: volumeNames,
      async run({ session, one }, _flags, volume) {
        const client = session.client(VolumeService, "plasmavmc");
        await one(VolumeSchema, await client.getVolume({ project: session.project, volume }), volumeColumns);
      },
    }),
    create: command<CreateFlags, [string]>({
      brief: "Make a volume",
      args: [{ brief: "Name", placeholder: "name" }],
      flags: {
        size: { kind: "parsed", parse: parseSize, brief: "Size, as 4GiB" },
        shared: {
          kind: "boolean",
          default: false,
          brief: "Reached from every worker: its VM may run anywhere and migrate without copying it",
        },
        node: { kind: "parsed", parse: text, default: "", brief: "Worker whose disk holds it" },
        near: { kind: "parsed", parse: text, default: "", brief: "On the worker of this VM" },
        image: { kind: "parsed", parse: text, default: "", brief: "Its content at first" },
        protect: { kind: "boolean", default: false, brief: "Cannot be deleted until unprotected" },
        label: labelFlag,
      },
      async run(run, flags, name) {
        const operation = await run.session.client(VolumeService, "plasmavmc").createVolume({
          project: run.session.project,
          name,
          sizeBytes: BigInt(flags.size),
          shared: flags.shared,
          node: flags.node,
          nearVm: flags.near,
          image: flags.image,
          deleteProtection: flags.protect,
          labels: labelsOf(flags.label),
        });
        await finish(run, name, operation);
      },
    }),
    grow: command<{ size: number }, [string]>({
      brief: "Grow a volume; a running guest sees it at once",
      args: volumeArg,
      flags: { size: { kind: "parsed", parse: parseSize, brief: "New size, as 8GiB" } },
      complete: volumeNames,
      async run(run, flags, volume) {
        const request = { project: run.session.project, volume, sizeBytes: BigInt(flags.size) };
        await finish(run, volume, await run.session.client(VolumeService, "plasmavmc").growVolume(request));
      },
    }),
    protect: command<{ off: boolean }, [string]>({
      brief: "Keep a volume from being deleted",
      args: volumeArg,
      flags: { off: { kind: "boolean", default: false, brief: "Let it be deleted again" } },
      complete: volumeNames,
      async run({ session, one }, flags, volume) {
        const request = { project: session.project, volume, deleteProtection: !flags.off };
        const changed = await session.client(VolumeService, "plasmavmc").updateVolume(request);
        await one(VolumeSchema, changed, volumeColumns);
      },
    }),
    delete: command<Record<never, never>, string[]>({
      brief: "Delete volumes with what they store",
      variadic: { brief: "Volume, name or id", placeholder: "volume", minimum: 1 },
      complete: volumeNames,
      async run(run, _flags, ...names) {
        const { session } = run;
        const { project } = session;
        run.confirm(`Delete ${names.join(", ")} and what they store?`);
        const client = session.client(VolumeService, "plasmavmc");
        for (const volume of names) {
          const done = await follow(run, "plasmavmc", project, await client.deleteVolume({ project, volume }));
          if (done) run.io.err(`Deleted volume ${volume}\n`);
        }
      },
    }),
  },
});
