import { buildRouteMap } from "@stricli/core";
import {
  type Move,
  MoveSchema,
  type Node,
  NodeMaintenanceService,
  NodeSchema,
  NodeService,
  NodeState,
  PlacementService,
} from "@ultracloud/proto/plasmavmc/v1";
import { type Column, enumName, humanBytes } from "../frame/columns.ts";
import { command, parseInteger } from "../frame/command.ts";
import { follow } from "../frame/operations.ts";
import { seconds } from "./_compute_shared.ts";
import { machineRoutes } from "./deployer_nodes.ts";

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

const moveColumns: readonly Column<Move>[] = [
  { name: "project", get: (m) => m.project },
  { name: "vm", get: (m) => m.vm },
  { name: "from", get: (m) => m.source },
  { name: "to", get: (m) => m.target },
  { name: "why", get: (m) => m.reason },
];

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
    drain: command<{ parallel: number }, [string]>({
      brief: "Move every running VM off a worker and keep new ones away",
      args: nodeArg,
      flags: { parallel: { kind: "parsed", parse: parseInteger, default: "2", brief: "Migrations at once, 1 to 8" } },
      async run(run, { parallel }, name) {
        run.confirm(`Move all VMs off ${name}?`);
        const client = run.session.client(NodeMaintenanceService, "plasmavmc");
        const done = await follow(run, "plasmavmc", "", await client.drainNode({ name, parallel }));
        if (done) {
          const node = await run.session.client(NodeService, "plasmavmc").getNode({ name });
          await run.one(NodeSchema, node, nodeColumns);
        }
      },
    }),
    evacuate: command<{ rebuild: boolean; poweredOff: boolean }, [string]>({
      brief: "Start the VMs of a lost worker elsewhere",
      args: nodeArg,
      flags: {
        rebuild: { kind: "boolean", default: false, brief: "Make root disks anew from images: what they held is gone" },
        poweredOff: { kind: "boolean", default: false, brief: "You know that the machine is off" },
      },
      async run(run, { rebuild, poweredOff }, name) {
        run.confirm(`Start the VMs of ${name} elsewhere${rebuild ? ", with fresh root disks" : ""}?`);
        const client = run.session.client(NodeMaintenanceService, "plasmavmc");
        const done = await follow(run, "plasmavmc", "", await client.evacuateNode({ name, rebuild, poweredOff }));
        if (done) run.io.err(`Evacuated ${name}\n`);
      },
    }),
    remove: command<Record<never, never>, [string]>({
      brief: "Forget a lost worker that holds nothing",
      args: nodeArg,
      async run({ session, confirm, io }, _flags, name) {
        confirm(`Forget ${name}?`);
        await session.client(NodeMaintenanceService, "plasmavmc").removeNode({ name });
        io.err(`Forgot worker ${name}\n`);
      },
    }),
    suggest: command<{ limit: number }>({
      brief: "Suggest moves that even workers out; nothing moves by itself",
      flags: { limit: { kind: "parsed", parse: parseInteger, default: "10", brief: "At most this many" } },
      async run({ session, list, io }, { limit }) {
        const plan = await session.client(PlacementService, "plasmavmc").suggestMoves({ limit });
        io.err(`Memory differs by ${plan.spreadPercent}%, after these moves by ${plan.spreadAfterPercent}%\n`);
        await list(MoveSchema, plan.moves, moveColumns);
      },
    }),
    ...machineRoutes,
    cordon: cordon("Place no new VMs on a worker", true),
    uncordon: cordon("Place VMs on a worker again", false),
  },
});
