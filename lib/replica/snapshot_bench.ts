/**
 * A snapshot of many gigabytes from a leader to a newcomer over RPC on loopback, and the memory that both together cost:
 * `deno run -A lib/replica/snapshot_bench.ts [GiB]`. The state is zeros, so that making it costs nothing; digest, pieces,
 * sync and install are what they are.
 */
import { ListMachine, ReplicaCluster, until } from "./_cluster_test_support.ts";

const gibibytes = Number(Deno.args[0] ?? 2);
const bytes = gibibytes * 2 ** 30;

class ZeroMachine extends ListMachine {
  restored = 0;
  override checkpoint = () => this.applied;
  async snapshotTo(path: string): Promise<number> {
    await Deno.create(path).then((file) => file.close());
    await Deno.truncate(path, bytes);
    return this.applied;
  }
  async restoreFrom(index: number, path: string): Promise<void> {
    this.restored = (await Deno.stat(path)).size;
    this.applied = index;
  }
}

await using cluster = await ReplicaCluster.create({ retainedEntries: 0 }, () => new ZeroMachine());
await cluster.found([1]);
const { group } = cluster.get(1);
for (let i = 0; i < 20; i++) await cluster.propose("x");
group.checkpoint();
await until("the cut", () => group.driver.status().firstIndex > 20);
const newcomer = await cluster.start(2, { join: true });
const before = Deno.memoryUsage().rss;
let peak = before;
const sampler = setInterval(() => peak = Math.max(peak, Deno.memoryUsage().rss), 20);
const begin = performance.now();
await group.changeConfiguration({ steps: [{ type: "add_learner", id: 2 }] });
await until("the restore", () => (newcomer.machine as ZeroMachine).restored === bytes, 600_000);
const seconds = (performance.now() - begin) / 1000;
clearInterval(sampler);
const mib = (n: number) => `${Math.round(n / 2 ** 20)} MiB`;
console.log(
  `${gibibytes} GiB in ${seconds.toFixed(1)} s (${mib(bytes / seconds)}/s); RSS ${mib(before)} before, ${
    mib(peak)
  } at most`,
);
await cluster.stop(2);
await cluster.stop(1);
