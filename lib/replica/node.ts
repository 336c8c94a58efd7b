import { type Clock, type Disk, fault, type Rng } from "@ultracloud/base";
import type { Gauge, Logger, Registry } from "@ultracloud/observe";
import {
  type InstallSnapshotRequest,
  RaftPeerService,
  type SnapshotHeader as WireHeader,
} from "@ultracloud/proto/raft/v1";
import { decodeConfiguration, type SnapshotHeader, type Transport } from "@ultracloud/raft";
import { bind, type BoundService } from "@ultracloud/rpc";
import { openWal, type Wal } from "@ultracloud/wal";
import { equalBytes } from "@ultracloud/base";
import { createHash } from "node:crypto";
import { type ClientUrl, GroupReplica } from "./group.ts";
import { WalLogStore } from "./log_store.ts";
import type { GroupStateMachine } from "./state_machine.ts";
import type { PeerTransport } from "./transport.ts";
import type { Group, GroupStatus, ReplicaNode } from "./types.ts";
import { fromWire, safe } from "./wire.ts";

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
}

/** A snapshot larger than this is refused; it is held in memory while it arrives. */
const snapshotBytesMax = 2 ** 30;
/** Metrics of groups are renewed at this many ticks. */
const gaugeTicks = 50;
const noTransport: Transport = { send: () => {}, sendSnapshot: (_header, _data, done) => done(false) };

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
  readonly #stores = new Map<number, WalLogStore>();
  readonly #ticker: ReturnType<typeof setInterval>;
  #ticks = 0;
  #failed = false;

  constructor(options: ReplicaNodeOptions, deps: ReplicaNodeDeps) {
    this.#options = options;
    this.#deps = deps;
    this.#wal = openWal({ dir: `${options.dir}/wal` }, { disk: deps.disk, onFatal: (error) => this.#fatal(error) });
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
    wanted: { readonly group: number; readonly voters: readonly number[]; readonly join?: boolean },
    machine: GroupStateMachine,
  ): Promise<Group> {
    const { group } = wanted;
    // What was found may so far be in the machine's memory only; nobody may be told of it before it is on disk.
    await this.#wal.ready();
    if (this.#groups.has(group)) throw fault("already_exists", "group_open", `Cannot open group ${group} twice`);
    const { options, deps } = { options: this.#options, deps: this.#deps };
    const { clientUrls } = options;
    const snapshotDir = `${options.dir}/snapshots`;
    const logStore = new WalLogStore({ group, snapshotDir }, { wal: this.#wal, disk: deps.disk });
    this.#stores.set(group, logStore);
    const replica = new GroupReplica({
      group,
      voters: wanted.join ? [] : wanted.voters,
      tickMs: options.tickMs,
      clientUrl: typeof clientUrls === "function" ? clientUrls : (id) => clientUrls[id],
      raft: { id: options.nodeId, electionTicks: options.electionTicks, heartbeatTicks: options.heartbeatTicks },
    }, {
      logStore,
      machine,
      transport: deps.transport?.forGroup(group, deps.log) ?? noTransport,
      rng: deps.rng,
      log: deps.log,
      onFatal: (error) => this.#fatal(error),
    });
    this.#groups.set(group, replica);
    await replica.start();
    return replica;
  }

  async removeGroup(group: number): Promise<void> {
    this.#groups.get(group)?.stop();
    this.#stores.get(group)?.removeSnapshots();
    this.#stores.delete(group);
    this.#groups.delete(group);
    await new Promise<void>((resolve, reject) =>
      this.#wal.append({ group, remove: true }, (error) => error ? reject(error) : resolve())
    );
  }

  status(): GroupStatus[] {
    return [...this.#groups.values()].map((group) => group.status());
  }

  #replica(clusterId: string, group: bigint): GroupReplica {
    if (clusterId !== this.#options.clusterId) {
      throw fault(
        "failed_precondition",
        "wrong_cluster",
        `Cannot talk to cluster ${clusterId}: this is ${this.#options.clusterId}`,
      );
    }
    const replica = this.#groups.get(Number(group));
    if (!replica) throw fault("unavailable", "group_unknown", `Cannot find group ${group} here yet`);
    return replica;
  }

  #bindPeers(): BoundService {
    return bind(RaftPeerService, {
      send: ({ clusterId, group, messages }) => {
        const replica = this.#replica(clusterId, group);
        replica.driver.receive(messages.flatMap((m) => fromWire(m) ?? []));
        return {};
      },
      installSnapshot: async (requests) => {
        const { header, data } = await collect(requests);
        const replica = this.#replica(header.clusterId, header.group);
        const installed = await new Promise<boolean>((resolve) =>
          replica.driver.receiveSnapshot(toHeader(header), data, resolve)
        );
        return { installed };
      },
    }, {
      send: { resource: "peer", action: "send", scope: () => "" },
      installSnapshot: { resource: "peer", action: "install", scope: () => "" },
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#ticker);
    for (const group of this.#groups.values()) {
      if (!this.#failed) group.checkpoint();
      group.stop();
    }
    this.#groups.clear();
    await this.#wal.close();
  }
}

function toHeader(header: WireHeader): SnapshotHeader {
  let configuration;
  try {
    configuration = decodeConfiguration(header.config);
  } catch (cause) {
    throw fault("invalid_argument", "snapshot_malformed", "Cannot read the configuration of a snapshot", { cause });
  }
  return {
    from: safe(header.from),
    to: safe(header.to),
    term: safe(header.term),
    meta: { index: safe(header.index), term: safe(header.logTerm), configuration },
  };
}

/** The whole snapshot, checked against its digest. */
async function collect(
  requests: AsyncIterable<InstallSnapshotRequest>,
): Promise<{ header: WireHeader; data: Uint8Array }> {
  let header: WireHeader | undefined;
  let data = new Uint8Array(0);
  let at = 0;
  for await (const { part } of requests) {
    if (part.case === "header") {
      if (header) throw fault("invalid_argument", "snapshot_malformed", "Cannot take a snapshot with two headers");
      header = part.value;
      if (header.bytesTotal > BigInt(snapshotBytesMax)) {
        throw fault(
          "resource_exhausted",
          "snapshot_too_large",
          `Cannot take a snapshot of ${header.bytesTotal} bytes: wanted at most ${snapshotBytesMax}`,
        );
      }
      data = new Uint8Array(Number(header.bytesTotal));
    } else if (part.case === "chunk") {
      if (!header || at + part.value.length > data.length) {
        throw fault("invalid_argument", "snapshot_malformed", "Cannot take more bytes than the snapshot's header says");
      }
      data.set(part.value, at);
      at += part.value.length;
    }
  }
  if (!header || at !== data.length) {
    throw fault(
      "invalid_argument",
      "snapshot_malformed",
      `Cannot take a snapshot that ends after ${at} of ${data.length} bytes`,
    );
  }
  if (!equalBytes(new Uint8Array(createHash("sha256").update(data).digest()), header.sha256)) {
    throw fault("data_loss", "snapshot_damaged", "Cannot take the snapshot: its digest does not match");
  }
  return { header, data };
}
