import assert from "node:assert/strict";
import { seededRng, systemClock, systemRng, utf8 } from "@ultracloud/base";
import { Health, noopLogger, Registry } from "@ultracloud/observe";
import { startRpcServer } from "@ultracloud/rpc";
import { systemDisk } from "@ultracloud/wal";
import { type GroupStateMachine, openReplicaNode, PeerTransport, type ReplicaNode } from "./mod.ts";

/** Appends every entry's text; "durable" is what a checkpoint stored. */
class ListMachine implements GroupStateMachine {
  items: string[] = [];
  applied = 0;
  appliedIndex = () => this.applied;
  applyBatch(entries: readonly { index: number; data: Uint8Array }[]) {
    const results = entries.map(({ data }) => this.items.push(utf8.decode(data)));
    this.applied = entries.at(-1)!.index;
    return results;
  }
  skipTo(index: number) {
    this.applied = index;
  }
  checkpoint = () => 0;
  snapshot = () => utf8.encode(JSON.stringify(this.items));
  restore(index: number, bytes: Uint8Array) {
    this.items = JSON.parse(utf8.decode(bytes));
    this.applied = index;
  }
}

const anyone = {
  authenticator: { authenticate: () => ({ kind: "workload" as const, id: "spiffe://test/svc/x" }) },
  authorizer: { authorize: () => ({ allow: true as const }) },
};

function nodeOptions(dir: string, nodeId: number, clientUrls: Record<number, string> = {}) {
  return { clusterId: "test", nodeId, dir, tickMs: 10, electionTicks: 20, heartbeatTicks: 2, clientUrls };
}

const deps = () => ({
  disk: systemDisk,
  clock: systemClock,
  rng: systemRng,
  log: noopLogger,
  registry: new Registry(),
  onFatal: (e: Error) => assert.fail(e),
});

async function until(what: string, condition: () => boolean): Promise<void> {
  const deadline = performance.now() + 10_000;
  while (!condition()) {
    if (performance.now() > deadline) assert.fail(`Waited too long for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

Deno.test("a single voter serves at once and replays its log after a restart", async () => {
  const dir = await Deno.makeTempDir();
  try {
    {
      await using node = openReplicaNode(nodeOptions(dir, 1), deps());
      const machine = new ListMachine();
      const group = await node.openGroup({ group: 1, voters: [1] }, machine);
      await until("the leader", () => group.status().role === "leader");
      assert.deepEqual(await Promise.all(["a", "b", "c"].map((text) => group.propose(utf8.encode(text)))), [1, 2, 3]);
      await group.readBarrier();
    }
    await using node = openReplicaNode({ ...nodeOptions(dir, 1), leaseReadDriftMax: 0.1 }, deps());
    const machine = new ListMachine();
    const group = await node.openGroup({ group: 1, voters: [1] }, machine);
    await until("the leader", () => group.status().role === "leader");
    for (let reads = 0; reads < 5; reads++) {
      await group.readBarrier();
      assert.deepEqual(machine.items, ["a", "b", "c"]);
    }
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});

Deno.test("three voters replicate over RPC, follow hints, and go on without their leader", async () => {
  const dir = await Deno.makeTempDir();
  const ids = [1, 2, 3];
  const rng = seededRng(1);
  try {
    await using stack = new AsyncDisposableStack();
    // Held until each server listens, so that nobody takes a port in between.
    const reserved = ids.map(() => Deno.listen({ hostname: "127.0.0.1", port: 0 }));
    const ports = reserved.map((listener) => (listener.addr as Deno.NetAddr).port);
    const url = (id: number) => `http://127.0.0.1:${ports[id - 1]}`;
    const replicas = await Promise.all(ids.map(async (id) => {
      const own = stack.use(new AsyncDisposableStack());
      const peers = Object.fromEntries(ids.filter((other) => other !== id).map((other) => [other, url(other)]));
      const transport = own.use(
        new PeerTransport({ clusterId: "test", peers }, {
          clock: systemClock,
          rng,
          log: noopLogger,
          authorization: () => "Bearer x",
        }),
      );
      const node: ReplicaNode = own.use(
        openReplicaNode(nodeOptions(`${dir}/${id}`, id, { 1: url(1), 2: url(2), 3: url(3) }), { ...deps(), transport }),
      );
      reserved[id - 1]!.close();
      own.use(
        await startRpcServer({ name: "test", version: "0", listen: `127.0.0.1:${ports[id - 1]}` }, {
          services: [node.peerService],
          ...anyone,
          registry: new Registry(),
          health: new Health(),
          log: noopLogger,
          clock: systemClock,
          rng: systemRng,
        }),
      );
      const machine = new ListMachine();
      const group = await node.openGroup({ group: 1, voters: ids }, machine);
      return { id, own, machine, group };
    }));
    const leaderOf = (live: typeof replicas) => live.find(({ group }) => group.status().role === "leader");
    await until("a leader", () => leaderOf(replicas) !== undefined);
    const leader = leaderOf(replicas)!;
    for (let i = 0; i < 20; i++) await leader.group.propose(utf8.encode(`x${i}`));
    await until("the followers", () => replicas.every(({ machine }) => machine.items.length === 20));
    const follower = replicas.find(({ id }) => id !== leader.id)!;
    await assert.rejects(follower.group.propose(utf8.encode("no")), {
      code: "not_leader",
      detail: { retryAfterMs: 50, leaderHint: url(leader.id) },
    });
    await follower.group.readBarrier();
    await leader.own.disposeAsync();
    const rest = replicas.filter(({ id }) => id !== leader.id);
    await until("another leader", () => leaderOf(rest) !== undefined);
    await leaderOf(rest)!.group.propose(utf8.encode("after"));
    await until("the other follower", () => rest.every(({ machine }) => machine.items.length === 21));
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});
