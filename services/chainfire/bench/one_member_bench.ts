/**
 * One member beside etcd's JSON gateway: the same bodies to the same paths, wrk as the client of both, both sync their
 * log before they answer. Rounds alternate between the two; what is printed is the median and, for each, the spread.
 * `deno task bench chainfire/bench/one_member`, or with arguments: rounds, seconds.
 */
import { prepareCluster } from "../test_cluster.ts";
import { Etcd } from "./_etcd.ts";
import { drive, installed, jsonPut, jsonRange, type Load, median, residentMb, row, type Target } from "./_load.ts";

const [rounds, seconds] = [Number(Deno.args[0] ?? 3), Number(Deno.args[1] ?? 3)];
const valueBytes = 256;

const missing = ["wrk", "etcd"].filter((program) => !installed(program));
if (missing.length > 0) {
  console.log(`left out: not installed: ${missing.join(", ")} (Debian packages wrk, etcd-server)`);
  Deno.exit(0);
}

await using cluster = await prepareCluster(1);
await cluster.startAll();
await cluster.leader();
await using etcd = await Etcd.start(1);

const ours = async (): Promise<Target> => {
  const { url, authorization } = await cluster.address(1);
  return { url, headers: { authorization } };
};

const measures: readonly { name: string; load: Omit<Load, "seconds">; wanted: number }[] = [
  ...[[1, 1.1], [32, 2], [128, 3]].map(([connections, wanted]) => ({
    name: `put, ${connections} connections`,
    load: { ...jsonPut(valueBytes), connections: connections! },
    wanted: wanted!,
  })),
  ...[1, 32, 128].map((connections) => ({
    name: `range, linearizable, ${connections}`,
    load: { ...jsonRange(false), connections },
    wanted: 5,
  })),
  { name: "range, serializable, 32", load: { ...jsonRange(true), connections: 32 }, wanted: 5 },
];

console.log(`one member, ${valueBytes} B values, JSON over HTTP/1.1, ${rounds} rounds of ${seconds} s, requests/s`);
const widths = [28, 11, 11, 8, 8, 16, 16];
console.log(row(["", "chainfire", "etcd", "ratio", "wanted", "p99 chainfire", "p99 etcd"], widths));
// Both hold every key before the first round, and both are warm.
const warm = { ...jsonPut(valueBytes), connections: 64, seconds: 2 };
await drive(await ours(), warm);
await drive(etcd.target(0), warm);

for (const { name, load, wanted } of measures) {
  const seen = { ours: [] as number[], theirs: [] as number[], oursP99: [] as number[], theirsP99: [] as number[] };
  for (let round = 0; round < rounds; round++) {
    const a = await drive(await ours(), { ...load, seconds });
    const b = await drive(etcd.target(0), { ...load, seconds });
    seen.ours.push(a.perSecond);
    seen.theirs.push(b.perSecond);
    seen.oursP99.push(a.p99Ms);
    seen.theirsP99.push(b.p99Ms);
  }
  const [a, b] = [median(seen.ours), median(seen.theirs)];
  console.log(row([
    name,
    a.toFixed(0),
    b.toFixed(0),
    (a / b).toFixed(2),
    wanted.toFixed(1),
    `${median(seen.oursP99).toFixed(1)} ms`,
    `${median(seen.theirsP99).toFixed(1)} ms`,
  ], widths));
}

/** Puts and calls of fdatasync on the log during them, counted by the kernel where strace may look. */
async function proveSyncs(name: string, pid: number, target: Target): Promise<void> {
  const trace = new Deno.Command("strace", {
    args: ["-f", "-c", "-e", "trace=fdatasync,fsync", "-p", String(pid)],
    stdout: "null",
    stderr: "piped",
  }).spawn();
  const text = new Response(trace.stderr).text();
  await new Promise((resolve) => setTimeout(resolve, 500));
  const { requests } = await drive(target, { ...jsonPut(valueBytes), connections: 32, seconds: 2 });
  trace.kill("SIGINT");
  await trace.status;
  const calls = [...(await text).matchAll(/\s(\d+)\s+(?:\d+\s+)?(?:fdatasync|fsync)$/gm)]
    .reduce((sum, found) => sum + Number(found[1]), 0);
  const each = calls > 0 ? `${(requests / calls).toFixed(1)} puts each` : "strace saw none: not proven here";
  console.log(`${name}: ${requests} puts, ${calls} calls of fdatasync or fsync (${each})`);
}
if (installed("strace")) {
  await proveSyncs("chainfire", cluster.pid(1), await ours());
  await proveSyncs("etcd", etcd.pids[0]!, etcd.target(0));
} else {
  console.log("left out: strace is not installed, so calls of fdatasync are not counted");
}
console.log(
  `resident memory after the run: chainfire ${residentMb(cluster.pid(1)).toFixed(0)} MB, etcd ${
    residentMb(etcd.pids[0]!).toFixed(0)
  } MB`,
);
