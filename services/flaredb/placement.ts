import type { Group } from "@ultracloud/replica";
import type { OpenDatabase } from "./databases.ts";

/** Entries that a newcomer may lag behind and still be given its vote. */
const lagMax = 1_000;

/** Who is to hold a database: members that vote, and members that only learn. */
export interface Wanted {
  readonly replicas: readonly number[];
  readonly learners: readonly number[];
}

/**
 * One step of a group towards having exactly the wanted members, if this replica leads it; true when it is there.
 * Newcomers learn first and vote once they have caught up; only then do others go, so that the number of copies never
 * falls below what it was. Every step may be repeated, and the next leader goes on where this one stopped.
 */
export async function stepPlacement(group: Group, wanted: Wanted, memberId: number): Promise<boolean> {
  const { role, configuration, progress, lastIndex } = group.status();
  if (role !== "leader" || configuration.votersOutgoing.length > 0) return false;
  const voters = new Set(configuration.voters);
  const learners = new Set(configuration.learners);
  const change = async (type: "add_learner" | "add_voter" | "remove", id: number) => {
    await group.changeConfiguration({ steps: [{ type, id }] });
    return false;
  };
  const missing = wanted.replicas.filter((id) => !voters.has(id));
  const newcomer = [...missing, ...wanted.learners].find((id) => !learners.has(id) && !voters.has(id));
  if (newcomer !== undefined) return await change("add_learner", newcomer);
  const ready = missing.find((id) => (progress?.get(id)?.match ?? 0) + lagMax >= lastIndex);
  if (ready !== undefined) return await change("add_voter", ready);
  if (missing.length > 0) return false;
  if (!wanted.replicas.includes(memberId)) {
    const heir = wanted.replicas.find((id) => progress?.get(id)?.recentlyActive) ?? wanted.replicas[0]!;
    group.transferLeader(heir);
    return false;
  }
  // A voter that is to learn from now on.
  const demoted = wanted.learners.find((id) => voters.has(id));
  if (demoted !== undefined) return await change("add_learner", demoted);
  const stays = new Set([...wanted.replicas, ...wanted.learners]);
  const surplus = [...voters, ...learners].find((id) => !stays.has(id));
  return surplus === undefined ? true : await change("remove", surplus);
}

/**
 * A group this replica should hand over, and to whom: when its own content was found to differ from that of most, or
 * when it leads more than its share of those it holds. Nobody whose content differs is handed anything.
 */
export function misplacedLeader(
  databases: readonly OpenDatabase[],
  memberId: number,
): { readonly group: Group; readonly to: number } | undefined {
  const led = new Map<number, number>();
  for (const { group } of databases) {
    const { leader, voters } = group.status();
    for (const id of voters) led.set(id, (led.get(id) ?? 0) + (id === leader ? 1 : 0));
  }
  const mine = led.get(memberId) ?? 0;
  const unfitFirst = [...databases].sort((a, b) => Number(b.machine.diverged) - Number(a.machine.diverged));
  for (const { group, machine } of unfitFirst) {
    const { role, voters, progress, lastIndex } = group.status();
    if (role !== "leader") continue;
    // Two apart at least: handing one over then makes it even, and nobody hands it back.
    const poorer = voters.filter((id) => id !== memberId && (machine.diverged || (led.get(id) ?? 0) <= mine - 2));
    if (poorer.length === 0) continue;
    const verdict = machine.parts.check.verdict();
    const unfit = new Set(verdict.kind === "agreed" ? verdict.differ : []);
    const to = poorer.filter((id) => !unfit.has(id)).sort((a, b) => led.get(a)! - led.get(b)!).find((id) => {
      const peer = progress?.get(id);
      return peer !== undefined && peer.recentlyActive && peer.match + lagMax >= lastIndex;
    });
    if (to !== undefined) return { group, to };
  }
  return undefined;
}
