/**
 * A member of a group as a process of its own, killed at named points by the crash test: state and log in real files,
 * peers over RPC, and a control address for the test. Its one argument is its settings as JSON.
 */
import { Fault, systemClock, systemRng, utf8 } from "@ultracloud/base";
import { Health, noopLogger, Registry } from "@ultracloud/observe";
import { startRpcServer } from "@ultracloud/rpc";
import { systemDisk } from "@ultracloud/wal";
import { GroupReplica, openReplicaNode } from "./mod.ts";
import { crashingDisk, CrashingMachine, CrashingTransport, type CrashPoint, Fuse } from "./test_crash_points.ts";

interface Settings {
  readonly id: number;
  readonly dir: string;
  readonly voters: readonly number[];
  readonly peers: Readonly<Record<number, string>>;
  readonly controlPort: number;
  readonly arm?: CrashPoint;
}

const settings: Settings = JSON.parse(Deno.args[0]!);
const { id, dir, voters, peers } = settings;
const fuse = new Fuse();
if (settings.arm) fuse.arm(settings.arm);
Deno.mkdirSync(dir, { recursive: true });

const others = Object.fromEntries(Object.entries(peers).filter(([other]) => Number(other) !== id));
const onFatal = (error: Error) => {
  console.error(error);
  Deno.exit(70);
};
const deps = { clock: systemClock, rng: systemRng, log: noopLogger, authorization: () => "Bearer x" };
const transport = new CrashingTransport({ clusterId: "test", peers: others }, deps, fuse);
const disk = crashingDisk(systemDisk, fuse);
const machine = new CrashingMachine(`${dir}/state.db`, fuse);
const node = openReplicaNode({
  clusterId: "test",
  nodeId: id,
  dir: `${dir}/raft`,
  tickMs: 10,
  electionTicks: 60,
  heartbeatTicks: 3,
  clientUrls: {},
  walSegmentBytes: 32 * 1024,
  raft: { retainedEntries: 5 },
}, { ...deps, disk, registry: new Registry(), transport, onFatal });
await startRpcServer({ name: "test", version: "0", listen: new URL(peers[id]!).host }, {
  services: [node.peerService],
  authenticator: { authenticate: () => ({ kind: "workload", id: "spiffe://test/svc/x" }) },
  authorizer: { authorize: () => ({ allow: true }) },
  registry: new Registry(),
  health: new Health(),
  log: noopLogger,
  clock: systemClock,
  rng: systemRng,
});
const group = await node.openGroup({ group: 1, voters }, machine);
if (!(group instanceof GroupReplica)) throw new Error("Cannot control another kind of group");

Deno.serve({ hostname: "127.0.0.1", port: settings.controlPort, onListen: () => {} }, async (request) => {
  const { pathname } = new URL(request.url);
  const body = await request.text();
  switch (pathname) {
    case "/write":
      try {
        return Response.json({ index: await group.propose(utf8.encode(body)) });
      } catch (error) {
        return Response.json({ refused: error instanceof Fault ? error.code : String(error) });
      }
    case "/arm":
      fuse.arm(body as CrashPoint);
      return Response.json({});
    case "/checkpoint":
      group.checkpoint();
      return Response.json({});
    case "/transfer":
      // Asked again and again: by the second time another may lead.
      if (group.status().role === "leader") group.transferLeader(Number(body));
      return Response.json({});
    case "/texts":
      return Response.json(machine.texts());
    default: {
      const { role, term, leader, commitIndex, lastIndex } = group.status();
      return Response.json({ role, term, leader, commitIndex, lastIndex, ...machine.state() });
    }
  }
});
