import { emptyConfiguration } from "../core/configuration.ts";
import type { RaftCore } from "../core/raft.ts";
import type { NodeId } from "../core/types.ts";
import type { DriverStatus } from "./types.ts";

/** What a replica says of itself, also before it takes part. */
export function statusOf(core: RaftCore | undefined, id: NodeId, ticks: number): DriverStatus {
  const configuration = core?.configuration ?? emptyConfiguration;
  return {
    id,
    role: core?.role ?? "follower",
    term: core?.term ?? 0,
    leader: core?.leader ?? 0,
    commitIndex: core?.commitIndex ?? 0,
    appliedIndex: core?.appliedIndex ?? 0,
    firstIndex: core?.firstIndex ?? 0,
    lastIndex: core?.lastIndex ?? 0,
    voters: configuration.voters,
    learners: configuration.learners,
    configuration,
    ...(core?.role === "leader" ? { progress: new Map(core.peers().map((peer) => [peer.id, peer])) } : {}),
    contactTicks: core?.contactTicks ?? ticks,
  };
}
