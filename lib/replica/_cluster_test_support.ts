import assert from "node:assert/strict";
import { seededRng, systemClock, systemRng, utf8 } from "@ultracloud/base";
import { Health, noopLogger, Registry } from "@ultracloud/observe";
import { startRpcServer } from "@ultracloud/rpc";
import { systemDisk } from "@ultracloud/wal";
import {
  GroupReplica,
  type GroupStateMachine,
  openReplicaNode,
  PeerTransport,
  type ReplicaNodeOptions,
} from "./mod.ts";
import { breathe } from "./snapshot_file.ts";

/** Appends every entry's text; "durable" is what a checkpoint stored: nothing, so that a restart replays the log. */
export class ListMachine implements GroupStateMachine {
  items: string[] = [];
  applied = 0;
  restores = 0;
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
    this.restores++;
  }
}

/** The same state through a file, written slowly: entries are applied meanwhile. */
export class FileMachine extends ListMachine {
  async snapshotTo(path: string): Promise<number> {
    const index = this.applied, items = [...this.items];
    using file = await Deno.open(path, { write: true, createNew: true });
    for (const item of items) {
      await file.write(utf8.encode(`${item}\n`));
      await breathe();
    }
    return index;
  }
  async restoreFrom(index: number, path: string): Promise<void> {
    const text = await Deno.readTextFile(path);
    this.items = text.split("\n").slice(0, -1);
    this.applied = index;
    this.restores++;
  }
}

/** Polls until it holds; tests wait for conditions, never for time. */
export async function until(what: string, condition: () => boolean, limitMs = 20_000): Promise<void> {
  const deadline = performance.now() + limitMs;
  while (!condition()) {
    if (performance.now() > deadline) assert.fail(`Waited too long for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

export interface Replica extends AsyncDisposable {
  readonly id: number;
  readonly url: string;
  readonly group: GroupReplica;
  readonly machine: ListMachine;
  readonly transport: PeerTransport;
}

/** Replicas of one group in this process, each with its own directory, log and peer listener. */
export class ReplicaCluster implements AsyncDisposable {
  readonly #dir: string;
  readonly #urls = new Map<number, string>();
  readonly #reserved = new Map<number, Deno.Listener>();
  readonly #live = new Map<number, Replica>();
  readonly #fatal: Error[] = [];

  readonly #raft: NonNullable<ReplicaNodeOptions["raft"]>;
  readonly #makeMachine: () => ListMachine;

  private constructor(dir: string, raft: NonNullable<ReplicaNodeOptions["raft"]>, makeMachine: () => ListMachine) {
    this.#dir = dir;
    this.#raft = raft;
    this.#makeMachine = makeMachine;
  }

  static async create(
    raft: NonNullable<ReplicaNodeOptions["raft"]> = {},
    makeMachine = () => new ListMachine(),
  ): Promise<ReplicaCluster> {
    return new ReplicaCluster(await Deno.makeTempDir(), raft, makeMachine);
  }

  /** Founds the group with these voters. */
  async found(ids: readonly number[]): Promise<void> {
    for (const id of ids) this.url(id);
    await Promise.all(ids.map((id) => this.start(id, { voters: ids })));
    await this.leader();
  }

  url(id: number): string {
    const known = this.#urls.get(id);
    if (known !== undefined) return known;
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const url = `http://127.0.0.1:${(listener.addr as Deno.NetAddr).port}`;
    // Held until the replica listens, so that nobody takes the port in between.
    this.#reserved.set(id, listener);
    this.#urls.set(id, url);
    return url;
  }

  #release(id: number): void {
    this.#reserved.get(id)?.close();
    this.#reserved.delete(id);
  }

  dir(id: number): string {
    return `${this.#dir}/${id}`;
  }

  /** Starts a replica: a founder, one that joins, or one that was stopped. */
  async start(
    id: number,
    options: { readonly voters?: readonly number[]; readonly join?: boolean } = {},
  ): Promise<Replica> {
    const stack = new AsyncDisposableStack();
    const rng = seededRng(id);
    this.url(id);
    const peers = Object.fromEntries([...this.#urls].filter(([other]) => other !== id));
    const transport = stack.use(
      new PeerTransport({ clusterId: "test", peers }, {
        clock: systemClock,
        rng,
        log: noopLogger,
        authorization: () => "Bearer x",
      }),
    );
    const node = stack.use(
      openReplicaNode({
        clusterId: "test",
        nodeId: id,
        dir: this.dir(id),
        tickMs: 10,
        electionTicks: 20,
        heartbeatTicks: 2,
        raft: this.#raft,
        clientUrls: (other) => this.#urls.get(other),
      }, {
        disk: systemDisk,
        clock: systemClock,
        rng: systemRng,
        log: noopLogger,
        registry: new Registry(),
        transport,
        onFatal: (error) => void this.#fatal.push(error),
      }),
    );
    this.#release(id);
    stack.use(
      await startRpcServer({ name: "test", version: "0", listen: new URL(this.url(id)).host }, {
        services: [node.peerService],
        authenticator: { authenticate: () => ({ kind: "workload", id: "spiffe://test/svc/x" }) },
        authorizer: { authorize: () => ({ allow: true }) },
        registry: new Registry(),
        health: new Health(),
        log: noopLogger,
        clock: systemClock,
        rng: systemRng,
      }),
    );
    const machine = this.#makeMachine();
    const { voters = [], join = false } = options;
    const group = await node.openGroup({ group: 1, voters, join }, machine);
    assert.ok(group instanceof GroupReplica);
    for (const [other, { transport }] of this.#live) if (other !== id) transport.setPeer(id, this.url(id));
    const replica: Replica = {
      id,
      url: this.url(id),
      group,
      machine,
      transport,
      [Symbol.asyncDispose]: () => stack.disposeAsync(),
    };
    this.#live.set(id, replica);
    return replica;
  }

  async stop(id: number): Promise<void> {
    const replica = this.get(id);
    this.#live.delete(id);
    await replica[Symbol.asyncDispose]();
  }

  get(id: number): Replica {
    const replica = this.#live.get(id);
    assert.ok(replica, `replica ${id} runs`);
    return replica;
  }

  get live(): Replica[] {
    return [...this.#live.values()];
  }

  /** The leader that most of its peers follow. */
  async leader(): Promise<Replica> {
    let found: Replica | undefined;
    await until("a leader", () => {
      const leaders = this.live.filter(({ group }) => group.status().role === "leader");
      leaders.sort((a, b) => b.group.status().term - a.group.status().term);
      found = leaders[0];
      return found !== undefined;
    });
    return found!;
  }

  /** The leader, once everybody who runs has answered it: only then it knows that a change is safe. */
  async settledLeader(): Promise<Replica> {
    const leader = await this.leader();
    await until("an answer of everybody", () => {
      const { progress, lastIndex } = leader.group.status();
      return this.live.every(({ id }) => id === leader.id || progress?.get(id)?.match === lastIndex);
    });
    return leader;
  }

  /** Proposes at whoever leads, as often as it takes while nothing happened. */
  async propose(text: string): Promise<void> {
    for (;;) {
      const { group } = await this.leader();
      try {
        await group.propose(utf8.encode(text));
        return;
      } catch (error) {
        const { code } = error as { code?: string };
        if (code !== "not_leader" && code !== "leader_changing" && code !== "superseded") throw error;
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.live.map((replica) => replica[Symbol.asyncDispose]()));
    for (const id of [...this.#reserved.keys()]) this.#release(id);
    await Deno.remove(this.#dir, { recursive: true });
    assert.deepEqual(this.#fatal, []);
  }
}
