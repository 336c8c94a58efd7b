import type { Counter, Registry } from "@ultracloud/observe";
import type { KeyWaits } from "./contest/key_waits.ts";
import { namespaceName } from "./domain/namespaces.ts";
import type { KvEvent, LeaseChange, LeaseEvent } from "./domain/types.ts";
import type { Member } from "./member.ts";
import type { StateListener } from "./state/machine.ts";
import type { WatchHub } from "./watch/hub.ts";

/** What members sent each other. */
export interface PeerTraffic {
  sent(): ReadonlyMap<number, { readonly messages: number; readonly bytes: number; readonly failures: number }>;
  received(): ReadonlyMap<number, { readonly messages: number; readonly bytes: number }>;
}

/** etcd's buckets of disk latency. */
const diskSeconds = [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192];
const snapshotSeconds = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];

/** How long the disk takes: told by the log and by whoever writes snapshots. */
export function diskTimes(registry: Registry) {
  const histogram = (name: string, help: string, buckets: readonly number[]) =>
    registry.histogram(`chainfire_disk_${name}_duration_seconds`, help, [], buckets).with({});
  const write = histogram("wal_write", "Appending to the log, without the sync", diskSeconds);
  const sync = histogram("wal_fsync", "Syncing the log", diskSeconds);
  const snapshot = histogram("snapshot_save", "Writing a snapshot and its digest", snapshotSeconds);
  return {
    onSync: ({ writeMs, syncMs }: { readonly writeMs: number; readonly syncMs: number }) => {
      write.observe(writeMs / 1_000);
      sync.observe(syncMs / 1_000);
    },
    onSnapshot: (tookMs: number) => snapshot.observe(tookMs / 1_000),
  };
}

/**
 * What etcd counts, under its names with our prefix, so that dashboards made for it need no more than another prefix.
 * Hot paths add to plain numbers; they become series when somebody reads them.
 */
export class Metrics implements StateListener {
  readonly #registry: Registry;
  readonly #member: Member;
  readonly #hub: WatchHub;
  readonly #waits: KeyWaits;
  readonly #counters = new Map<string, { readonly counter: Counter; told: number }>();
  readonly #peers: PeerTraffic;
  /** Keys that exist, from the first look on. */
  #keys: number | undefined;
  #puts = 0;
  #deletes = 0;
  #leaderChanges = 0;
  #leader = 0;
  readonly #leases: Record<LeaseChange, number> = { granted: 0, renewed: 0, revoked: 0, expired: 0 };

  constructor(
    deps: {
      readonly registry: Registry;
      readonly member: Member;
      readonly hub: WatchHub;
      readonly waits: KeyWaits;
      readonly peers: PeerTraffic;
    },
  ) {
    this.#peers = deps.peers;
    this.#registry = deps.registry;
    this.#member = deps.member;
    this.#hub = deps.hub;
    this.#waits = deps.waits;
    const { group, options } = deps.member;
    this.#leader = group.status().leader;
    group.onRoleChange(({ leader }) => {
      if (leader !== 0 && leader !== this.#leader) this.#leaderChanges++;
      if (leader !== 0) this.#leader = leader;
    });
    this.#gauge("server_version", "Constant 1, labelled with the version", 1, { server_version: options.version });
    this.#gauge("server_id", "Constant 1, labelled with the member's id", 1, { server_id: String(options.memberId) });
    this.#registry.onExpose(() => this.#collect());
  }

  changed(events: readonly KvEvent[]): void {
    let born = 0;
    for (const { type, kv } of events) {
      if (type === "put") {
        this.#puts++;
        if (kv.version === 1) born++;
      } else {
        this.#deletes++;
        born--;
      }
    }
    if (this.#keys !== undefined) this.#keys += born;
  }

  replaced(): void {
    this.#keys = undefined;
  }

  leasesChanged(events: readonly LeaseEvent[]): void {
    for (const { type } of events) this.#leases[type]++;
  }

  #gauge(name: string, help: string, value: number, labels: Readonly<Record<string, string>> = {}): void {
    this.#registry.gauge(`chainfire_${name}`, help, Object.keys(labels)).set(value, labels);
  }

  /** A count that is kept elsewhere. */
  #total(name: string, help: string, value: number, labels: Readonly<Record<string, string>> = {}): void {
    const series = name + JSON.stringify(labels);
    let known = this.#counters.get(series);
    if (!known) {
      const counter = this.#registry.counter(`chainfire_${name}`, help, Object.keys(labels));
      this.#counters.set(series, known = { counter, told: 0 });
      known.counter.inc(labels, 0);
    }
    known.counter.inc(labels, Math.max(0, value - known.told));
    known.told = Math.max(known.told, value);
  }

  #collect(): void {
    const { state, group, counts, options } = this.#member;
    const { role, leader, commitIndex, appliedIndex, lastIndex, progress } = group.status();
    const { total, used } = state.bytes();
    this.#gauge("server_has_leader", "1 while a leader is known", leader === 0 ? 0 : 1);
    this.#gauge("server_is_leader", "1 while this member leads", role === "leader" ? 1 : 0);
    this.#gauge("server_is_learner", "1 while this member has no vote", this.#member.isLearner ? 1 : 0);
    this.#total("server_leader_changes_seen_total", "Changes of the leader", this.#leaderChanges);
    this.#gauge("server_proposals_committed_total", "Index of the last committed entry", commitIndex);
    this.#gauge("server_proposals_applied_total", "Index of the last applied entry", appliedIndex);
    this.#gauge("server_proposals_pending", "Entries that wait for commit", Math.max(0, lastIndex - commitIndex));
    this.#total("server_proposals_failed_total", "Proposals that were not done", counts.failed);
    this.#total("server_read_indexes_failed_total", "Linearizable reads that found no quorum", counts.readsFailed);
    this.#gauge("server_quota_backend_bytes", "Size at which writes are refused", options.stateBytesMax);
    this.#gauge("mvcc_db_total_size_in_bytes", "Size of the database", total);
    this.#gauge("mvcc_db_total_size_in_use_in_bytes", "Size of the database without free pages", used);
    this.#total("mvcc_put_total", "Keys put", this.#puts);
    this.#total("mvcc_delete_total", "Keys deleted", this.#deletes);
    this.#total("mvcc_range_total", "Ranges read", counts.ranges);
    this.#total("mvcc_txn_total", "Transactions", counts.txns);
    this.#gauge("debugging_mvcc_keys_total", "Keys that exist", this.#keys ??= state.countKeys());
    this.#gauge("debugging_mvcc_current_revision", "Newest revision", state.revision);
    this.#gauge("debugging_mvcc_compact_revision", "Oldest revision that can be read", state.compactRevision);
    this.#total("debugging_mvcc_events_total", "Changes told to watches", this.#hub.told);
    this.#gauge("debugging_mvcc_watcher_total", "Open watches", this.#hub.watches);
    this.#gauge("debugging_mvcc_watch_stream_total", "Open streams of watches", this.#hub.streams);
    this.#total("debugging_mvcc_slow_watcher_total", "Streams cut off as nobody read them", this.#hub.cutOff);
    for (const change of ["granted", "renewed", "revoked", "expired"] as const) {
      this.#total(`debugging_lease_${change}_total`, `Leases ${change}`, this.#leases[change]);
    }
    this.#gauge(
      "network_active_peers",
      "Members in touch with this leader",
      [...progress?.values() ?? []].filter(({ recentlyActive }) => recentlyActive).length,
    );
    for (const [id, { messages, bytes, failures }] of this.#peers.sent()) {
      const to = { To: String(id) };
      this.#total("network_peer_sent_total", "Messages sent to a member", messages, to);
      this.#total("network_peer_sent_bytes_total", "Bytes sent to a member", bytes, to);
      this.#total("network_peer_sent_failures_total", "Calls to a member that failed", failures, to);
    }
    for (const [id, { messages, bytes }] of this.#peers.received()) {
      const from = { From: String(id) };
      this.#total("network_peer_received_total", "Messages from a member", messages, from);
      this.#total("network_peer_received_bytes_total", "Bytes from a member", bytes, from);
    }
    this.#gauge("waiting_calls", "Calls that wait for a lock or an election", this.#waits.count);
    this.#gauge(
      "disk_bytes_free",
      "Free space of the state's file system, -1 when unknown",
      this.#member.diskBytesFree ?? -1,
    );
    for (const type of ["no_space", "corrupt"] as const) {
      const raised = state.alarms.filter((alarm) => alarm.type === type).length;
      this.#gauge("alarms", "Members with the alarm", raised, { type });
    }
    for (const { quota, usage } of state.quotas.list()) {
      const namespace = namespaceName(quota.namespace);
      this.#gauge("namespace_bytes", "Keys and values of a namespace with a quota", usage.bytes, { namespace });
      this.#gauge("namespace_keys", "Keys of a namespace with a quota", usage.keys, { namespace });
    }
  }
}
