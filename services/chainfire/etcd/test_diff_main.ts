/**
 * `deno task etcd:diff [-- --seed N --requests N]`: the same random requests to a real etcd and to one member of
 * chainfire, answers compared field by field. Exits with 1 when a difference has no rule.
 */
import { systemRng } from "@ultracloud/base";
import { parseArgs } from "node:util";
import { describe } from "./test_compare.ts";
import { compareOnce } from "./test_compare_once.ts";
import { whyNoEtcd } from "./test_etcd.ts";

const { values } = parseArgs({
  args: Deno.args.filter((arg) => arg !== "--"),
  options: { seed: { type: "string" }, requests: { type: "string", default: "5000" } },
});
const seed = values.seed === undefined ? systemRng.uint32() : Number(values.seed);
const requests = Number(values.requests);
if (!Number.isSafeInteger(seed) || seed < 0 || !Number.isSafeInteger(requests) || requests < 1) {
  console.error("error: Cannot read the arguments: wanted --seed N and --requests N, both whole numbers");
  Deno.exit(2);
}
const why = await whyNoEtcd();
if (why !== undefined) {
  console.error(`error: Cannot compare: ${why}`);
  Deno.exit(2);
}
const repeat = `repeat with: deno task etcd:diff -- --seed ${seed} --requests ${requests}`;
try {
  const comparison = await compareOnce({ seed, requests });
  console.log(describe(comparison, seed));
  if (comparison.unexplained.length > 0) {
    console.log(repeat);
    Deno.exit(1);
  }
} catch (error) {
  // One of the two did not answer as both must: which one stands in the message.
  console.error(`error: ${error instanceof Error ? error.message : error}`);
  console.log(repeat);
  Deno.exit(1);
}
