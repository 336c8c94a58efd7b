import assert from "node:assert/strict";
import { utf8 } from "@ultracloud/base";
import { KvService as CoordinationService } from "@ultracloud/proto/chainfire/v1";
import { SqlService } from "@ultracloud/proto/flaredb/v1";
import { type Lane, type LaneRun, numberOption } from "../harness/lane.ts";
import {
  chainfireProbe,
  createLaneDatabase,
  executeSql,
  flaredbProbe,
  laneDatabase,
  querySql,
  type StoreProbe,
} from "../harness/stores.ts";
import { waitFor } from "../harness/wait.ts";
import { diskNames, storesOn } from "../planted/mod.ts";

const prefix = "/lane/durable/";
/** One past the prefix: '0' follows '/'. */
const prefixEnd = "/lane/durable0";
const writersPerStore = 4;
const pageKeys = 1_000;
const table = "durable";

/** Backup, loss of everything, restore; and acknowledged writes over power cuts of the whole cluster. */
export const durability: Lane = {
  name: "durability-proof",
  summary:
    "backup under load, all three nodes destroyed, restored and compared; no acknowledged write lost in a power cut",
  profile: "stores",
  options: {
    cuts: "how often the power of all nodes goes (3)",
    disk: `what the stores' logs lie on: ${diskNames} (power-loss)`,
  },
  entries: (args) => storesOn(args.disk ?? "power-loss"),
  async run(run) {
    run.facts.disk = run.args.disk ?? "power-loss";
    await createLaneDatabase(run.cluster);
    await executeSql(run.cluster, `CREATE TABLE ${table} (id INTEGER PRIMARY KEY, word TEXT NOT NULL)`);
    await powerCuts(run, numberOption(run.args, "cuts", 3));
    await backupAndRestore(run);
    run.skip("backup through the stores' own backup calls", "they are not served yet; the backup is a logical one");
    run.skip("deployer, coronafs and lightningstor", "not built yet");
  },
};

/** Writes that were acknowledged, by store; a writer never writes a key twice. */
class Load {
  readonly acknowledged = new Map<string, Map<string, string>>();
  readonly #stop = new AbortController();
  readonly #writers: Promise<void>[];

  constructor(probes: readonly StoreProbe[], round: string) {
    this.#writers = probes.flatMap((probe) => {
      const acknowledged = new Map<string, string>();
      this.acknowledged.set(probe.name, acknowledged);
      return Array.from({ length: writersPerStore }, async (_, writer) => {
        for (let n = 0; !this.#stop.signal.aborted; n++) {
          const [key, value] = [`${prefix}${round}/${writer}/${n}`, crypto.randomUUID()];
          try {
            await probe.put(key, value);
            acknowledged.set(key, value);
          } catch {
            // Not acknowledged, so nothing is owed.
            await new Promise((resolve) => setTimeout(resolve, 20));
          }
        }
      });
    });
  }

  count(): number {
    return [...this.acknowledged.values()].reduce((sum, keys) => sum + keys.size, 0);
  }

  async end(): Promise<void> {
    this.#stop.abort();
    await Promise.all(this.#writers);
  }
}

async function powerCuts(run: LaneRun, cuts: number): Promise<void> {
  const { cluster } = run;
  const probes = [chainfireProbe(cluster), flaredbProbe(cluster)];
  const nodes = cluster.nodesWith("chainfire");
  const lost: Record<string, string[]> = {};
  for (let cut = 1; cut <= cuts; cut++) {
    await run.check(`power cut ${cut}: every acknowledged write is there afterwards`, async () => {
      const load = new Load(probes, `cut${cut}`);
      await waitFor(
        { timeoutMs: 60_000, what: "writes of every store", signal: run.signal },
        () => Promise.resolve([...load.acknowledged.values()].every((keys) => keys.size >= 200) || undefined),
      );
      // While writes are under way.
      await Promise.all(nodes.map((node) => cluster.substrate.powerOff(node)));
      await load.end();
      for (const node of nodes) await cluster.substrate.powerOn(node);
      await cluster.startAll({ nodes, signal: run.signal });
      for (const probe of probes) {
        await probe.leader(nodes, 60_000);
        const held = await everything(run, probe.name);
        const missing = [...load.acknowledged.get(probe.name)!].filter(([key, value]) => held.get(key) !== value);
        lost[`${probe.name} cut ${cut}`] = missing.map(([key]) => key);
        await run.evidence("lost-writes.json", lost);
        assert.equal(missing.length, 0, `${probe.name} lost ${missing.length} acknowledged writes`);
      }
      return `${load.count()} acknowledged writes, 0 lost`;
    });
  }
}

/** Every key of the lane in a store, by pages, each read linearizable. */
async function everything(run: LaneRun, store: string): Promise<Map<string, string>> {
  return store === "chainfire" ? (await chainfireBackup(run)).keys : await flaredbKeys(run);
}

async function chainfireBackup(run: LaneRun): Promise<{ keys: Map<string, string>; revision: bigint }> {
  const kv = run.cluster.clients.of(CoordinationService, "chainfire", { timeoutMs: 30_000 });
  const keys = new Map<string, string>();
  let revision = 0n;
  let key = utf8.encode(prefix);
  for (;;) {
    // All pages at the revision of the first: one moment, however long it takes.
    const page = await kv.range({ key, rangeEnd: utf8.encode(prefixEnd), limit: BigInt(pageKeys), revision });
    if (revision === 0n) revision = page.header!.revision;
    for (const item of page.kvs) keys.set(utf8.decode(item.key), utf8.decode(item.value));
    if (!page.more) return { keys, revision };
    key = utf8.encode(utf8.decode(page.kvs.at(-1)!.key) + "\0");
  }
}

async function flaredbKeys(run: LaneRun): Promise<Map<string, string>> {
  const { KvService } = await import("@ultracloud/proto/flaredb/v1");
  const kv = run.cluster.clients.of(KvService, "flaredb", { timeoutMs: 30_000 });
  const keys = new Map<string, string>();
  for (let pageToken = "";;) {
    const page = await kv.scan({ database: laneDatabase, bucket: "lane", prefix, limit: pageKeys, pageToken });
    for (const item of page.items) keys.set(item.key, utf8.decode(item.value));
    pageToken = page.nextPageToken;
    if (pageToken === "") return keys;
  }
}

async function backupAndRestore(run: LaneRun): Promise<void> {
  const { cluster } = run;
  const nodes = cluster.nodesWith("chainfire");
  const chainfire = chainfireProbe(cluster);
  let saved: { keys: Map<string, string>; revision: bigint; rows: string[][] } | undefined;
  await run.check("a backup under load holds all that was acknowledged before it", async () => {
    const rows = Array.from({ length: 500 }, (_, i) => `(${i}, 'word ${i}')`);
    await executeSql(cluster, `INSERT INTO ${table} (id, word) VALUES ${rows.join(", ")}`);
    const load = new Load([chainfire], "backup");
    const keys = load.acknowledged.get("chainfire")!;
    try {
      await waitFor(
        { timeoutMs: 60_000, what: "writes", signal: run.signal },
        () => Promise.resolve(keys.size >= 200 || undefined),
      );
      const before = [...keys];
      saved = {
        ...await chainfireBackup(run),
        rows: await querySql(cluster, `SELECT id, word FROM ${table} ORDER BY id`),
      };
      for (const [key, value] of before) assert.equal(saved.keys.get(key), value, `the backup lacks ${key}`);
    } finally {
      await load.end();
    }
    assert.equal(saved.rows.length, 500);
    await run.evidence("backup.json", { ...saved, keys: [...saved.keys] });
    return `${saved.keys.size} keys at revision ${saved.revision}, ${saved.rows.length} rows, ${keys.size} writes meanwhile`;
  });
  await run.check("all three nodes are destroyed, and new ones know nothing", async () => {
    await Promise.all(nodes.map((node) => cluster.substrate.powerOff(node)));
    for (const node of nodes) {
      const { state } = cluster.substrate.dirs(node);
      const { code, stderr } = await cluster.substrate.exec(node, ["find", state, "-mindepth", "1", "-delete"]);
      assert.equal(code, 0, stderr);
      await cluster.substrate.powerOn(node);
    }
    await cluster.startAll({ nodes, signal: run.signal });
    await chainfire.leader(nodes, 60_000);
    assert.equal((await chainfireBackup(run)).keys.size, 0);
    await createLaneDatabase(cluster);
    assert.equal((await flaredbKeys(run)).size, 0);
    return `${nodes.join(", ")} began anew`;
  });
  await run.check("the restored cluster is equal to the backup", async () => {
    const { keys, rows } = saved!;
    const kv = cluster.clients.of(CoordinationService, "chainfire", { timeoutMs: 30_000 });
    const all = [...keys];
    const batchKeys = 100;
    for (let at = 0; at < all.length; at += batchKeys) {
      const success = all.slice(at, at + batchKeys).map(([key, value]) => ({
        request: { case: "put" as const, value: { key: utf8.encode(key), value: utf8.encode(value) } },
      }));
      assert.ok((await kv.txn({ success })).succeeded);
    }
    const sql = cluster.clients.of(SqlService, "flaredb", { timeoutMs: 30_000 });
    const statement = (text: string, positional: string[] = []) => ({
      sql: text,
      positional: positional.map((value) => ({ kind: { case: "text" as const, value } })),
    });
    await sql.batch({
      database: laneDatabase,
      statements: [
        statement(`CREATE TABLE ${table} (id INTEGER PRIMARY KEY, word TEXT NOT NULL)`),
        ...rows.map(([id, word]) =>
          statement(`INSERT INTO ${table} (id, word) VALUES (CAST(? AS INTEGER), ?)`, [id!, word!])
        ),
      ],
    });
    const now = {
      ...await chainfireBackup(run),
      rows: await querySql(cluster, `SELECT id, word FROM ${table} ORDER BY id`),
    };
    await run.evidence("restored.json", { ...now, keys: [...now.keys] });
    assert.deepEqual([...now.keys], all);
    assert.deepEqual(now.rows, rows);
    return `${now.keys.size} keys and ${now.rows.length} rows are the same`;
  });
}
