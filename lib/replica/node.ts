import { type Clock, type Disk, fault, type Rng, toHex } from "@ultracloud/base";
import type { Gauge, Logger, Registry } from "@ultracloud/observe";
import {
  type Message as WireMessage,
  RaftPeerService,
  type SnapshotHeader as WireHeader,
} from "@ultracloud/proto/raft/v1";
import { decodeConfiguration, type RaftOptions, type Transport } from "@ultracloud/raft";
import { bind, type BoundService } from "@ultracloud/rpc";
import { openWal, type SyncTimes, type Wal } from "@ultracloud/wal";
import { type ClientUrl, GroupReplica } from "./group.ts";
import { WalLogStore } from "./log_store.ts";
import type { SnapshotFile } from "./snapshot_file.ts";
import type { IncomingSnapshot } from "./snapshot_inbox.ts";
import type { GroupStateMachine } from "./state_machine.ts";
import type { PeerTransport } from "./transport.ts";
import type { Group, GroupStatus, GroupToOpen, ReplicaNode } from "./types.ts";
import { fromWire, messageBytes, safe } from "./wire.ts";

export interface ReplicaNodeOptions {
  readonly clusterId: string;
  /** Positive, never used again after the replica is gone. */
  readonly nodeId: number;
  /** Directory of log and received snapshots. */
  readonly dir: string;
  /** Length of a tick. */
  readonly tickMs: number;
  /** An election starts after one to two times this many ticks without a leader. */
  readonly electionTicks: number;
  readonly heartbeatTicks: number;
  /** Size of a segment of the log; that of lib/wal when absent. */
  readonly walSegmentBytes?: number;
  /**
   * Leaders answer reads within a lease: by how much, at most, clocks of two replicas run apart (0.1 for 10 %). The same
   * on every replica; absent, the default: each read is confirmed by a quorum and clocks decide nothing.
   */
  readonly leaseReadDriftMax?: number;
  /** What lib/raft sets by itself otherwise, the same for every group. */
  readonly raft?: Omit<RaftOptions, "id" | "electionTicks" | "heartbeatTicks" | "leaseReads">;
  /** Client address of each replica, for hints at the leader; a function where members come and go. */
  readonly clientUrls: Readonly<Record<number, string>> | ClientUrl;
}

export interface ReplicaNodeDeps {
  readonly disk: Disk;
  readonly clock: Clock;
  readonly rng: Rng;
  readonly log: Logger;
  readonly registry: Registry;
  /** Absent when there is one replica only. */
  readonly transport?: PeerTransport | undefined;
  /** Disk or logic is broken: the process must end, at once and without touching anything more. */
  readonly onFatal: (error: Error) => void;
  /** Told how long each write and sync of the log took, and each snapshot of a group. */
  readonly onSync?: ((took: SyncTimes) => void) | undefined;
  readonly onSnapshot?: ((tookMs: number) => void) | undefined;
}

/** Metrics of groups are renewed at this many ticks. */
const gaugeTicks = 50;
/** Replicas whose messages are counted. */
const countedPeersMax = 64;
const noTransport: Transport<SnapshotFile> = { send: () => {}, sendSnapshot: (_header, _data, done) => done(false) };

/** Opens the log of this replica; groups are opened one by one. */
export function openReplicaNode(options: ReplicaNodeOptions, deps: ReplicaNodeDeps): ReplicaNode {
  return new Node(options, deps);
}

class Node implements ReplicaNode {
  readonly peerService: BoundService;
  readonly #options: ReplicaNodeOptions;
  readonly #deps: ReplicaNodeDeps;
  readonly #wal: Wal;
  readonly #groups = new Map<number, GroupReplica>();
  /** Groups that are open or about to be. */
  readonly #opened = new Set<number>();
  readonly #stores = new Map<number, WalLogStore>();
  readonly #ticker: ReturnType<typeof setInterval>;
  #ticks = 0;
  #failed = false;

  constructor(options: ReplicaNodeOptions, deps: ReplicaNodeDeps) {
    this.#options = options;
    this.#deps = deps;
    const { walSegmentBytes: segmentBytes } = options;
    this.#wal = openWal(
      { dir: `${options.dir}/wal`, ...(segmentBytes === undefined ? {} : { segmentBytes }) },
      {
        disk: deps.disk,
        onFatal: (error) => this.#fatal(error),
        nowMs: () => deps.clock.monotonicMs(),
        ...(deps.onSync === undefined ? {} : { onSync: deps.onSync }),
      },
    );
    this.peerService = this.#bindPeers();
    this.#ticker = setInterval(() => this.#tick(), options.tickMs);
    const { registry } = deps;
    this.#gauges = {
      applied: registry.gauge("raft_applied_index", "Last applied entry", ["group"]),
      leading: registry.gauge("raft_is_leader", "1 while this replica leads the group", ["group"]),
      syncs: registry.gauge("wal_syncs", "Syncs of the log since start"),
    };
  }
  readonly #gauges: { readonly applied: Gauge; readonly leading: Gauge; readonly syncs: Gauge };

  #tick(): void {
    for (const group of this.#groups.values()) group.tick();
    if (++this.#ticks % gaugeTicks !== 0) return;
    for (const { group, appliedIndex, role } of this.status()) {
      this.#gauges.applied.set(appliedIndex, { group: String(group) });
      this.#gauges.leading.set(role === "leader" ? 1 : 0, { group: String(group) });
    }
    this.#gauges.syncs.set(this.#wal.stats().syncs);
  }

  #fatal(error: Error): void {
    if (this.#failed) return;
    this.#failed = true;
    this.#deps.log.error("replica cannot go on", { error });
    this.#deps.onFatal(error);
  }

  async openGroup(
    wanted: GroupToOpen,
    machine: GroupStateMachine,
  ): Promise<Group> {
    const { group } = wanted;
    // What was found may so far be in the machine's memory only; nobody may be told of it before it is on disk.
    await this.#wal.ready();
    if (this.#opened.has(group)) throw fault("already_exists", "group_open", `Cannot open group ${group} twice`);
    this.#opened.add(group);
    const { options, deps } = { options: this.#options, deps: this.#deps };
    const { clientUrls, leaseReadDriftMax: driftMax } = options;
    const logStore = await WalLogStore.open(
      { group, snapshotDir: `${options.dir}/snapshots` },
      { wal: this.#wal, disk: deps.disk },
    );
    this.#stores.set(group, logStore);
    const replica = new GroupReplica({
      group,
      voters: wanted.join ? [] : wanted.voters,
      tickMs: options.tickMs,
      ...(wanted.admit === undefined ? {} : { admit: wanted.admit }),
      clientUrl: typeof clientUrls === "function" ? clientUrls : (id) => clientUrls[id],
      raft: {
        ...options.raft,
        ...(driftMax === undefined ? {} : { leaseReads: { tickMs: options.tickMs, driftMax } }),
        id: options.nodeId,
        electionTicks: options.electionTicks,
        heartbeatTicks: options.heartbeatTicks,
      },
    }, {
      logStore,
      machine,
      disk: deps.disk,
      transport: deps.transport?.forGroup(group, deps) ?? noTransport,
      forward: (to, data) =>
        deps.transport?.propose(to, group, data) ??
          Promise.reject(fault("unavailable", "connect_failed", `Cannot reach replica ${to}: there are no peers`)),
      clock: deps.clock,
      rng: deps.rng,
      log: deps.log,
      onFatal: (error) => this.#fatal(error),
      onSnapshot: deps.onSnapshot,
    });
    this.#groups.set(group, replica);
    await replica.start();
    return replica;
  }

  async removeGroup(group: number): Promise<void> {
    const replica = this.#groups.get(group);
    this.#groups.delete(group);
    await replica?.close();
    this.#stores.get(group)?.names.clear(this.#deps.disk);
    this.#stores.delete(group);
    this.#opened.delete(group);
    await new Promise<void>((resolve, reject) =>
      this.#wal.append({ group, remove: true }, (error) => error ? reject(error) : resolve())
    );
  }

  status(): GroupStatus[] {
    return [...this.#groups.values()].map((group) => group.status());
  }

  #checkCluster(clusterId: string): void {
    if (clusterId !== this.#options.clusterId) {
      throw fault(
        "failed_precondition",
        "wrong_cluster",
        `Cannot talk to cluster ${clusterId}: this is ${this.#options.clusterId}`,
      );
    }
  }

  #replica(clusterId: string, group: bigint): GroupReplica {
    this.#checkCluster(clusterId);
    const replica = this.#groups.get(Number(group));
    if (!replica) throw fault("unavailable", "group_unknown", `Cannot find group ${group} here yet`);
    return replica;
  }

  #receive(clusterId: string, group: bigint, messages: readonly WireMessage[]): void {
    this.#checkCluster(clusterId);
    const received = messages.flatMap((m) => fromWire(m) ?? []);
    // One not opened yet, or removed; the others of this call go on.
    this.#groups.get(Number(group))?.driver.receive(received);
    if (received.length === 0) return;
    const { from } = received[0]!;
    this.#deps.transport?.heard(from);
    this.#count(from, received.length, received.reduce((sum, message) => sum + messageBytes(message), 0));
  }

  /** What came from each replica; ids are never used again, so only so many are kept. */
  readonly received = new Map<number, { messages: number; bytes: number }>();

  #count(from: number, messages: number, bytes: number): void {
    let known = this.received.get(from);
    if (known === undefined) {
      if (this.received.size >= countedPeersMax) this.received.delete(this.received.keys().next().value!);
      this.received.set(from, known = { messages: 0, bytes: 0 });
    }
    known.messages += messages;
    known.bytes += bytes;
  }

  #bindPeers(): BoundService {
    return bind(RaftPeerService, {
      send: async (requests) => {
        for await (const { clusterId, group, messages } of requests) this.#receive(clusterId, group, messages);
        return {};
      },
      installSnapshot: async ({ header, offset, chunk }) => {
        if (!header) throw fault("invalid_argument", "snapshot_malformed", "Cannot take a snapshot without its header");
        const replica = this.#replica(header.clusterId, header.group);
        this.#count(Number(header.from), 1, chunk.length);
        const answer = await replica.takeSnapshot(toSnapshot(header), safe(offset), chunk);
        return { ...answer, offset: BigInt(answer.offset) };
      },
      propose: ({ clusterId, group, data }) => {
        const { index, term } = this.#replica(clusterId, group).proposeFor(data);
        return { index: BigInt(index), term: BigInt(term) };
      },
    }, {
      send: { resource: "peer", action: "send", scope: () => "" },
      installSnapshot: { resource: "peer", action: "install", scope: () => "" },
      propose: { resource: "peer", action: "propose", scope: () => "" },
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#ticker);
    const groups = [...this.#groups.values()];
    this.#groups.clear();
    for (const group of groups) {
      if (!this.#failed) group.checkpoint();
      group.stop();
    }
    await Promise.all(groups.map((group) => group.close()));
    await this.#wal.close();
  }
}

function toSnapshot(header: WireHeader): IncomingSnapshot {
  let configuration;
  try {
    configuration = decodeConfiguration(header.config);
  } catch (cause) {
    throw fault("invalid_argument", "snapshot_malformed", "Cannot read the configuration of a snapshot", { cause });
  }
  return {
    header: {
      from: safe(header.from),
      to: safe(header.to),
      term: safe(header.term),
      meta: { index: safe(header.index), term: safe(header.logTerm), configuration },
    },
    bytes: safe(header.bytesTotal),
    sha256: toHex(header.sha256),
  };
}
