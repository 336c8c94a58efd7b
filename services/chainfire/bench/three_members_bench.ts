/**
 * Three members on this machine beside three of etcd: puts at the leader as JSON, puts as binary messages beside etcd's
 * gRPC, and the time from a kill -9 of the leader to the next put that succeeds.
 * `deno task bench chainfire/bench/three_members`, or with arguments: rounds, seconds, kills.
 */
import { fault, systemClock } from "@ultracloud/base";
import { prepareCluster } from "../test_cluster.ts";
import { Etcd } from "./_etcd.ts";
import { binaryPut, drive, driveGrpc, installed, jsonPut, median, row, type Target } from "./_load.ts";

const [rounds, seconds, kills] = [Number(Deno.args[0] ?? 2), Number(Deno.args[1] ?? 3), Number(Deno.args[2] ?? 5)];
const valueBytes = 256;

const missing = ["wrk", "etcd", "h2load"].filter((program) => !installed(program));
if (missing.length > 0) {
  console.log(`left out: not installed: ${missing.join(", ")} (Debian packages wrk, etcd-server, nghttp2-client)`);
  Deno.exit(0);
}

await using cluster = await prepareCluster(3);
await cluster.startAll();
await using etcd = await Etcd.start(3);

async function ours(id: number): Promise<Target> {
  const { url, authorization } = await cluster.address(id);
  return { url, headers: { authorization } };
}

async function theirLeader(): Promise<number> {
  for (let tried = 0; tried < 200; tried++) {
    const found = await etcd.leader();
    if (found >= 0) return found;
    await systemClock.sleep(20);
  }
  throw fault("deadline_exceeded", "no_leader", "etcd has no leader after 4 s");
}

console.log(`three members, ${valueBytes} B values, ${rounds} rounds of ${seconds} s, requests/s at the leader`);
const widths = [34, 11, 11, 8, 8];
console.log(row(["", "chainfire", "etcd", "ratio", "wanted"], widths));
for (const connections of [1, 32, 128]) {
  const [a, b]: [number[], number[]] = [[], []];
  for (let round = 0; round < rounds; round++) {
    const load = { ...jsonPut(valueBytes), connections, seconds };
    a.push((await drive(await ours(await cluster.leader()), load)).perSecond);
    b.push((await drive(etcd.target(await theirLeader()), load)).perSecond);
  }
  const [x, y] = [median(a), median(b)];
  console.log(
    row([`put, JSON, ${connections} connections`, x.toFixed(0), y.toFixed(0), (x / y).toFixed(2), "2.0"], widths),
  );
}
{
  const [a, b]: [number[], number[]] = [[], []];
  for (let round = 0; round < rounds; round++) {
    const load = { ...binaryPut(valueBytes), connections: 128, seconds };
    a.push((await drive(await ours(await cluster.leader()), load)).perSecond);
    const grpc = { connections: 16, streams: 8, seconds, valueBytes };
    b.push(await driveGrpc(etcd.target(await theirLeader()).url, grpc));
  }
  const [x, y] = [median(a), median(b)];
  console.log(
    row(["put, binary / gRPC, 128 in flight", x.toFixed(0), y.toFixed(0), (x / y).toFixed(2), "1.0"], widths),
  );
}

/** Milliseconds from the kill to the next put that succeeds at either of the others. */
async function failover(
  put: (member: number) => Promise<boolean>,
  leader: number,
  members: readonly number[],
  kill: () => Promise<void>,
): Promise<number> {
  const others = members.filter((member) => member !== leader);
  await kill();
  const begin = performance.now();
  for (;;) {
    const done = await Promise.any(others.map(async (member) => {
      if (!await put(member)) throw new Error("refused");
    })).then(() => true, () => false);
    if (done) return performance.now() - begin;
    if (performance.now() - begin > 30_000) throw fault("deadline_exceeded", "no_failover", "No put succeeds");
    await systemClock.sleep(5);
  }
}

const [oursMs, theirsMs]: [number[], number[]] = [[], []];
for (let i = 0; i < kills; i++) {
  const leader = await cluster.leader();
  const targets = new Map(await Promise.all([1, 2, 3].map(async (id) => [id, await ours(id)] as const)));
  const put = async (id: number) => {
    const { url, headers } = targets.get(id)!;
    const response = await fetch(`${url}/v3/kv/put`, {
      method: "POST",
      headers: { "content-type": "application/json", ...headers },
      body: JSON.stringify({ key: "ZmFpbA==", value: "eQ==" }),
      signal: AbortSignal.timeout(1_000),
    });
    await response.body?.cancel();
    return response.ok;
  };
  oursMs.push(await failover(put, leader, [1, 2, 3], () => cluster.kill(leader)));
  await cluster.start(leader);
  const theirs = await theirLeader();
  theirsMs.push(
    await failover((member) => etcd.put(member, "ZmFpbA==", "eQ=="), theirs, [0, 1, 2], () => etcd.kill(theirs)),
  );
  etcd.restart(theirs);
  await systemClock.sleep(2_000);
}
const [x, y] = [median(oursMs), median(theirsMs)];
console.log(
  `failover after kill -9 of the leader, median of ${kills}: chainfire ${x.toFixed(0)} ms, etcd ${y.toFixed(0)} ms, ` +
    `ratio ${(x / y).toFixed(2)} (wanted below 1 000 ms)`,
);
