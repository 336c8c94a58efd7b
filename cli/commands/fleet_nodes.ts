import { buildRouteMap } from "@stricli/core";
import { FleetNodeService, type Node, NodeSchema, NodeState } from "@ultracloud/proto/fleetscheduler/v1";
import { type Column, enumName, humanAge, humanBytes } from "../frame/columns.ts";
import { command, parseTimeout, type Run } from "../frame/command.ts";
import { follow } from "../frame/operations.ts";

const clientOf = ({ session }: Pick<Run, "session">) => session.client(FleetNodeService, "fleet-scheduler");
const nodeArg = { brief: "Name of a node", placeholder: "node" } as const;
const complete = async (session: Run["session"]) =>
  (await clientOf({ session }).listNodes({})).nodes.map((n) => n.name);

const columns: readonly Column<Node>[] = [
  { name: "name", get: (n) => n.name },
  { name: "state", get: (n) => enumName(NodeState, n.state) },
  { name: "class", get: (n) => n.class },
  { name: "pool", get: (n) => n.pool },
  { name: "instances", get: (n) => String(n.instances), order: (n) => n.instances },
  { name: "cpu", get: (n) => `${n.allocated?.cpuMillis ?? 0n}m of ${n.capacity?.cpuMillis ?? 0n}m` },
  {
    name: "memory",
    get: (n) => `${humanBytes(n.allocated?.memoryBytes ?? 0n)} of ${humanBytes(n.capacity?.memoryBytes ?? 0n)}`,
    wide: true,
  },
  {
    name: "heard",
    get: (n) => n.lastHeartbeatTime ? humanAge(Number(n.lastHeartbeatTime.seconds) * 1000, Date.now()) : "",
  },
  { name: "drain", get: (n) => n.drain ? `${n.drain.total - n.drain.left} of ${n.drain.total} moved` : "" },
  { name: "reason", get: (n) => n.drain?.reason ?? "" },
  { name: "agent_url", get: (n) => n.agentUrl, wide: true },
];

const cordonTo = (cordoned: boolean, brief: string) =>
  command({
    brief,
    args: [nodeArg],
    complete,
    async run(run, _flags, name) {
      await run.one(NodeSchema, await clientOf(run).setNodeCordoned({ name: name!, cordoned }), columns);
    },
  });

export const nodes = buildRouteMap({
  docs: { brief: "Nodes that run services of the hosts" },
  routes: {
    list: command({
      brief: "List nodes",
      run: async (run) => await run.list(NodeSchema, (await clientOf(run).listNodes({})).nodes, columns),
    }),
    get: command({
      brief: "Show one node and how far its drain is",
      args: [nodeArg],
      complete,
      run: async (run, _flags, name) =>
        await run.one(NodeSchema, await clientOf(run).getNode({ name: name! }), columns),
    }),
    cordon: cordonTo(true, "Place nothing new on a node; what runs there stays"),
    uncordon: cordonTo(false, "Let new work come to a node again"),
    drain: command<{ deadline?: number; force: boolean }, [string]>({
      brief: "Move what runs on a node elsewhere",
      details:
        "Waits until the node is empty. Without another place it blocks and says what is left; at the deadline " +
        "it gives the drain up and the node works on, or with --force stops what is left.",
      args: [nodeArg],
      complete,
      flags: {
        deadline: {
          kind: "parsed",
          parse: parseTimeout,
          optional: true,
          brief: "How long it may take; without: for ever",
        },
        force: { kind: "boolean", default: false, brief: "At the deadline stop what is left" },
      },
      async run(run, flags, name) {
        if (flags.force) run.confirm(`Stop what cannot leave ${name} by the deadline?`);
        const deadlineMs = BigInt(flags.deadline ?? 0);
        const started = await clientOf(run).drainNode({ name, deadlineMs, force: flags.force });
        if (await follow(run, "fleet-scheduler", "", started)) {
          await run.one(NodeSchema, await clientOf(run).getNode({ name }), columns);
        }
      },
    }),
    activate: command({
      brief: "Let a drained or cordoned node work again",
      args: [nodeArg],
      complete,
      run: async (run, _flags, name) =>
        await run.one(NodeSchema, await clientOf(run).activateNode({ name: name! }), columns),
    }),
    forget: command({
      brief: "Remove a lost node that does not come back",
      args: [nodeArg],
      complete,
      async run(run, _flags, name) {
        run.confirm(`Forget the node ${name}?`);
        await clientOf(run).forgetNode({ name: name! });
        run.io.err(`Forgot ${name}\n`);
      },
    }),
  },
});
