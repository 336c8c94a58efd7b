/** What a rollout may look like to whoever decides about it; see `decide`. */
export interface RolloutSpec {
  readonly batchSize: number;
  readonly maxUnavailable: number;
  readonly healthyMsMin: number;
  readonly failuresMax: number;
  readonly paused: boolean;
}

export interface RolloutMember {
  readonly name: string;
  readonly pool: string | undefined;
  /** What it should become; undefined when nothing says so. */
  readonly desiredIntent: string | undefined;
  readonly offeredIntent: string | undefined;
  /** What its agent said last; undefined when it never did. */
  readonly observed: { readonly intent: string; readonly state: string; readonly sinceMs: number } | undefined;
  readonly reachable: boolean;
  readonly quarantined: boolean;
}

/** What people have decided about it; belongs to one set of intents and is forgotten with it. */
export interface RolloutOrders {
  readonly paused: boolean;
  readonly aborted: boolean;
  /** Failures that somebody has looked at and gone on from. */
  readonly failuresAccepted: number;
}

export type Phase =
  | "waiting"
  | "offered"
  | "active"
  | "rolled-back"
  | "failed"
  | "unreachable"
  | "quarantined"
  | "undesired";

export interface Decision {
  readonly state: "done" | "running" | "paused" | "halted" | "aborted";
  readonly reason: string;
  /** Nodes that are offered what they should become, from now on. */
  readonly offer: readonly string[];
  readonly phases: ReadonlyMap<string, Phase>;
}

export function phaseOf(member: RolloutMember): Phase {
  const { desiredIntent, offeredIntent, observed } = member;
  if (desiredIntent === undefined) return "undesired";
  if (observed?.intent === desiredIntent) {
    if (observed.state === "active") return member.reachable ? "active" : "unreachable";
    if (observed.state === "rolled-back" || observed.state === "failed") return observed.state;
  }
  if (member.quarantined) return "quarantined";
  if (offeredIntent === desiredIntent) return member.reachable ? "offered" : "unreachable";
  return "waiting";
}

/**
 * Which nodes may change now. Batches are strict: the next begins when every node of the one before is active and has
 * been so for long enough. Never are more than `maxUnavailable` nodes in change, failed or silent at once, and no pool
 * goes below what must stay up. A node that never reported is not offered anything: there is nobody to take it.
 */
export function decide(
  spec: RolloutSpec,
  orders: RolloutOrders,
  members: readonly RolloutMember[],
  readyMin: ReadonlyMap<string, number>,
  nowMs: number,
): Decision {
  const phases = new Map(members.map((member) => [member.name, phaseOf(member)]));
  const count = (...wanted: Phase[]) => [...phases.values()].filter((phase) => wanted.includes(phase)).length;
  const none = (state: Decision["state"], reason: string): Decision => ({ state, reason, offer: [], phases });
  const failures = count("rolled-back", "failed");
  if (orders.aborted) return none("aborted", `given up with ${count("active")} of ${members.length} nodes active`);
  if (failures - orders.failuresAccepted > spec.failuresMax) {
    return none("halted", `${failures} nodes failed, more than ${spec.failuresMax + orders.failuresAccepted}`);
  }
  if (spec.paused || orders.paused) return none("paused", spec.paused ? "the cluster state says so" : "by an operator");
  const waiting = members.filter(({ name }) => phases.get(name) === "waiting");
  const inChange = count("offered");
  if (waiting.length === 0 && inChange === 0) {
    const left = count("rolled-back", "failed", "unreachable", "quarantined");
    return left === 0 ? none("done", "") : none("running", `${left} nodes are not active`);
  }
  if (inChange > 0) return none("running", `${inChange} nodes are changing`);
  const settlesMs = Math.max(
    0,
    ...members.filter(({ name }) => phases.get(name) === "active").map(({ observed }) =>
      observed!.sinceMs + spec.healthyMsMin
    ),
  );
  if (settlesMs > nowMs) return none("running", "the last batch has not been healthy for long enough");
  const { offer, reason } = nextBatch(spec, waiting, members, readyMin);
  return { state: "running", reason, offer, phases };
}

function nextBatch(
  spec: RolloutSpec,
  waiting: readonly RolloutMember[],
  members: readonly RolloutMember[],
  readyMin: ReadonlyMap<string, number>,
): { offer: string[]; reason: string } {
  const down = new Set(members.filter((m) => m.observed !== undefined && isDown(m)).map(({ name }) => name));
  const full = `${down.size} nodes are unavailable, and at most ${spec.maxUnavailable} may be`;
  const up = new Map<string, number>();
  for (const member of members) {
    if (member.pool === undefined || member.observed === undefined || isDown(member)) continue;
    up.set(member.pool, (up.get(member.pool) ?? 0) + 1);
  }
  const offer: string[] = [];
  let unavailable = down.size;
  let reason = "";
  // What has failed comes first: it may be what the change repairs, and it takes nobody else down.
  const failedFirst = [...waiting].sort((a, b) => Number(down.has(b.name)) - Number(down.has(a.name)));
  for (const member of failedFirst) {
    if (offer.length === spec.batchSize) break;
    if (member.observed === undefined) {
      reason ||= `${member.name} has never reported`;
    } else if (!member.reachable) {
      reason ||= `${member.name} is silent${unavailable >= spec.maxUnavailable ? `; ${full}` : ""}`;
    } else if (down.has(member.name)) {
      offer.push(member.name);
    } else if (unavailable >= spec.maxUnavailable) {
      reason ||= full;
    } else if (member.pool !== undefined && (up.get(member.pool) ?? 0) <= (readyMin.get(member.pool) ?? 0)) {
      reason ||= `the pool ${member.pool} would go below ${readyMin.get(member.pool)}`;
    } else {
      if (member.pool !== undefined) up.set(member.pool, up.get(member.pool)! - 1);
      offer.push(member.name);
      unavailable++;
    }
  }
  return { offer, reason: offer.length > 0 ? "" : reason };
}

function isDown(member: RolloutMember): boolean {
  return !member.reachable || member.observed?.state === "failed";
}
