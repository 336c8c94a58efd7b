import { type Clock, type Disk, fault, type Rng } from "@ultracloud/base";
import type { Health, Logger, Registry } from "@ultracloud/observe";
import { openReplicaNode, type PeerTransport } from "@ultracloud/replica";
import type { Authorizer, BoundService, HttpHandler } from "@ultracloud/rpc";
import { openDatabase } from "@ultracloud/sqlite";
import { clusterService } from "./cluster_service.ts";
import type { ChainfireConfig } from "./config.ts";
import { LeaseClock } from "./domain/lease_clock.ts";
import { etcdGateway } from "./etcd/gateway.ts";
import { startHousekeeping } from "./housekeeping.ts";
import { kvService } from "./kv_service.ts";
import { leaseService } from "./lease_service.ts";
import { Contests } from "./contest/contests.ts";
import { KeyWaits } from "./contest/key_waits.ts";
import type { MemberInfo } from "./domain/types.ts";
import { electionService } from "./election_service.ts";
import { lockService } from "./lock_service.ts";
import { guarded } from "./guard.ts";
import { LeaseRights } from "./lease_rights.ts";
import { Membership } from "./membership.ts";
import { Member } from "./member.ts";
import { HashWatch } from "./hash_watch.ts";
import { maintenanceService } from "./maintenance_service.ts";
import { diskTimes, Metrics } from "./metrics.ts";
import { quotaService } from "./quota_service.ts";
import { restoreIfAsked } from "./restore.ts";
import { SpaceWatch } from "./space_watch.ts";
import { openSchema } from "./state/schema.ts";
import { sessionService } from "./session_service.ts";
import { ChainfireState } from "./state/machine.ts";
import { WatchHub } from "./watch/hub.ts";
import { LeaseHub } from "./watch/lease_hub.ts";
import { watchHttp } from "./watch_http.ts";
import { watchService } from "./watch_service.ts";

export type ChainfireOptions =
  & Pick<
    ChainfireConfig,
    | "clusterId"
    | "memberId"
    | "members"
    | "tickMs"
    | "electionTicks"
    | "heartbeatTicks"
    | "stateBytesMax"
    | "historyRevisionsMax"
    | "historyAgeMsMax"
    | "diskBytesFreeMin"
    | "diskReserveBytes"
    | "hashCheckMs"
    | "restoreRevisionBump"
    | "stateDir"
    | "join"
    | "peer"
    | "rpc"
  >
  & { readonly version: string };

export interface ChainfireDeps {
  readonly disk: Disk;
  readonly clock: Clock;
  readonly rng: Rng;
  readonly log: Logger;
  readonly registry: Registry;
  readonly health: Health;
  /** Asked about the keys of leases; the listeners ask it about everything else. */
  readonly authorizer: Authorizer;
  /** Absent for a member that decides alone. */
  readonly transport?: PeerTransport | undefined;
  /** The log or the logic is broken: the process must end at once. */
  readonly onFatal: (error: Error) => void;
}

/** One member of the coordination store. Disposing it makes what was applied durable. */
export interface Chainfire extends AsyncDisposable {
  /** For the client listener. */
  readonly services: readonly BoundService[];
  /** etcd's JSON paths and watches over plain HTTP, for the client listener too. */
  readonly http: HttpHandler;
  /** For the peer listener. */
  readonly peerService: BoundService;
}

/** Everything is in one Raft group. */
const group = 1;

/** A learner this many entries behind has them within a round or two. */
const promotionLagMax = 100;

/**
 * SQLite's own checkpoint syncs while a commit waits; checkpoints that cut the log come often enough. It still bounds
 * the file should those fail: 32 MiB.
 */
const autoCheckpointPages = 8_192;

/** Opens the member's state and log and takes part from then on; it serves before a leader is known. */
export async function createChainfire(options: ChainfireOptions, deps: ChainfireDeps): Promise<Chainfire> {
  const { clusterId, memberId, tickMs, electionTicks, heartbeatTicks, stateDir, version } = options;
  const members = membersOf(options);
  deps.health.set("raft", "starting", "no leader is known");
  await using opened = new AsyncDisposableStack();
  await Deno.mkdir(stateDir, { recursive: true });
  const file = `${stateDir}/state.db`;
  const db = opened.use(openDatabase(file, { incrementalVacuum: true }));
  db.exec(`PRAGMA wal_autocheckpoint=${autoCheckpointPages}`);
  openSchema(db);
  const voters = members.map(({ id }) => id);
  await restoreIfAsked({ stateDir, group, voters, revisionBump: options.restoreRevisionBump }, { ...deps, db });
  const state = new ChainfireState(db, file, (error) => {
    deps.log.error("cannot go on with the state", { error });
    deps.onFatal(error);
  });
  const hub = new WatchHub({ source: state, clock: deps.clock });
  const leaseHub = new LeaseHub({ present: () => state.leases() });
  const waits = new KeyWaits();
  for (const listener of [hub, leaseHub, waits]) state.listen(listener);
  const node = opened.use(
    openReplicaNode({
      clusterId,
      nodeId: memberId,
      dir: `${stateDir}/raft`,
      tickMs,
      electionTicks,
      heartbeatTicks,
      raft: { promotionLagMax, mayPromote: (id) => state.promoting.has(id) },
      clientUrls: (id) => (state.members.get(id) ?? members.find((info) => info.id === id))?.clientUrl,
    }, { ...deps, ...diskTimes(deps.registry) }),
  );
  const admit = (data: Uint8Array) => {
    if (opening.member) return opening.member.admit(data);
    throw fault("unavailable", "group_unknown", `Cannot log for others yet: member ${memberId} is starting`);
  };
  const opening: { member?: Member } = {};
  const raft = await node.openGroup({ group, voters, join: options.join, admit }, state);
  const leaseClock = new LeaseClock({ clock: deps.clock, replicatedMs: () => state.clockMs });
  if (raft.status().role === "leader") leaseClock.restart();
  const member = new Member({
    clusterId,
    memberId,
    version,
    members,
    stateBytesMax: options.stateBytesMax,
    electionTimeoutMs: tickMs * electionTicks,
  }, { ...deps, state, group: raft, leaseClock });
  opening.member = member;
  const membership = new Membership(options.join ? [] : members, { ...deps, transport: deps.transport, member });
  state.listen(membership);
  const peers = { sent: () => deps.transport?.sent() ?? new Map(), received: () => node.received };
  const contests = new Contests(member, { ...deps, waits });
  state.listen(new Metrics({ ...deps, member, hub, waits, peers }));
  const hashWatch = new HashWatch(options, { ...deps, member });
  state.listen(hashWatch);
  const watches = [hashWatch, new SpaceWatch(options, { ...deps, member })];
  opened.use(startHousekeeping(options, { ...deps, member, hub, membership, watches }));
  opened.defer(() => {
    for (const each of [hub, leaseHub]) each.close("the member is stopping");
  });
  const leaseRights = new LeaseRights(member, deps);
  const etcd = etcdGateway({ present: () => member.header(state.revision) });
  const whole = opened.move();
  return {
    services: [
      ...[
        kvService(member, { ...deps, leaseRights }),
        watchService(member, { ...deps, hub }),
        leaseService(member, { ...deps, leaseHub, leaseRights }),
        lockService(member, contests, { leaseRights }),
        electionService(member, contests, { waits, leaseRights }),
        sessionService(member),
        quotaService(member, { hub }),
      ].map((service) => guarded(service, member)),
      clusterService(member, { ...deps, membership }),
      maintenanceService(member, deps),
    ],
    http: (request, peer, calls) => etcd(request, peer, calls) ?? watchHttp(request, peer, calls),
    peerService: node.peerService,
    [Symbol.asyncDispose]: () => whole.disposeAsync(),
  };
}

/** The founding members; a member on its own is its only one. */
function membersOf({ members, memberId, rpc, peer }: ChainfireOptions): readonly MemberInfo[] {
  if (members.length > 0) return members;
  const urlOf = ({ listen, tls }: { readonly listen: string; readonly tls?: unknown }) =>
    listen.startsWith("unix:") ? listen : `http${tls ? "s" : ""}://${listen}`;
  return [{ id: memberId, name: String(memberId), peerUrl: peer ? urlOf(peer) : "", clientUrl: urlOf(rpc) }];
}
