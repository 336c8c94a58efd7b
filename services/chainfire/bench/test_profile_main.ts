/**
 * Where the time of members goes under a load: self time by part and by function, of the leader and of a follower.
 * `deno run -A services/chainfire/bench/test_profile_main.ts <members> <put|range> <connections> [seconds]`
 */
import { describeProfile, profileDuring } from "@ultracloud/testing";
import { prepareCluster } from "../test_cluster.ts";
import { drive, jsonPut, jsonRange } from "./_load.ts";

const [members, kind, connections, seconds] = [
  Number(Deno.args[0] ?? 3),
  Deno.args[1] ?? "put",
  Number(Deno.args[2] ?? 32),
  Number(Deno.args[3] ?? 5),
];

await using cluster = await prepareCluster(members, {}, { entry: "bench/test_profiled_main.ts", unpinned: true });
await cluster.startAll();
const leader = await cluster.leader();
const { url, authorization } = await cluster.address(leader);
const target = { url, headers: { authorization } };
const load = kind === "range" ? jsonRange(false) : jsonPut(256);
await drive(target, { ...jsonPut(256), connections: 64, seconds: 2 });
const watched = [leader, ...[1, 2, 3].filter((id) => id !== leader && id <= members).slice(0, 1)];
const dirs = watched.map((id) => cluster.stateDir(id));
let seen: Awaited<ReturnType<typeof drive>> | undefined;
const profiles = await profileDuring(dirs, async () => {
  seen = await drive(target, { ...load, connections, seconds });
});
const { perSecond, p50Ms, p99Ms } = seen!;
console.log(
  `${members} members, ${kind}, ${connections} connections: ${perSecond.toFixed(0)}/s while being profiled, ` +
    `p50 ${p50Ms} ms, p99 ${p99Ms} ms; load of the machine ${Deno.loadavg()[0]!.toFixed(1)}`,
);
for (const [i, profile] of profiles.entries()) console.log(describeProfile(i === 0 ? "leader" : "follower", profile));
