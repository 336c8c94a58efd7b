/**
 * Five real members under clients, kills, pauses and a proxy that cuts them off; then the verdict.
 * `deno task chainfire:history -- [--seconds 120] [--seed N]`. Exit 1 when the store broke a promise.
 */
import { parseArgs } from "node:util";
import { runHistory } from "./test_history.ts";

const { values } = parseArgs({
  args: Deno.args.filter((arg) => arg !== "--"),
  options: { seconds: { type: "string", default: "120" }, seed: { type: "string", default: "1" } },
});
const [seconds, seed] = [Number(values.seconds), Number(values.seed)];
if (!(seconds > 0 && seconds <= 3_600) || !Number.isSafeInteger(seed)) {
  console.error(`Cannot run for ${values.seconds} s with seed ${values.seed}: wanted 1 to 3600 s and an integer`);
  Deno.exit(2);
}
const begin = performance.now();
const say = (text: string) =>
  console.error(`${((performance.now() - begin) / 1_000).toFixed(1).padStart(6)} s  ${text}`);
const report = await runHistory({ seconds, seed, say });
const faults = Object.entries(report.faults).map(([kind, count]) => `${count} ${kind}`).join(", ");
console.log(
  `${report.operations} operations (${report.unknown} of unknown outcome), ${report.events} events watched, ` +
    `${report.leases} leases ended, faults: ${faults}`,
);
const dir = await Deno.makeTempDir({ prefix: "chainfire-history-" });
for (const [register, log] of Object.entries(report.logs)) await Deno.writeTextFile(`${dir}/${register}.log`, log);
console.log(`the register histories: ${dir}`);
for (const violation of report.violations) console.log(`violation: ${violation}`);
console.log(report.violations.length === 0 ? "linearizable, watches complete, no lease early" : "broken");
Deno.exit(report.violations.length === 0 ? 0 : 1);
