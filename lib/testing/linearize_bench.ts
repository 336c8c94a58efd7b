/**
 * How long the checker takes for hard histories of 200 operations: many clients at a time, many lost answers, few and
 * many values, true ones and such with lies in them. `deno task bench linearize`, or with arguments: how many, first seed.
 */
import { seededRng } from "@ultracloud/base";
import process from "node:process";
import { hardHistory, hardnessOf } from "./_hard_histories.ts";
import { checkLinearizable } from "./history.ts";

const [count, first] = [Number(Deno.args[0] ?? 2_304), Number(Deno.args[1] ?? 0)];
/** What took longer is named. */
const slowMs = 2_000;
const tookMs: { readonly seed: number; readonly ms: number }[] = [];
const verdicts = { linearizable: 0, not: 0 };
let open = 0;
for (let seed = first; seed < first + count; seed++) {
  const history = hardHistory(seededRng(seed), hardnessOf(seed));
  open += history.filter(({ returnedAt }) => returnedAt === Infinity).length;
  // Of processor: the machine may be busy with others.
  const startUs = process.cpuUsage().user;
  verdicts[checkLinearizable(history).length === 0 ? "linearizable" : "not"]++;
  const ms = (process.cpuUsage().user - startUs) / 1_000;
  tookMs.push({ seed, ms });
  if (ms > slowMs) console.log(`seed ${seed}: ${ms.toFixed(0)} ms: ${JSON.stringify(hardnessOf(seed))}`);
}
tookMs.sort((a, b) => a.ms - b.ms);
const at = (share: number) => tookMs[Math.min(count - 1, Math.floor(share * count))]!.ms.toFixed(0);
console.log(
  `${count} histories of 200 operations, ${(open / count).toFixed(0)} open in the middle: ` +
    `${verdicts.linearizable} linearizable, ${verdicts.not} not; processor time median ${at(0.5)} ms, 99 % ${
      at(0.99)
    } ms, ` +
    `slowest ${at(1)} ms (seed ${tookMs.at(-1)!.seed})`,
);
