import { type Rng, seededRng, uniform } from "@ultracloud/base";
import { checkLinearizable, type RegisterAction, type RegisterOperation } from "./history.ts";

/** Clients that each have one operation open nearly all the time, on a register of few values. */
function history(rng: Rng, o: { readonly values: number; readonly lostPercent: number; readonly spoilt: boolean }) {
  const clients = 40, operations = 200;
  const free = Array.from({ length: clients }, () => uniform(rng, 1_000));
  const planned = Array.from({ length: operations }, (_, i) => {
    const invokedAt = free[i % clients]! + uniform(rng, 100);
    const length = 500 + uniform(rng, 10_000);
    free[i % clients] = invokedAt + length;
    return { invokedAt, returnedAt: invokedAt + length, effectAt: invokedAt + uniform(rng, length) };
  });
  let value = 0;
  const found: RegisterOperation[] = [];
  for (const { invokedAt, returnedAt } of planned.toSorted((a, b) => a.effectAt - b.effectAt)) {
    const kind = uniform(rng, 3), next = uniform(rng, o.values), expected = uniform(rng, o.values);
    const lost = kind !== 0 && uniform(rng, 100) < o.lostPercent;
    let action: RegisterAction;
    if (kind === 0) action = { kind: "read", value };
    else if (kind === 1) action = { kind: "write", value: value = next };
    else {
      const swapped = value === expected;
      if (swapped) value = next;
      action = { kind: "cas", expected, value: next, swapped: swapped || lost };
    }
    found.push({ key: "x", action, invokedAt, returnedAt: lost ? Infinity : returnedAt });
  }
  if (!o.spoilt) return found;
  // Swaps that say the opposite: mostly there is no order any more.
  const swaps = found.filter(({ action, returnedAt }) => action.kind === "cas" && returnedAt !== Infinity);
  const lies = new Set(Array.from({ length: 3 }, () => swaps[uniform(rng, swaps.length)]));
  return found.map((one) =>
    lies.has(one) && one.action.kind === "cas"
      ? { ...one, action: { ...one.action, swapped: !one.action.swapped } }
      : one
  );
}

/** What took longer is named. */
const slowMs = 5_000;
const tookMs: number[] = [];
const verdicts = { linearizable: 0, not: 0 };
for (let seed = 0; seed < 64; seed++) {
  const values = [3, 5, 10, 20][seed % 4]!, lostPercent = [0, 10, 30, 60][(seed >> 2) % 4]!;
  const operations = history(seededRng(seed), { values, lostPercent, spoilt: seed % 3 > 0 });
  const startMs = performance.now();
  verdicts[checkLinearizable(operations).length === 0 ? "linearizable" : "not"]++;
  tookMs.push(performance.now() - startMs);
  if (tookMs.at(-1)! > slowMs) {
    console.log(`seed ${seed}: ${values} values, ${lostPercent} % lost: ${tookMs.at(-1)!.toFixed(0)} ms`);
  }
}
tookMs.sort((a, b) => a - b);
console.log(
  `${tookMs.length} histories of 200 operations and 40 clients: ${verdicts.linearizable} linearizable, ${verdicts.not} not; ` +
    `median ${tookMs[tookMs.length >> 1]!.toFixed(0)} ms, slowest ${tookMs.at(-1)!.toFixed(0)} ms`,
);
