import { buildRouteMap } from "@stricli/core";
import {
  type Flavor,
  FlavorSchema,
  FlavorService,
  GroupStrictness,
  type PlacementGroup,
  PlacementGroupSchema,
  PlacementGroupService,
  type SshKey,
  SshKeySchema,
  SshKeyService,
} from "@ultracloud/proto/plasmavmc/v1";
import { type Column, enumName, humanBytes } from "../frame/columns.ts";
import { command, parseInteger, text } from "../frame/command.ts";
import { parseSize, wordOf } from "./_compute_shared.ts";
import { labelFlag, labelsOf, metaColumns, pages } from "./_shared.ts";

const flavorColumns: readonly Column<Flavor>[] = [
  { name: "name", get: (f) => f.name },
  { name: "vcpus", get: (f) => String(f.vcpus) },
  { name: "memory", get: (f) => humanBytes(f.memoryBytes), order: (f) => Number(f.memoryBytes) },
  { name: "disk", get: (f) => f.diskBytes === 0n ? "none" : humanBytes(f.diskBytes) },
  { name: "builtin", get: (f) => f.builtin ? "yes" : "", wide: true },
  { name: "description", get: (f) => f.description, wide: true },
];
const keyColumns: readonly Column<SshKey>[] = [
  ...metaColumns<SshKey>(),
  { name: "fingerprint", get: (k) => k.fingerprint },
  { name: "key", get: (k) => k.publicKey, wide: true },
];
const groupColumns: readonly Column<PlacementGroup>[] = [
  ...metaColumns<PlacementGroup>(),
  { name: "strictness", get: (g) => enumName(GroupStrictness, g.strictness) },
  { name: "apart-by", get: (g) => g.domainLabel || "worker" },
  { name: "vms", get: (g) => String(g.vmIds.length) },
];

interface FlavorFlags {
  vcpus: number;
  memory: number;
  disk: number;
  description: string;
}

const flavorArg = [{ brief: "Flavor", placeholder: "flavor" }] as const;

/** Makes or changes a flavor. */
function flavorWrite(brief: string, method: "createFlavor" | "updateFlavor") {
  return command<FlavorFlags, [string]>({
    brief,
    args: flavorArg,
    flags: {
      vcpus: { kind: "parsed", parse: parseInteger, brief: "Virtual processors" },
      memory: { kind: "parsed", parse: parseSize, brief: "Memory, as 512MiB" },
      disk: { kind: "parsed", parse: parseSize, default: "0", brief: "Root disk, as 4GiB; 0: none" },
      description: { kind: "parsed", parse: text, default: "", brief: "For people" },
    },
    async run({ session, one }, { vcpus, memory, disk, description }, name) {
      const flavor = { name, vcpus, memoryBytes: BigInt(memory), diskBytes: BigInt(disk), description };
      await one(FlavorSchema, await session.client(FlavorService, "plasmavmc")[method]({ flavor }), flavorColumns);
    },
  });
}

export const flavor = buildRouteMap({
  docs: { brief: "VM sizes" },
  routes: {
    list: command({
      brief: "List flavors",
      async run({ session, list }) {
        const { flavors } = await session.client(FlavorService, "plasmavmc").listFlavors({ project: session.project });
        await list(FlavorSchema, flavors, flavorColumns);
      },
    }),
    show: command<Record<never, never>, [string]>({
      brief: "Show a flavor",
      args: flavorArg,
      async run({ session, one }, _flags, name) {
        await one(
          FlavorSchema,
          await session.client(FlavorService, "plasmavmc").getFlavor({ project: session.project, name }),
          flavorColumns,
        );
      },
    }),
    create: flavorWrite("Make a size, for administrators", "createFlavor"),
    update: flavorWrite("Change a size for VMs made from now on", "updateFlavor"),
    delete: command<Record<never, never>, [string]>({
      brief: "Delete a size; VMs that have it keep it",
      args: flavorArg,
      async run({ session, confirm, io }, _flags, name) {
        confirm(`Delete the flavor ${name}?`);
        await session.client(FlavorService, "plasmavmc").deleteFlavor({ name });
        io.err(`Deleted flavor ${name}\n`);
      },
    }),
  },
});

const keyArg = [{ brief: "Key, name or id", placeholder: "key" }] as const;

export const sshkey = buildRouteMap({
  docs: { brief: "Public SSH keys for VMs" },
  routes: {
    list: command({
      brief: "List keys",
      async run({ session, list }) {
        const client = session.client(SshKeyService, "plasmavmc");
        const { project } = session;
        const all = await pages((page) => client.listSshKeys({ project, page }), (r) => r.sshKeys);
        await list(SshKeySchema, all, keyColumns);
      },
    }),
    show: command<Record<never, never>, [string]>({
      brief: "Show a key",
      args: keyArg,
      async run({ session, one }, _flags, sshKey) {
        const client = session.client(SshKeyService, "plasmavmc");
        await one(SshKeySchema, await client.getSshKey({ project: session.project, sshKey }), keyColumns);
      },
    }),
    add: command<{ file: string; label?: readonly string[] }, [string]>({
      brief: "Store a public key",
      args: [{ brief: "Name", placeholder: "name" }],
      flags: { file: { kind: "parsed", parse: text, brief: "File with the public key" }, label: labelFlag },
      async run({ session, one }, flags, name) {
        const publicKey = await Deno.readTextFile(flags.file);
        const client = session.client(SshKeyService, "plasmavmc");
        const labels = labelsOf(flags.label);
        const key = await client.createSshKey({ project: session.project, name, publicKey, labels });
        await one(SshKeySchema, key, keyColumns);
      },
    }),
    delete: command<Record<never, never>, [string]>({
      brief: "Delete a key; VMs that have it keep it",
      args: keyArg,
      async run({ session, confirm, io }, _flags, sshKey) {
        confirm(`Delete the key ${sshKey}?`);
        await session.client(SshKeyService, "plasmavmc").deleteSshKey({ project: session.project, sshKey });
        io.err(`Deleted key ${sshKey}\n`);
      },
    }),
  },
});

const groupArg = [{ brief: "Group, name or id", placeholder: "group" }] as const;
const strictness = { hard: GroupStrictness.HARD, soft: GroupStrictness.SOFT } as const;

export const group = buildRouteMap({
  docs: { brief: "Placement groups: VMs that are kept apart" },
  routes: {
    list: command({
      brief: "List groups",
      async run({ session, list }) {
        const client = session.client(PlacementGroupService, "plasmavmc");
        const { project } = session;
        const all = await pages((page) => client.listPlacementGroups({ project, page }), (r) => r.groups);
        await list(PlacementGroupSchema, all, groupColumns);
      },
    }),
    show: command<Record<never, never>, [string]>({
      brief: "Show a group",
      args: groupArg,
      async run({ session, one }, _flags, group) {
        const client = session.client(PlacementGroupService, "plasmavmc");
        await one(
          PlacementGroupSchema,
          await client.getPlacementGroup({ project: session.project, group }),
          groupColumns,
        );
      },
    }),
    create: command<{ strictness: string; apartBy: string; label?: readonly string[] }, [string]>({
      brief: "Make a group whose VMs are kept apart",
      args: [{ brief: "Name", placeholder: "name" }],
      flags: {
        strictness: {
          kind: "enum",
          values: Object.keys(strictness),
          default: "hard",
          brief: "hard: apart or not at all; soft: apart where there is room",
        },
        apartBy: { kind: "parsed", parse: text, default: "", brief: "Label of workers to be apart by, as rack" },
        label: labelFlag,
      },
      async run({ session, one }, flags, name) {
        const client = session.client(PlacementGroupService, "plasmavmc");
        const made = await client.createPlacementGroup({
          project: session.project,
          name,
          strictness: wordOf(strictness, flags.strictness, "strictness"),
          domainLabel: flags.apartBy,
          labels: labelsOf(flags.label),
        });
        await one(PlacementGroupSchema, made, groupColumns);
      },
    }),
    delete: command<Record<never, never>, [string]>({
      brief: "Delete a group without VMs",
      args: groupArg,
      async run({ session, confirm, io }, _flags, group) {
        confirm(`Delete the group ${group}?`);
        await session.client(PlacementGroupService, "plasmavmc").deletePlacementGroup({
          project: session.project,
          group,
        });
        io.err(`Deleted group ${group}\n`);
      },
    }),
  },
});
