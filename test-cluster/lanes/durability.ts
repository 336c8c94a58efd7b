import assert from "node:assert/strict";
import { create, toJson } from "@bufbuild/protobuf";
import { concatBytes, utf8 } from "@ultracloud/base";
import { KvService as CoordinationService, MaintenanceService } from "@ultracloud/proto/chainfire/v1";
import { createHash } from "node:crypto";
import {
  type BackupPart,
  BackupPartSchema,
  BackupService,
  DatabaseService,
  KvService,
  RestoreRequestSchema,
} from "@ultracloud/proto/flaredb/v1";
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
import { announce, replayAfterLoss } from "./deployer_durability.ts";
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
  profile: "durability",
  options: {
    cuts: "how often the power of all nodes goes (3)",
    disk: `what the stores' logs lie on: ${diskNames} (power-loss; plain on qemu, where memory is lost anyway)`,
  },
  entries: (args, substrate) => storesOn(args.disk ?? usualDisk(substrate)),
  async run(run) {
    run.facts.disk = run.args.disk ?? usualDisk(run.cluster.substrate.name);
    await createLaneDatabase(run.cluster);
    await executeSql(run.cluster, `CREATE TABLE IF NOT EXISTS ${table} (id INTEGER PRIMARY KEY, word TEXT NOT NULL)`);
    await executeSql(run.cluster, `DELETE FROM ${table}`);
    const announced = run.cluster.nodesWith("deployer").length > 0 ? await announce(run) : undefined;
    await powerCuts(run, numberOption(run.args, "cuts", 3));
    await backupAndRestore(run);
    if (announced === undefined) run.skip("deployer", "this cluster has none");
    else await replayAfterLoss(run, announced);
    run.skip("coronafs and lightningstor", "not built yet");
  },
};

const usualDisk = (substrate: string) => substrate === "qemu" ? "plain" : "power-loss";

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
  return store === "chainfire" ? await chainfireKeys(run) : await flaredbKeys(run);
}

/** Every key of the lane in chainfire, all at one revision: that of the first page, or the one asked for. */
async function chainfireKeys(run: LaneRun, at = 0n): Promise<Map<string, string>> {
  const kv = run.cluster.clients.of(CoordinationService, "chainfire", { timeoutMs: 30_000 });
  const keys = new Map<string, string>();
  let revision = at;
  let key = utf8.encode(prefix);
  for (;;) {
    const page = await kv.range({ key, rangeEnd: utf8.encode(prefixEnd), limit: BigInt(pageKeys), revision });
    if (revision === 0n) revision = page.header!.revision;
    for (const item of page.kvs) keys.set(utf8.decode(item.key), utf8.decode(item.value));
    if (!page.more) return keys;
    key = utf8.encode(utf8.decode(page.kvs.at(-1)!.key) + "\0");
  }
}

async function flaredbKeys(run: LaneRun): Promise<Map<string, string>> {
  const kv = run.cluster.clients.of(KvService, "flaredb", { timeoutMs: 30_000 });
  const keys = new Map<string, string>();
  for (let pageToken = "";;) {
    const page = await kv.scan({ database: laneDatabase, bucket: "lane", prefix, limit: pageKeys, pageToken });
    for (const item of page.items) keys.set(item.key, utf8.decode(item.value));
    pageToken = page.nextPageToken;
    if (pageToken === "") return keys;
  }
}

interface ChainfireBackup {
  /** What a new member founds itself on. */
  readonly file: Uint8Array;
  readonly revision: bigint;
}

/** chainfire's own backup, of one moment; what came over the wire is held against its digest. */
async function chainfireBackup(run: LaneRun): Promise<ChainfireBackup> {
  const maintenance = run.cluster.clients.of(MaintenanceService, "chainfire", { timeoutMs: 60_000 });
  const hash = createHash("sha256");
  const chunks: Uint8Array[] = [];
  let [revision, digest] = [0n, ""];
  for await (const { header, chunk, sha256 } of maintenance.snapshot({})) {
    chunks.push(chunk);
    revision = header?.revision ?? revision;
    // The last message closes the file with the digest of all before it.
    if (sha256.length > 0) digest = sha256.toHex();
    else hash.update(chunk);
  }
  assert.equal(digest, hash.digest("hex"), "the backup came whole");
  return { file: concatBytes(chunks), revision };
}

/** New members that found themselves on the backup; nothing is left of those that run. */
async function chainfireRestore(run: LaneRun, { file }: ChainfireBackup): Promise<void> {
  const { cluster } = run;
  const nodes = cluster.nodesWith("chainfire");
  await Promise.all(nodes.map(async (node) => {
    await cluster.stop(node, "chainfire");
    const dir = `${cluster.substrate.dirs(node).state}/chainfire`;
    const { code, stderr } = await cluster.substrate.exec(node, ["find", dir, "-mindepth", "1", "-delete"]);
    assert.equal(code, 0, stderr);
    await cluster.substrate.writeFile(node, `${dir}/restore.snapshot`, file);
  }));
  await cluster.startAll({ nodes, signal: run.signal });
}

/** flaredb's own backup; a replica that cannot give it names the one that can, which the next try asks. */
async function flaredbBackup(run: LaneRun): Promise<BackupPart[]> {
  const backups = run.cluster.clients.of(BackupService, "flaredb", { timeoutMs: 60_000 });
  return await waitFor({ timeoutMs: 60_000, what: "a backup of flaredb", signal: run.signal }, async () => {
    const parts: BackupPart[] = [];
    for await (const part of backups.backup({ database: laneDatabase })) parts.push(part);
    return parts;
  });
}

async function flaredbRestore(run: LaneRun, parts: readonly BackupPart[]): Promise<void> {
  const backups = run.cluster.clients.of(BackupService, "flaredb", { timeoutMs: 60_000 });
  async function* requests() {
    yield create(RestoreRequestSchema, { part: { case: "target", value: { database: laneDatabase } } });
    for (const value of parts) yield create(RestoreRequestSchema, { part: { case: "backup", value } });
  }
  await waitFor(
    { timeoutMs: 60_000, what: "the restore of flaredb", signal: run.signal },
    async () => await backups.restore(requests()),
  );
}

/** Every replica of chainfire holds the same history, not only the same newest values. */
async function sameOnEveryMember(run: LaneRun, nodes: readonly string[]): Promise<void> {
  const member = (node: string) => run.cluster.clients.of(MaintenanceService, "chainfire", { node, timeoutMs: 30_000 });
  const what = "equal hashes on every member";
  await waitFor({ timeoutMs: 60_000, what, signal: run.signal }, async () => {
    const { header } = await member(nodes[0]!).hashKv({});
    const hashes = await Promise.all(nodes.map((node) => member(node).hashKv({ revision: header!.revision })));
    const [first] = hashes;
    return hashes.every(({ hash }) => String(hash) === String(first!.hash)) || undefined;
  });
}

const selectRows = `SELECT id, word FROM ${table} ORDER BY id`;

interface Saved {
  readonly chainfire: ChainfireBackup;
  /** What chainfire held at the revision of its backup. */
  readonly chainfireKeys: Map<string, string>;
  readonly flaredb: BackupPart[];
  /** What flaredb held at the backup, at least; rows do not change meanwhile. */
  readonly flaredbKeys: Map<string, string>;
  readonly rows: string[][];
}

async function backupAndRestore(run: LaneRun): Promise<void> {
  const { cluster } = run;
  const nodes = cluster.nodesWith("chainfire");
  const probes = [chainfireProbe(cluster), flaredbProbe(cluster)];
  let saved: Saved | undefined;
  await run.check("a backup under load holds all that was acknowledged before it", async () => {
    const rows = Array.from({ length: 500 }, (_, i) => `(${i}, 'word ${i}')`);
    await executeSql(cluster, `INSERT INTO ${table} (id, word) VALUES ${rows.join(", ")}`);
    const load = new Load(probes, "backup");
    try {
      await waitFor(
        { timeoutMs: 60_000, what: "writes", signal: run.signal },
        () => Promise.resolve([...load.acknowledged.values()].every((keys) => keys.size >= 200) || undefined),
      );
      const flaredbKeys = new Map(load.acknowledged.get("flaredb"));
      const before = [...load.acknowledged.get("chainfire")!];
      const chainfire = await chainfireBackup(run);
      saved = {
        chainfire,
        chainfireKeys: await chainfireKeys(run, chainfire.revision),
        flaredb: await flaredbBackup(run),
        flaredbKeys,
        rows: await querySql(cluster, selectRows),
      };
      for (const [key, value] of before) assert.equal(saved.chainfireKeys.get(key), value, `the backup lacks ${key}`);
    } finally {
      await load.end();
    }
    const { chainfire: { file, revision }, chainfireKeys: keys, flaredb } = saved;
    assert.equal(saved.rows.length, 500);
    await Deno.writeFile(`${run.artifactsDir}/chainfire-backup.snapshot`, file);
    await run.evidence("chainfire-backup.json", { revision, bytes: file.length, keys: [...keys] });
    await run.evidence("flaredb-backup.json", flaredb.map((part) => toJson(BackupPartSchema, part)));
    return `chainfire: ${keys.size} keys at revision ${revision}; flaredb: ${flaredb.length} parts; ${load.count()} writes meanwhile`;
  });
  await run.check("all three nodes are destroyed, and new ones know nothing", async () => {
    await Promise.all(nodes.map((node) => cluster.substrate.powerOff(node)));
    for (const node of nodes) {
      await cluster.substrate.powerOn(node);
      const { state } = cluster.substrate.dirs(node);
      const { code, stderr } = await cluster.substrate.exec(node, ["find", state, "-mindepth", "1", "-delete"]);
      assert.equal(code, 0, stderr);
    }
    await cluster.startAll({ nodes, signal: run.signal });
    for (const probe of probes) await probe.leader(nodes, 60_000);
    assert.equal((await chainfireKeys(run)).size, 0);
    const { databases } = await cluster.clients.of(DatabaseService, "flaredb").listDatabases({});
    assert.deepEqual(databases.filter(({ name }) => name === laneDatabase), []);
    return `${nodes.join(", ")} began anew`;
  });
  await run.check("the restored cluster is equal to the backup", async () => {
    const all = [...saved!.chainfireKeys];
    await chainfireRestore(run, saved!.chainfire);
    for (const probe of probes) await probe.leader(nodes, 60_000);
    await flaredbRestore(run, saved!.flaredb);
    const now = {
      chainfire: await chainfireKeys(run),
      flaredb: await flaredbKeys(run),
      rows: await querySql(cluster, selectRows),
    };
    await run.evidence("restored.json", {
      chainfire: [...now.chainfire],
      flaredb: [...now.flaredb],
      rows: now.rows,
    });
    assert.deepEqual([...now.chainfire], all);
    await sameOnEveryMember(run, nodes);
    assert.deepEqual(now.rows, saved!.rows);
    const missing = [...saved!.flaredbKeys].filter(([key, value]) => now.flaredb.get(key) !== value);
    assert.deepEqual(missing, []);
    return `chainfire: ${all.length} keys; flaredb: ${now.flaredb.size} keys and ${now.rows.length} rows`;
  });
}
