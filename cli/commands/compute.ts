import { buildRouteMap } from "@stricli/core";
import { fault } from "@ultracloud/base";
import {
  DesiredState,
  type Flavor,
  FlavorSchema,
  FlavorService,
  type Image,
  ImageFormat,
  ImageSchema,
  ImageService,
  type Node,
  NodeSchema,
  NodeService,
  NodeState,
  type Vm,
  VmSchema,
  VmService,
  VmState,
} from "@ultracloud/proto/plasmavmc/v1";
import { type Operation, OperationSchema, OperationService } from "@ultracloud/proto/common/v1";
import { type Column, enumName, humanAge, humanBytes } from "../frame/columns.ts";
import { command, parseInteger, type Run, text } from "../frame/command.ts";
import { follow, operationColumns, waitFor } from "../frame/operations.ts";
import type { Session } from "../frame/session.ts";
import { labelFlag, labelsOf, metaColumns, pages } from "./_shared.ts";

const seconds = (time: { seconds: bigint } | undefined) =>
  time === undefined ? "" : humanAge(Number(time.seconds) * 1000, Date.now());

const vmColumns: readonly Column<Vm>[] = [
  ...metaColumns<Vm>(),
  { name: "state", get: (v) => enumName(VmState, v.state) },
  { name: "flavor", get: (v) => v.flavor },
  { name: "node", get: (v) => v.node },
  { name: "ip", get: (v) => v.nics.map((n) => n.ipAddress).join(" ") },
  {
    name: "endpoints",
    get: (v) => v.nics.flatMap((n) => n.endpoints).map((e) => `${e.protocol}:${e.guestPort}=${e.address}`).join(" "),
  },
  { name: "wanted", get: (v) => enumName(DesiredState, v.desiredState), wide: true },
  { name: "accelerator", get: (v) => v.accelerator, wide: true },
  { name: "up", get: (v) => seconds(v.startedTime), wide: true },
  { name: "reason", get: (v) => v.stateReason, wide: true },
];
const imageColumns: readonly Column<Image>[] = [
  ...metaColumns<Image>(),
  { name: "format", get: (i) => enumName(ImageFormat, i.format) },
  { name: "size", get: (i) => humanBytes(i.bytes), order: (i) => Number(i.bytes) },
  { name: "sha256", get: (i) => i.sha256.slice(0, 12) },
  { name: "digest", get: (i) => i.sha256, wide: true },
];
const flavorColumns: readonly Column<Flavor>[] = [
  { name: "name", get: (f) => f.name },
  { name: "vcpus", get: (f) => String(f.vcpus) },
  { name: "memory", get: (f) => humanBytes(f.memoryBytes), order: (f) => Number(f.memoryBytes) },
  { name: "disk", get: (f) => f.diskBytes === 0n ? "none" : humanBytes(f.diskBytes) },
];
const nodeColumns: readonly Column<Node>[] = [
  { name: "name", get: (n) => n.name },
  { name: "state", get: (n) => enumName(NodeState, n.state) },
  { name: "accelerator", get: (n) => n.accelerator },
  { name: "vcpus", get: (n) => `${n.allocated?.vcpus ?? 0}/${n.capacity?.vcpus ?? 0}` },
  {
    name: "memory",
    get: (n) => `${humanBytes(n.allocated?.memoryBytes ?? 0n)}/${humanBytes(n.capacity?.memoryBytes ?? 0n)}`,
  },
  { name: "vms", get: (n) => `${n.allocated?.vmSlots ?? 0}/${n.capacity?.vmSlots ?? 0}` },
  { name: "heartbeat", get: (n) => seconds(n.lastHeartbeatTime) },
  { name: "labels", get: (n) => Object.entries(n.labels).map(([k, v]) => `${k}=${v}`).join(" "), wide: true },
  { name: "version", get: (n) => n.agentVersion, wide: true },
];

const vmArg = [{ brief: "VM, name or id", placeholder: "vm" }] as const;
const vmNames = async (session: Session) => {
  const client = session.client(VmService, "plasmavmc");
  return (await pages((page) => client.listVms({ project: session.project, page }), (r) => r.vms)).map((v) =>
    v.meta!.name
  );
};

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
}

const many = (brief: string) => ({ kind: "parsed", parse: text, optional: true, variadic: true, brief }) as const;

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
    console: command<{ follow: boolean; offset: number }, [string]>({
      brief: "Print the serial console, history first",
      args: vmArg,
      flags: {
        follow: { kind: "boolean", default: false, brief: "Go on until Ctrl-C" },
        offset: {
          kind: "parsed",
          parse: parseInteger,
          default: "0",
          brief: "Byte to start at; negative counts from the end",
        },
      },
      complete: vmNames,
      async run({ session, io }, flags, vm) {
        const client = session.client(VmService, "plasmavmc");
        const request = { project: session.project, vm, offset: BigInt(flags.offset) };
        const decoder = new TextDecoder();
        if (flags.follow) {
          for await (const part of client.followConsole(request)) io.out(decoder.decode(part.data, { stream: true }));
          return;
        }
        for (let offset = request.offset;;) {
          const part = await client.getConsoleLog({ ...request, offset });
          if (part.data.length === 0) break;
          io.out(decoder.decode(part.data, { stream: true }));
          offset = part.nextOffset;
        }
      },
    }),
  },
});

const formats: Readonly<Record<string, ImageFormat>> = {
  raw: ImageFormat.RAW,
  qcow2: ImageFormat.QCOW2,
  "kernel-bundle": ImageFormat.KERNEL_BUNDLE,
};
/** Bytes sent in one message of an import; the contract allows 1 MiB. */
const importChunkBytes = 512 * 1024;

/** The messages of an image import: header, then the file in chunks. */
export async function* importMessages(
  file: string,
  header: { project: string; name: string; format: ImageFormat; sha256?: string; labels?: Record<string, string> },
  onProgress: (sent: number, total: number) => void = () => {},
) {
  using source = await Deno.open(file);
  const total = (await source.stat()).size;
  yield { part: { case: "header" as const, value: { ...header, bytes: BigInt(total) } } };
  const buffer = new Uint8Array(importChunkBytes);
  for (let sent = 0;;) {
    const n = await source.read(buffer);
    if (n === null) break;
    sent += n;
    yield { part: { case: "chunk" as const, value: buffer.slice(0, n) } };
    onProgress(sent, total);
  }
}

const imageArg = [{ brief: "Image, name or id", placeholder: "image" }] as const;

export const image = buildRouteMap({
  docs: { brief: "VM images" },
  routes: {
    list: command({
      brief: "List images",
      async run({ session, list }) {
        const client = session.client(ImageService, "plasmavmc");
        const { project } = session;
        await list(
          ImageSchema,
          await pages((page) => client.listImages({ project, page }), (r) => r.images),
          imageColumns,
        );
      },
    }),
    show: command<Record<never, never>, [string]>({
      brief: "Show an image",
      args: imageArg,
      async run({ session, one }, _flags, image) {
        await one(
          ImageSchema,
          await session.client(ImageService, "plasmavmc").getImage({ project: session.project, image }),
          imageColumns,
        );
      },
    }),
    import: command<{ file: string; format: string; sha256?: string; label?: readonly string[] }, [string]>({
      brief: "Import an image from a file",
      args: [{ brief: "Name", placeholder: "name" }],
      flags: {
        file: { kind: "parsed", parse: text, brief: "Image file" },
        format: { kind: "enum", values: Object.keys(formats), brief: "What the file is; never guessed" },
        sha256: { kind: "parsed", parse: text, optional: true, brief: "Digest the content must have" },
        label: labelFlag,
      },
      async run({ session, one, io }, flags, name) {
        const header = {
          project: session.project,
          name,
          format: formats[flags.format]!,
          ...(flags.sha256 ? { sha256: flags.sha256 } : {}),
          labels: labelsOf(flags.label),
        };
        const messages = importMessages(flags.file, header, (sent, total) => {
          if (io.interactive) io.err(`\r\x1b[KSent ${humanBytes(sent)} of ${humanBytes(total)}`);
        });
        const value = await session.client(ImageService, "plasmavmc").importImage(messages);
        if (io.interactive) io.err("\r\x1b[K");
        await one(ImageSchema, value, imageColumns);
      },
    }),
    delete: command<Record<never, never>, [string]>({
      brief: "Delete an image no VM uses",
      args: imageArg,
      async run({ session, confirm, io }, _flags, image) {
        confirm(`Delete the image ${image}?`);
        await session.client(ImageService, "plasmavmc").deleteImage({ project: session.project, image });
        io.err(`Deleted image ${image}\n`);
      },
    }),
  },
});

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
      args: [{ brief: "Flavor", placeholder: "flavor" }],
      async run({ session, one }, _flags, name) {
        await one(
          FlavorSchema,
          await session.client(FlavorService, "plasmavmc").getFlavor({ project: session.project, name }),
          flavorColumns,
        );
      },
    }),
  },
});

const nodeArg = [{ brief: "Node", placeholder: "node" }] as const;
const cordon = (brief: string, cordoned: boolean) =>
  command<Record<never, never>, [string]>({
    brief,
    args: nodeArg,
    async run({ session, one }, _flags, name) {
      await one(
        NodeSchema,
        await session.client(NodeService, "plasmavmc").setNodeCordoned({ name, cordoned }),
        nodeColumns,
      );
    },
  });

export const node = buildRouteMap({
  docs: { brief: "Workers" },
  routes: {
    list: command({
      brief: "List workers",
      async run({ session, list }) {
        await list(NodeSchema, (await session.client(NodeService, "plasmavmc").listNodes({})).nodes, nodeColumns);
      },
    }),
    show: command<Record<never, never>, [string]>({
      brief: "Show a worker",
      args: nodeArg,
      async run({ session, one }, _flags, name) {
        await one(NodeSchema, await session.client(NodeService, "plasmavmc").getNode({ name }), nodeColumns);
      },
    }),
    cordon: cordon("Place no new VMs on a worker", true),
    uncordon: cordon("Place VMs on a worker again", false),
  },
});

const operationArg = [{ brief: "Operation id", placeholder: "id" }] as const;

export const operation = buildRouteMap({
  docs: { brief: "Long work" },
  routes: {
    list: command({
      brief: "List operations, newest first",
      async run({ session, list }) {
        const client = session.client(OperationService, "plasmavmc");
        const { project } = session;
        const { operations } = await client.listOperations({ project, page: { pageSize: 100 } });
        await list(OperationSchema, operations.map(withoutResult), operationColumns);
      },
    }),
    show: command<Record<never, never>, [string]>({
      brief: "Show an operation",
      args: operationArg,
      async run({ session, one }, _flags, id) {
        const value = await session.client(OperationService, "plasmavmc").getOperation({
          project: session.project,
          id,
        });
        await one(OperationSchema, withoutResult(value), operationColumns);
      },
    }),
    wait: command<Record<never, never>, [string]>({
      brief: "Wait for an operation to end",
      args: operationArg,
      async run({ session, one, flags }, _flags, id) {
        const started = await session.client(OperationService, "plasmavmc").getOperation({
          project: session.project,
          id,
        });
        const done = await waitFor(session, flags.timeout, "plasmavmc", session.project, started);
        await one(OperationSchema, withoutResult(done), operationColumns);
      },
    }),
    cancel: command<Record<never, never>, [string]>({
      brief: "Cancel an operation; what it did is undone",
      args: operationArg,
      async run({ session, one, confirm }, _flags, id) {
        confirm(`Cancel ${id}?`);
        const value = await session.client(OperationService, "plasmavmc").cancelOperation({
          project: session.project,
          id,
        });
        await one(OperationSchema, withoutResult(value), operationColumns);
      },
    }),
  },
});

/** The result is a packed message of another component's types: `uc vm show` prints it better. */
function withoutResult(operation: Operation): Operation {
  const { result: _, ...rest } = operation;
  return rest as Operation;
}

export const event = buildRouteMap({
  docs: { brief: "Changes as they happen" },
  routes: {
    tail: command<{ cursor: string; component: string }, []>({
      brief: "Print changes of the project's resources as JSON lines until Ctrl-C",
      flags: {
        cursor: { kind: "parsed", parse: text, default: "", brief: "Go on after this cursor" },
        component: { kind: "enum", values: ["plasmavmc", "prismnet"], default: "plasmavmc", brief: "Whose resources" },
      },
      async run({ session, io }, flags) {
        const { EventService, EventType } = await import("@ultracloud/proto/common/v1");
        const client = session.client(EventService, flags.component as "plasmavmc");
        for await (const value of client.watchEvents({ project: session.project, cursor: flags.cursor })) {
          const line = {
            cursor: value.cursor,
            type: enumName(EventType, value.type),
            kind: value.ref?.kind,
            name: value.ref?.name,
            id: value.ref?.id,
            resource: value.resourceJson === "" ? undefined : JSON.parse(value.resourceJson),
          };
          io.out(JSON.stringify(line) + "\n");
        }
        if (!io.signal.aborted) {
          throw fault(
            "unavailable",
            "stream_ended",
            "The stream of events ended: wanted --cursor with the last one to go on",
          );
        }
      },
    }),
  },
});
