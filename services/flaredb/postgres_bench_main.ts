import { createWorkloadSigner } from "@ultracloud/authz";
import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import {
  ExecuteRequestSchema,
  PutRequestSchema,
  QueryRequestSchema,
  type ValueSchema,
} from "@ultracloud/proto/flaredb/v1";
import { PutRequestSchema as CoordinationPutSchema } from "@ultracloud/proto/chainfire/v1";
import { systemClock, utf8 } from "@ultracloud/base";
import { startTestStack } from "@ultracloud/testing";

/** Each measurement takes this long; both stores in turn, so that neither has the machine's better minute. */
const seconds = 4;
const rounds = 3;
const connections = 64;
const itemsCount = 10_000;
const databasesCount = 200;
const text = "x".repeat(100);
const database = "t_bench";
const postgresDir = "/usr/lib/postgresql/15/bin";

async function output(program: string, args: readonly string[]): Promise<string> {
  const { code, stdout, stderr } = await new Deno.Command(program, { args: [...args] }).output();
  const out = new TextDecoder().decode(stdout);
  if (code !== 0) throw new Error(`${program} ${args.join(" ")}: ${new TextDecoder().decode(stderr)}${out}`);
  return out;
}

async function present(program: string): Promise<boolean> {
  return await new Deno.Command("sh", { args: ["-c", `command -v ${program}`], stdout: "null" }).output()
    .then(({ success }) => success);
}

/** What is measured, as each store is told it. */
interface Measure {
  readonly name: string;
  /** Ratio that the store's contract wants. */
  readonly wanted: number;
  /** A script of pgbench. */
  readonly pgbench: string;
  /** RPC method and the requests that are sent in turn. */
  readonly method: string;
  readonly bodies: readonly Uint8Array[];
}

const execute = (sql: string) => ({ database, statement: { sql } });
const integer = (value: number) => ({ kind: { case: "integer" as const, value: BigInt(value) } });
const insert = (sql: string, ...positional: MessageInitShape<typeof ValueSchema>[]) =>
  toBinary(ExecuteRequestSchema, create(ExecuteRequestSchema, { database, statement: { sql, positional } }));
const select = (id: number) => {
  const statement = { sql: "SELECT v FROM item WHERE id = ?", positional: [integer(id)] };
  return toBinary(QueryRequestSchema, create(QueryRequestSchema, { database, statement }));
};
/** Keys spread over all items. */
const ids = Array.from({ length: 500 }, (_, i) => (i * 7_919) % itemsCount + 1);
const hundred = <T>(make: (i: number) => T) => Array.from({ length: 100 }, (_, i) => make(i));
const measures: readonly Measure[] = [
  {
    name: "INSERT of one row",
    wanted: 2,
    pgbench: `INSERT INTO bench(k, v) VALUES(1, '${text}');`,
    method: "Execute",
    bodies: [insert("INSERT INTO bench(k, v) VALUES(?, ?)", integer(1), { kind: { case: "text", value: text } })],
  },
  {
    name: "INSERT of 100 rows",
    wanted: 2,
    pgbench: `INSERT INTO bench(k, v) VALUES ${hundred((i) => `(${i}, '${text}')`)};`,
    method: "Execute",
    bodies: [insert(`INSERT INTO bench(k, v) VALUES ${hundred((i) => `(${i}, '${text}')`)}`)],
  },
  {
    name: "SELECT by key, linearizable",
    wanted: 1,
    pgbench: `\\set id random(1, ${itemsCount})\nSELECT v FROM item WHERE id = :id;`,
    method: "Query",
    bodies: ids.map(select),
  },
];

/** A PostgreSQL of its own: data directory, socket and user. */
async function startPostgres(dir: string) {
  const user = ["-u", "postgres", "--"];
  await output("chown", ["postgres", dir]);
  await output("runuser", [...user, `${postgresDir}/initdb`, "-D", `${dir}/data`, "-A", "trust"]);
  const process = new Deno.Command("runuser", {
    args: [...user, `${postgresDir}/postgres`, "-D", `${dir}/data`, "-k", dir, "-c", "listen_addresses="],
    stdout: "null",
    stderr: "null",
  }).spawn();
  const sql = (text: string) => output("psql", ["-h", dir, "-U", "postgres", "-tAc", text]);
  for (let tries = 0; await sql("SELECT 1").then(() => false, () => true); tries++) {
    if (tries > 100) throw new Error("PostgreSQL does not answer");
    await systemClock.sleep(100);
  }
  await sql("CREATE TABLE bench(id SERIAL PRIMARY KEY, k INTEGER, v TEXT)");
  await sql("CREATE TABLE item(id INTEGER PRIMARY KEY, v TEXT)");
  await sql(`INSERT INTO item SELECT n, '${text}' FROM generate_series(1, ${itemsCount}) n`);
  const facts = await sql(
    "SELECT version() || ', synchronous_commit ' || current_setting('synchronous_commit') || ', fsync ' || current_setting('fsync')",
  );
  return {
    facts: facts.trim(),
    async rate(script: string): Promise<number> {
      await Deno.writeTextFile(`${dir}/script.sql`, script);
      const args = ["-h", dir, "-U", "postgres", "-n", "-M", "prepared", "-c", `${connections}`, "-j", "1"];
      const out = await output("pgbench", [...args, "-T", `${seconds}`, "-f", `${dir}/script.sql`, "postgres"]);
      return Number(/tps = ([\d.]+)/.exec(out)![1]);
    },
    async [Symbol.asyncDispose]() {
      await output("runuser", [...user, `${postgresDir}/pg_ctl`, "-D", `${dir}/data`, "-m", "fast", "stop"]);
      await process.status;
    },
  };
}

/** Requests in protobuf, taken one after the other: what a client that cares for speed sends, as pgbench does. */
const script = (bodies: readonly Uint8Array[]) =>
  `local bodies = {${bodies.map((body) => `"${body.toHex()}"`)}}
for i, hex in ipairs(bodies) do
  bodies[i] = string.gsub(hex, "..", function(byte) return string.char(tonumber(byte, 16)) end)
end
local headers = {["content-type"] = "application/proto", ["authorization"] = os.getenv("BENCH_AUTHORIZATION")}
local requests, at = {}, 0
init = function() for i, body in ipairs(bodies) do requests[i] = wrk.format("POST", nil, headers, body) end end
request = function()
  at = at % #requests + 1
  return requests[at]
end
done = function(summary) io.write(string.format("refused %d\\n", summary.errors.status)) end
`;

async function main(): Promise<void> {
  const missing = [];
  for (const program of ["wrk", "pgbench", `${postgresDir}/postgres`]) {
    if (!await present(program)) missing.push(program);
  }
  if (missing.length > 0 || Deno.uid() !== 0) {
    console.log(
      `left out: ${missing.join(", ") || "root, to run PostgreSQL as its own user"} (Debian: postgresql-15, wrk)`,
    );
    return;
  }
  const dir = await Deno.makeTempDir({ prefix: "uc-pg-" });
  try {
    await using test = await startTestStack({ components: ["flaredb", "chainfire"] });
    await using postgres = await startPostgres(dir);
    const { stack } = test;
    const url = stack.endpoint("flaredb");
    const signer = await createWorkloadSigner({ clusterId: "test", name: "operator", keyFile: stack.operatorKeyFile }, {
      clock: systemClock,
    });
    const authorization = signer.authorization("flaredb");
    const coordination = { url: stack.endpoint("chainfire"), authorization: signer.authorization("chainfire") };
    const call = async (method: string, body: unknown) => {
      const response = await fetch(`${url}/ultracloud.flaredb.v1.${method}`, {
        method: "POST",
        headers: { "content-type": "application/json", authorization: await authorization() },
        body: JSON.stringify(body),
      });
      const answer = await response.json();
      if (!response.ok) throw new Error(`${method}: ${JSON.stringify(answer)}`);
      return answer;
    };
    const wrk = async (
      to: { readonly path: string; readonly authorization: () => Promise<string> },
      bodies: readonly Uint8Array[],
    ): Promise<number> => {
      const file = `${dir}/script.lua`;
      await Deno.writeTextFile(file, script(bodies));
      const { stdout } = await new Deno.Command("wrk", {
        args: ["-t1", `-c${connections}`, `-d${seconds}s`, "-s", file, to.path],
        env: { BENCH_AUTHORIZATION: await to.authorization() },
      }).output();
      const out = new TextDecoder().decode(stdout);
      if (!/refused 0\b/.test(out)) throw new Error(`${to.path} was refused: ${out}`);
      return Number(/Requests\/sec:\s+([\d.]+)/.exec(out)![1]);
    };
    const rate = (method: string, bodies: readonly Uint8Array[]) =>
      wrk({ path: `${url}/ultracloud.flaredb.v1.${method}`, authorization }, bodies);
    await call("DatabaseService/CreateDatabase", { name: database });
    const run = (sql: string) => call("SqlService/Execute", execute(sql));
    await run("CREATE TABLE bench(id INTEGER PRIMARY KEY, k INTEGER, v TEXT)");
    await run("CREATE TABLE item(id INTEGER PRIMARY KEY, v TEXT)");
    await run(
      `WITH n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT ${itemsCount}) INSERT INTO item SELECT x, '${text}' FROM n`,
    );
    console.log(postgres.facts);
    console.log(
      `${connections} connections, ${rounds} rounds of ${seconds} s in turn; pgbench -M prepared, wrk; medians`,
    );
    const median = (values: number[]) => [...values].sort((a, b) => a - b)[values.length >> 1]!;
    for (const { name, wanted, pgbench, method, bodies } of measures) {
      const theirs: number[] = [], ours: number[] = [];
      for (let round = 0; round < rounds; round++) {
        theirs.push(await postgres.rate(pgbench));
        ours.push(await rate(`SqlService/${method}`, bodies));
      }
      const ratio = median(ours) / median(theirs);
      console.log(
        `${name.padEnd(28)} PostgreSQL ${median(theirs).toFixed(0).padStart(6)}/s  flaredb ${
          median(ours).toFixed(0).padStart(6)
        }/s  ratio ${ratio.toFixed(2)}, wanted ${wanted}`,
      );
    }
    const value = new Uint8Array(100);
    const ours = [toBinary(PutRequestSchema, create(PutRequestSchema, { database, bucket: "b", key: "k", value }))];
    const theirs = [toBinary(CoordinationPutSchema, create(CoordinationPutSchema, { key: utf8.encode("k"), value }))];
    const path = `${coordination.url}/ultracloud.chainfire.v1.KvService/Put`;
    const puts: number[] = [], beside: number[] = [];
    for (let round = 0; round < rounds; round++) {
      beside.push(await wrk({ path, authorization: coordination.authorization }, theirs));
      puts.push(await rate("KvService/Put", ours));
    }
    console.log(
      `${"KV put".padEnd(28)} chainfire  ${median(beside).toFixed(0).padStart(6)}/s  flaredb ${
        median(puts).toFixed(0).padStart(6)
      }/s  ratio ${(median(puts) / median(beside)).toFixed(2)}, wanted 1`,
    );
    for (let i = 0; i < databasesCount; i++) {
      const name = `t_many${i}`;
      await call("DatabaseService/CreateDatabase", { name });
      await call("SqlService/Execute", { database: name, statement: { sql: "CREATE TABLE t(a)" } });
    }
    const kib = Number(await output("ps", ["-o", "rss=", "-p", String(stack.process("flaredb")!.identity.pid)]));
    console.log(
      `${databasesCount} databases and the load before: RSS ${Math.round(kib / 1024)} MiB, wanted 1024 at most`,
    );
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

if (import.meta.main) await main();
