import { type Rng, uniform } from "@ultracloud/base";
import type { RegisterAction, RegisterOperation } from "./history.ts";

/** What makes a history of one register hard to decide. */
export interface Hardness {
  readonly operations: number;
  /** Each has one operation open nearly all the time. */
  readonly clients: number;
  readonly values: number;
  /** Reads, writes and swaps in this proportion. */
  readonly mix: readonly [number, number, number];
  /** Writes and swaps whose outcome nobody hears. */
  readonly lostPercent: number;
  /** Of those, how many take effect at all; half of them long after their client gave up. */
  readonly appliedPercent: number;
  /** Answers that are replaced by wrong ones; mostly there is no order any more. */
  readonly lies: number;
}

function pick<T>(of: readonly T[], seed: number, divisor: number): T {
  return of[Math.floor(seed / divisor) % of.length]!;
}

/** Every combination of what is hard comes up among seeds. */
export function hardnessOf(seed: number): Hardness {
  return {
    operations: 200,
    values: pick([2, 3, 5, 10, 20, 40], seed, 1),
    lostPercent: pick([10, 30, 50, 80], seed, 6),
    clients: pick([5, 10, 20, 40], seed, 24),
    lies: pick([0, 1, 3], seed, 96),
    mix: pick([[1, 1, 1], [2, 1, 1], [1, 1, 3], [1, 3, 1]] as const, seed, 288),
    appliedPercent: pick([50, 100, 10], seed, 1152),
  };
}

/** How long after its call a lost operation may still take effect. */
const lateMsMax = 50_000;

/** What clients of a real register see, of whom some never hear back and some are lied to. */
export function hardHistory(rng: Rng, wanted: Hardness): RegisterOperation[] {
  const { operations, clients, values, mix: [reads, writes, swaps], lostPercent, appliedPercent, lies } = wanted;
  const free = Array.from({ length: clients }, () => uniform(rng, 1_000));
  const planned = Array.from({ length: operations }, (_, i) => {
    const invokedAt = free[i % clients]! + uniform(rng, 100);
    const length = 500 + uniform(rng, 10_000);
    free[i % clients] = invokedAt + length;
    const drawn = uniform(rng, reads + writes + swaps);
    const kind: RegisterAction["kind"] = drawn < reads ? "read" : drawn < reads + writes ? "write" : "cas";
    const lost = kind !== "read" && uniform(rng, 100) < lostPercent;
    const late = lost && uniform(rng, 2) === 0 ? uniform(rng, lateMsMax) : 0;
    return { kind, lost, invokedAt, returnedAt: invokedAt + length, effectAt: invokedAt + uniform(rng, length) + late };
  });
  let value = 0;
  const found = planned.toSorted((a, b) => a.effectAt - b.effectAt).map((plan): RegisterOperation => {
    const { kind, lost, invokedAt } = plan;
    const next = uniform(rng, values), expected = uniform(rng, values);
    const applied = !lost || uniform(rng, 100) < appliedPercent;
    let action: RegisterAction = { kind: "read", value };
    if (kind === "write") {
      action = { kind, value: next };
      if (applied) value = next;
    } else if (kind === "cas") {
      const fits = value === expected;
      action = { kind, expected, value: next, swapped: fits || lost };
      if (fits && applied) value = next;
    }
    return { key: "x", action, invokedAt, returnedAt: lost ? Infinity : plan.returnedAt };
  });
  const answered = found.filter(({ action, returnedAt }) => action.kind !== "write" && returnedAt !== Infinity);
  if (answered.length === 0) return found;
  const wrong = new Set(Array.from({ length: lies }, () => answered[uniform(rng, answered.length)]));
  return found.map((one) => {
    if (!wrong.has(one)) return one;
    const { action } = one;
    return action.kind === "cas"
      ? { ...one, action: { ...action, swapped: !action.swapped } }
      : { ...one, action: { kind: "read", value: uniform(rng, values) } };
  });
}
