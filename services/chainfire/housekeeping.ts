import type { Clock } from "@ultracloud/base";
import type { Health, Logger, Registry } from "@ultracloud/observe";
import { leaseCheckMs, leaseClockSaveMs } from "./domain/limits.ts";
import type { Membership } from "./membership.ts";
import type { Member } from "./member.ts";
import { RevisionAges } from "./domain/revision_ages.ts";
import type { WatchHub } from "./watch/hub.ts";

/** Size and metrics are looked at every so many rounds. */
const roundsPerLook = 10;
/** Steps of sweeping in one round: together some ten milliseconds. */
const sweepsPerRound = 4;

export interface HousekeepingDeps {
  readonly member: Member;
  readonly hub: WatchHub;
  readonly membership: Membership;
  /** Asked in every round. */
  readonly watches: readonly { look(): void }[];
  readonly clock: Clock;
  readonly health: Health;
  readonly registry: Registry;
  readonly log: Logger;
}

/**
 * What goes on beside calls: the leader ends leases and compacts, every member sweeps and says how it is. Runs until
 * disposed.
 */
export function startHousekeeping(
  options: { readonly historyRevisionsMax: number; readonly historyAgeMsMax: number },
  deps: HousekeepingDeps,
): AsyncDisposable {
  const { member, hub, membership, clock, health, registry, log } = deps;
  const { state, group, leaseClock } = member;
  const stop = new AbortController();
  const gauges = {
    revision: registry.gauge("chainfire_mvcc_revision", "Newest revision"),
    compacted: registry.gauge("chainfire_mvcc_compact_revision", "Oldest revision that can be read"),
    bytes: registry.gauge("chainfire_state_bytes", "Size of the state in use"),
    watches: registry.gauge("chainfire_watches", "Open watches"),
  };
  const ages = new RevisionAges(options.historyAgeMsMax);
  let proposing: Promise<void> | undefined;
  let sweeping = true;

  const stopWatching = group.onRoleChange((status) => {
    if (status.role === "leader") leaseClock.restart();
    look();
  });

  const look = () => {
    const { leader } = group.status();
    if (leader === 0) health.set("raft", "starting", "no leader is known");
    else health.set("raft", "ready");
    member.stateBytes = state.bytes();
    const full = member.stateBytes.used >= member.options.stateBytesMax;
    if (full) health.set("space", "degraded", "the state is as large as it may be: writes are refused");
    else if (member.diskLow) health.set("space", "degraded", "the disk is full: writes are refused");
    else if (state.hasAlarm("no_space")) health.set("space", "degraded", "the alarm NOSPACE is raised");
    else health.set("space", "ready");
    if (member.isCorrupt) health.set("state", "stopping", "it differs from the other members': nothing is served");
    else health.set("state", "ready");
    gauges.revision.set(state.revision);
    gauges.compacted.set(state.compactRevision);
    gauges.bytes.set(member.stateBytes.used);
    gauges.watches.set(hub.watches);
  };

  const lead = () => {
    const nowMs = leaseClock.nowMs();
    if (proposing || group.status().role !== "leader") return;
    const deadlineMs = state.nextDeadlineMs();
    const keep = options.historyRevisionsMax;
    if (deadlineMs !== undefined && (deadlineMs <= nowMs || nowMs - state.clockMs >= leaseClockSaveMs)) {
      proposing = propose(member.proposeLeading({ kind: "expire" }));
    } else if (keep > 0 && state.revision - Math.max(1, state.compactRevision) >= 2 * keep) {
      proposing = propose(member.proposeLeading({ kind: "compact", revision: state.revision - keep }));
    } else {
      const revision = ages.due(clock.monotonicMs(), state.revision);
      if (revision > state.compactRevision) proposing = propose(member.proposeLeading({ kind: "compact", revision }));
    }
  };
  const propose = async (work: Promise<unknown>) => {
    try {
      await work;
    } catch (error) {
      // Another leader does it, or the next round.
      log.debug("housekeeping was refused", { error });
    } finally {
      proposing = undefined;
    }
  };

  const sweep = () => {
    for (let i = 0; i < sweepsPerRound && sweeping; i++) sweeping = state.sweep();
  };

  const run = async () => {
    let compacted = state.compactRevision;
    for (let round = 0; !stop.signal.aborted; round++) {
      if (round % roundsPerLook === 0) {
        look();
        membership.tidy().catch((error) => log.debug("the table of members waits", { error }));
      }
      for (const each of deps.watches) each.look();
      lead();
      if (state.compactRevision !== compacted) sweeping = true;
      compacted = state.compactRevision;
      sweep();
      hub.progress();
      await clock.sleep(leaseCheckMs, stop.signal).catch(() => {});
    }
  };
  const running = run();
  return {
    async [Symbol.asyncDispose]() {
      stop.abort();
      stopWatching();
      await running;
    },
  };
}
