import { utf8 } from "@ultracloud/base";
import { ClusterService, Consistency, KvService as CoordinationService } from "@ultracloud/proto/chainfire/v1";
import { DatabaseService, KvService, Level, SqlService } from "@ultracloud/proto/flaredb/v1";
import type { Cluster } from "./cluster.ts";
import { waitFor } from "./wait.ts";

/** A store under test: the same small verbs for both. */
export interface StoreProbe {
  readonly name: "chainfire" | "flaredb";
  /** Resolves when the value is acknowledged by the cluster. */
  put(key: string, value: string): Promise<void>;
  /** A linearizable read; `node` asks one replica alone. */
  get(key: string, node?: string): Promise<string | undefined>;
  /** What one replica holds itself, without asking the others. */
  getLocal(key: string, node: string): Promise<string | undefined>;
  /** The leader as all the given replicas see it, once they agree: the node's name. */
  leader(nodes: readonly string[], timeoutMs?: number): Promise<string>;
}

/** The database that lanes write to. */
export const laneDatabase = "sys_lane";
const bucket = "lane";

/** A dead host is silent: a short deadline is how soon a probe turns to the next replica. */
const probeTimeoutMs = 1_000;
const probeOptions = (node?: string) => ({ timeoutMs: probeTimeoutMs, ...(node === undefined ? {} : { node }) });

/** Writes until it is acknowledged: a busy cluster may let a call pass its deadline. */
export async function putSurely(probe: StoreProbe, key: string, value: string, signal: AbortSignal): Promise<void> {
  await waitFor({ timeoutMs: 60_000, what: `a write of ${probe.name}`, signal }, async () => {
    await probe.put(key, value);
    return true;
  });
}

export function chainfireProbe(cluster: Cluster): StoreProbe {
  const kv = (node?: string) => cluster.clients.of(CoordinationService, "chainfire", probeOptions(node));
  const read = async (key: string, consistency: Consistency, node?: string) => {
    const { kvs } = await kv(node).range({ key: utf8.encode(key), consistency });
    return kvs[0] === undefined ? undefined : utf8.decode(kvs[0].value);
  };
  return {
    name: "chainfire",
    put: async (key, value) => void await kv().put({ key: utf8.encode(key), value: utf8.encode(value) }),
    get: (key, node) => read(key, Consistency.LINEARIZABLE, node),
    getLocal: (key, node) => read(key, Consistency.SERIALIZABLE, node),
    leader: (nodes, timeoutMs) =>
      agreedLeader(nodes, timeoutMs, async (node) => {
        const status = cluster.clients.of(ClusterService, "chainfire", { node, retries: 0, timeoutMs: 2_000 });
        const { leader } = await status.status({});
        if (leader === 0n) return undefined;
        // A member that came back has another id than the file says.
        return (await status.memberList({})).members.find(({ id }) => id === leader)?.name;
      }),
  };
}

export function flaredbProbe(cluster: Cluster): StoreProbe {
  const database = laneDatabase;
  const kv = (node?: string) => cluster.clients.of(KvService, "flaredb", probeOptions(node));
  const read = async (key: string, level: Level, node?: string) => {
    const { item } = await kv(node).get({ database, bucket, key, read: { level, maxAgeMs: 60_000n } });
    return item === undefined ? undefined : utf8.decode(item.value);
  };
  return {
    name: "flaredb",
    put: async (key, value) => void await kv().put({ database, bucket, key, value: utf8.encode(value) }),
    get: (key, node) => read(key, Level.LINEARIZABLE, node),
    getLocal: (key, node) => read(key, Level.STALE, node),
    leader: (nodes, timeoutMs) =>
      agreedLeader(nodes, timeoutMs, async (node) => {
        const status = cluster.clients.of(DatabaseService, "flaredb", { node, retries: 0, timeoutMs: 2_000 });
        const { groups } = await status.status({});
        const leader = (groups.find((group) => group.database === database) ?? groups[0])?.leader ?? 0n;
        return cluster.nodes.find((name) => BigInt(cluster.file.nodes[name]!.member) === leader);
      }),
  };
}

/** Makes the database that lanes write to; nothing when it is there. */
export async function createLaneDatabase(cluster: Cluster): Promise<void> {
  const databases = cluster.clients.of(DatabaseService, "flaredb", { timeoutMs: 30_000 });
  await databases.createDatabase({ name: laneDatabase, ifNotExists: true });
}

/** One SQL statement, by whichever replica leads. */
export async function executeSql(cluster: Cluster, sql: string): Promise<void> {
  await cluster.clients.of(SqlService, "flaredb").execute({ database: laneDatabase, statement: { sql } });
}

/** All rows of a query as text; `node` asks one replica alone. */
export async function querySql(cluster: Cluster, sql: string, node?: string): Promise<string[][]> {
  const client = cluster.clients.of(SqlService, "flaredb", node === undefined ? {} : { node });
  const { result } = await client.query({
    database: laneDatabase,
    statement: { sql },
    read: { level: Level.LINEARIZABLE },
    rowLimit: 10_000,
  });
  return (result?.rows ?? []).map((row) => row.values.map((value) => String(value.kind.value ?? "null")));
}

async function agreedLeader(
  nodes: readonly string[],
  timeoutMs = 30_000,
  look: (node: string) => Promise<string | undefined>,
): Promise<string> {
  const what = `a leader that ${nodes.join(", ")} agree on`;
  return await waitFor({ timeoutMs, what, everyMs: 50 }, async () => {
    const seen = await Promise.all(nodes.map((node) => look(node).catch(() => undefined)));
    return seen.every((leader) => leader === seen[0]) ? seen[0] : undefined;
  });
}
