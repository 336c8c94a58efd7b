import { Fault, systemClock } from "@ultracloud/base";
import { Consistency, type Member } from "@ultracloud/proto/chainfire/v1";
import assert from "node:assert/strict";
import { all, b, eventually, patiently, quick, rejects, text } from "./_test_support.ts";
import { prepareCluster, type TestCluster } from "./test_cluster.ts";

/** Members that run now; clients of all would also ask those that have left. */
const anyRunning = (cluster: TestCluster) => cluster.clients(...cluster.running());

const plain = (members: readonly Member[]) =>
  members.map(({ id, name, peerUrl, clientUrl }) => ({ id: Number(id), name, peerUrl, clientUrl }));

/** One client that writes without end, each key once under its session, and measures how long it had to wait. */
class Writer {
  readonly acknowledged = new Map<string, bigint>();
  stallMsMax = 0;
  #done = false;
  readonly #running: Promise<void>;

  constructor(cluster: TestCluster) {
    this.#running = this.#run(cluster);
  }

  async #run(cluster: TestCluster): Promise<void> {
    const { sessionId } = await patiently(() => anyRunning(cluster).sessions.openSession({}));
    let last = performance.now();
    let known = "";
    let { kv } = anyRunning(cluster);
    for (let i = 1; !this.#done; i++) {
      const key = `w/${String(i).padStart(7, "0")}`;
      const session = { sessionId, sequence: BigInt(i), answeredBelow: BigInt(i) };
      const answer = await patiently(() => {
        // Members come and go: ask those that run.
        const running = cluster.running().join();
        if (running !== known) ({ kv } = anyRunning(cluster));
        known = running;
        return kv.put({ key: b(key), value: b(key), session }, { timeoutMs: 1_000 }).catch((error) => {
          // Under a session even a write with unknown outcome may be repeated.
          throw error instanceof Fault && error.kind === "deadline_exceeded"
            ? new Fault("unavailable", "late", error.message)
            : error;
        });
      });
      this.acknowledged.set(key, answer.header!.revision);
      const now = performance.now();
      this.stallMsMax = Math.max(this.stallMsMax, now - last);
      last = now;
    }
  }

  async written(more: number): Promise<void> {
    const wanted = this.acknowledged.size + more;
    await Promise.race([eventually(() => this.acknowledged.size >= wanted), this.#running]);
  }

  async stop(): Promise<void> {
    this.#done = true;
    await this.#running;
  }
}

/** A watch that goes on at another member where the one before ended; every event with its revision. */
class Follower {
  readonly seen: { readonly key: string; readonly revision: bigint }[] = [];
  breaks = 0;
  readonly #stop = new AbortController();
  readonly #running: Promise<void>;

  constructor(cluster: TestCluster) {
    this.#running = this.#run(cluster);
  }

  async #run(cluster: TestCluster): Promise<void> {
    let next = 1n;
    for (let turn = 0; !this.#stop.signal.aborted; turn++) {
      const running = cluster.running();
      const { watches } = cluster.clients(running[turn % running.length]!);
      const watch = { watchId: 1n, key: b("w/"), rangeEnd: b("w0"), startRevision: next };
      try {
        const stream = watches.watch({ watches: [watch], progressIntervalMs: 500 }, { signal: this.#stop.signal });
        for await (const { events, cancelled } of stream) {
          if (cancelled) break;
          for (const { kv } of events) {
            this.seen.push({ key: text(kv!.key), revision: kv!.modRevision });
            next = kv!.modRevision + 1n;
          }
        }
      } catch (error) {
        if (!(error instanceof Fault)) throw error;
      }
      this.breaks++;
      await systemClock.sleep(20);
    }
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#running;
  }
}

/** Asks the leader, whoever that is by then. */
async function atLeader<T>(
  cluster: TestCluster,
  work: (clients: ReturnType<TestCluster["clients"]>) => Promise<T>,
): Promise<T> {
  return await patiently(async () => await work(cluster.clients(await cluster.leader(30_000))));
}

async function leave(cluster: TestCluster, id: number): Promise<void> {
  await atLeader(cluster, ({ cluster }) => cluster.memberRemove({ id: BigInt(id) }));
  await cluster.kill(id);
}

/** Adds a voter and waits until it has everything. */
async function join(cluster: TestCluster, isLearner = false): Promise<number> {
  const { member, members } = await atLeader(
    cluster,
    (leader) => leader.cluster.memberAdd({ ...cluster.spare(), isLearner }),
  );
  const id = Number(member!.id);
  await cluster.join(id, plain(members));
  const target = (await cluster.clients(await cluster.leader(30_000)).cluster.status({})).appliedIndex;
  await eventually(async () => (await cluster.clients(id).cluster.status({})).appliedIndex >= target);
  return id;
}

Deno.test("members come, go and are replaced under a writer: nothing acknowledged is lost, no watch has a gap", async () => {
  await using cluster = await prepareCluster(1, quick, { spares: 7 });
  await cluster.startAll();
  const bulk = cluster.clients(1).kv;
  let next = 0;
  // Longer than the log is kept: whoever joins now needs a snapshot.
  await Promise.all(Array.from({ length: 128 }, async () => {
    while (next < 25_000) await bulk.put({ key: b(`bulk/${next++ % 500}`), value: b("x") });
  }));
  const writer = new Writer(cluster);
  const follower = new Follower(cluster);
  await using _ending = {
    async [Symbol.asyncDispose]() {
      await Promise.allSettled([writer.stop(), follower.stop()]);
    },
  };
  await writer.written(20);

  // 1 -> 2: a learner catches up by a snapshot, serves its own copy and nothing else, and is promoted.
  const second = await join(cluster, true);
  assert.match(await cluster.log(second), /restored a snapshot/);
  const local = cluster.clients(second);
  assert.equal((await local.cluster.status({})).isLearner, true);
  await rejects(local.kv.range({ key: b("bulk/0") }), "unavailable", "learner");
  const copy = await local.kv.range({ key: b("bulk/0"), consistency: Consistency.SERIALIZABLE });
  assert.equal(copy.count, 1n);
  await cluster.clients(1).cluster.memberPromote({ id: BigInt(second) });
  await eventually(async () => !(await local.cluster.status({})).isLearner);
  await writer.written(20);

  // 3, then leadership moves and the new leader is removed: the others elect.
  const third = await join(cluster);
  await cluster.clients(1).cluster.leaderTransfer({ target: BigInt(third) });
  assert.equal(await cluster.leader(), third);
  await leave(cluster, third);
  await eventually(async () => await cluster.leader(30_000) !== third, "the others must elect another leader");
  await writer.written(20);

  // Removed and back again: under another id, ids are never used twice.
  const back = await join(cluster);
  assert.ok(back > third);
  await writer.written(20);

  // One for another in one joint step.
  const replaced = (await cluster.leader()) === 1 ? second : 1;
  const spare = cluster.spare();
  const { member, members } = await atLeader(
    cluster,
    (leader) => leader.cluster.memberReplace({ id: BigInt(replaced), ...spare }),
  );
  await cluster.kill(replaced);
  const fresh = Number(member!.id);
  assert.deepEqual(members.map(({ id }) => Number(id)).includes(replaced), false);
  await cluster.join(fresh, plain(members));
  await writer.written(20);

  // What would cost the quorum is refused.
  const leader = await cluster.leader(30_000);
  const [down, other] = cluster.running().filter((id) => id !== leader);
  await cluster.kill(down!);
  const { cluster: atTheLeader } = cluster.clients(leader);
  await eventually(async () =>
    (await atTheLeader.status({})).progress.some(({ memberId, recentlyActive }) =>
      memberId === BigInt(down!) && !recentlyActive
    )
  );
  await rejects(atTheLeader.memberRemove({ id: BigInt(other!) }), "failed_precondition", "unsafe_change");
  await cluster.start(down!);
  await writer.written(20);

  // 3 -> 5 -> 3, the leader among those that go.
  await join(cluster);
  await join(cluster);
  assert.equal(cluster.running().length, 5);
  await writer.written(20);
  const goes = await cluster.leader();
  await leave(cluster, goes);
  const next1 = cluster.running().find((id) => id !== goes)!;
  await eventually(async () => await cluster.leader(30_000) !== goes, "the others must elect another leader");
  await leave(cluster, next1);
  await writer.written(50);
  await writer.stop();

  const { members: left } = await atLeader(cluster, (leader) => leader.cluster.memberList({}));
  assert.deepEqual(left.map(({ id }) => Number(id)), cluster.running().sort((x, y) => x - y));
  const wanted = [...writer.acknowledged];
  await eventually(() => follower.seen.length >= wanted.length);
  await follower.stop();
  for (const id of cluster.running()) {
    const { kvs } = await patiently(() =>
      cluster.clients(id).kv.range({ key: b("w/"), rangeEnd: b("w0"), limit: 1_000_000n })
    );
    assert.deepEqual(kvs.map((kv) => [text(kv.key), kv.modRevision]), wanted, `member ${id}`);
  }
  assert.deepEqual(follower.seen.map(({ key, revision }) => [key, revision]), wanted, "each write once, in order");
  const { count } = await atLeader(cluster, ({ kv }) => kv.range({ ...all, countOnly: true }));
  assert.equal(count, BigInt(wanted.length + 500));
  console.log(
    `${wanted.length} writes acknowledged over 9 changes of the members, longest stall ${
      Math.round(writer.stallMsMax)
    } ms, watch moved ${follower.breaks - 1} times without a gap`,
  );
});
