/**
 * flaredb beside PostgreSQL 15, and its KV beside chainfire's, in one run: `deno task bench flaredb`.
 *
 * Same clients: as many connections on both sides, each with one request under way, driven by one thread of a program
 * in C that makes its requests beforehand (pgbench with prepared statements over a unix socket, wrk over loopback). What
 * the generators take of the two processors is printed beside the rest, as a costlier one would slow its server down.
 *
 * Requests per second are what the contract counts. They also say how many processors a server can use: PostgreSQL has
 * a process per connection, a member of flaredb one thread for all. Processor time per request does not depend on that,
 * nor on what else the machine does; its ratio is how much more of the same machine's work one server gets done.
 *
 * In turn with them a bare `Deno.serve` answers the same requests with the same bytes: what would be left if flaredb did
 * nothing, and so the most that one thread behind HTTP can reach on this machine.
 */
import { createWorkloadSigner } from "@ultracloud/authz";
import { create, toBinary } from "@bufbuild/protobuf";
import { PutRequestSchema as CoordinationPutSchema } from "@ultracloud/proto/chainfire/v1";
import { systemClock, utf8 } from "@ultracloud/base";
import { startTestStack } from "@ultracloud/testing";
import { drive, type Run, secondsOf, secondsOfFamily } from "./_bench_cost.ts";
import { startFloor } from "./_bench_floor.ts";
import {
  callJson,
  hundredRows,
  itemsCount,
  prepare,
  type Requests,
  requests,
  text,
  value,
  wrkScript,
} from "./_bench_requests.ts";

/** Each measurement takes this long; both stores in turn, so that neither has the machine's better minute. */
const seconds = 4;
const rounds = 3;
const connections = 64;
const databasesCount = 200;
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
  readonly ours: Requests;
}

const measures: readonly Measure[] = [
  {
    name: "INSERT of one row",
    wanted: 2,
    pgbench: `INSERT INTO bench(k, v) VALUES(1, '${text}');`,
    ours: requests.insert,
  },
  {
    name: "INSERT of 100 rows",
    wanted: 2,
    pgbench: `INSERT INTO bench(k, v) VALUES ${hundredRows};`,
    ours: requests.bulk,
  },
  {
    name: "SELECT by key, linearizable",
    wanted: 1,
    pgbench: `\\set id random(1, ${itemsCount})\nSELECT v FROM item WHERE id = :id;`,
    ours: requests.select,
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
  const pid = Number((await Deno.readTextFile(`${dir}/data/postmaster.pid`)).split("\n")[0]);
  return {
    facts: facts.trim(),
    async run(script: string): Promise<Run> {
      await Deno.writeTextFile(`${dir}/script.sql`, script);
      const args = ["-h", dir, "-U", "postgres", "-n", "-M", "prepared", "-c", `${connections}`, "-j", "1"];
      const before = secondsOfFamily(pid);
      const run = await drive("pgbench", [...args, "-T", `${seconds}`, "-f", `${dir}/script.sql`, "postgres"]);
      // The last of the processes that served it are just ending.
      await systemClock.sleep(100);
      const requests = Number(/actually processed: (\d+)/.exec(run.out)![1]);
      return {
        perSecond: Number(/tps = ([\d.]+)/.exec(run.out)![1]),
        serverUs: (secondsOfFamily(pid) - before) / requests * 1e6,
        clientUs: run.seconds / requests * 1e6,
      };
    },
    async [Symbol.asyncDispose]() {
      await output("runuser", [...user, `${postgresDir}/pg_ctl`, "-D", `${dir}/data`, "-m", "fast", "stop"]);
      await process.status;
    },
  };
}

function median(runs: readonly Run[], of: keyof Run): number {
  return runs.map((run) => run[of]).sort((a, b) => a - b)[runs.length >> 1]!;
}

/** Prints medians: requests per second, then what one request took of the processors. */
function compare(
  { name, wanted, peer, theirs, ours }: {
    readonly name: string;
    readonly wanted: number;
    readonly peer: string;
    readonly theirs: readonly Run[];
    readonly ours: readonly Run[];
  },
): void {
  const both = (of: keyof Run) => [median(theirs, of), median(ours, of)] as const;
  const [them, us] = both("perSecond"),
    [theirUs, ourUs] = both("serverUs"),
    [theirClient, ourClient] = both("clientUs");
  const line = (what: string, a: number, b: number, unit: string, ratio: number, more: string) =>
    console.log(
      `${what.padEnd(28)} ${peer.padEnd(10)} ${a.toFixed(0).padStart(6)}${unit}  flaredb ${
        b.toFixed(0).padStart(6)
      }${unit}  ratio ${ratio.toFixed(2)}${more}`,
    );
  line(name, them, us, "/s", us / them, `, wanted ${wanted}`);
  line(
    "  processor time a request",
    theirUs,
    ourUs,
    "us",
    theirUs / ourUs,
    `, of the generator ${theirClient.toFixed(0)} and ${ourClient.toFixed(0)} us`,
  );
}

async function main(): Promise<void> {
  const missing = [];
  for (const program of ["bash", "wrk", "pgbench", `${postgresDir}/postgres`]) {
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
    const call = (method: string, body: unknown) => callJson({ url, authorization }, method, body);
    const pidOf = (component: string) => stack.process(component)!.identity.pid;
    const wrk = async (
      to: { readonly pid: number; readonly path: string; readonly authorization: () => Promise<string> },
      bodies: readonly Uint8Array[],
    ): Promise<Run> => {
      const file = `${dir}/script.lua`;
      await Deno.writeTextFile(file, wrkScript(bodies));
      const { pid } = to;
      const before = secondsOf(pid);
      const args = ["-t1", `-c${connections}`, `-d${seconds}s`, "-s", file, to.path];
      const run = await drive("wrk", args, { BENCH_AUTHORIZATION: await to.authorization() });
      if (!/refused 0\b/.test(run.out)) throw new Error(`${to.path} was refused: ${run.out}`);
      const requests = Number(/(\d+) requests in/.exec(run.out)![1]);
      return {
        perSecond: Number(/Requests\/sec:\s+([\d.]+)/.exec(run.out)![1]),
        serverUs: (secondsOf(pid) - before) / requests * 1e6,
        clientUs: run.seconds / requests * 1e6,
      };
    };
    const measured = ({ method, bodies }: Requests) =>
      wrk({ pid: pidOf("flaredb"), path: `${url}/ultracloud.flaredb.v1.${method}`, authorization }, bodies);
    const answerTo = async ({ method, bodies }: Requests): Promise<Uint8Array> => {
      const response = await fetch(`${url}/ultracloud.flaredb.v1.${method}`, {
        method: "POST",
        headers: { "content-type": "application/proto", authorization: await authorization() },
        body: new Uint8Array(bodies[0]!),
      });
      const answer = await response.bytes();
      if (!response.ok) throw new Error(`${method}: ${new TextDecoder().decode(answer)}`);
      return answer;
    };
    await prepare({ url, authorization });
    console.log(postgres.facts);
    console.log(
      `${connections} connections, ${rounds} rounds of ${seconds} s in turn; pgbench -M prepared, wrk; medians`,
    );
    for (const { name, wanted, pgbench, ours: asked } of measures) {
      const theirs: Run[] = [], ours: Run[] = [], bare: Run[] = [];
      await using floor = await startFloor(await answerTo(asked), stack.member("flaredb").manifest.v8);
      for (let round = 0; round < rounds; round++) {
        theirs.push(await postgres.run(pgbench));
        ours.push(await measured(asked));
        bare.push(await wrk({ pid: floor.pid, path: `${floor.url}/${asked.method}`, authorization }, asked.bodies));
      }
      compare({ name, wanted, peer: "PostgreSQL", theirs, ours });
      const [most, least] = [median(bare, "perSecond"), median(bare, "serverUs")];
      console.log(
        `  bare Deno.serve, same bytes           ${most.toFixed(0).padStart(7)}/s, ${least.toFixed(0)} us: ratio ` +
          `${(most / median(theirs, "perSecond")).toFixed(2)}, ` +
          `of processor time ${(median(theirs, "serverUs") / least).toFixed(2)}`,
      );
    }
    const besides = [toBinary(CoordinationPutSchema, create(CoordinationPutSchema, { key: utf8.encode("k"), value }))];
    const path = `${coordination.url}/ultracloud.chainfire.v1.KvService/Put`;
    const theirs: Run[] = [], ours: Run[] = [];
    for (let round = 0; round < rounds; round++) {
      theirs.push(await wrk({ pid: pidOf("chainfire"), path, authorization: coordination.authorization }, besides));
      ours.push(await measured(requests.put));
    }
    compare({ name: "KV put", wanted: 1, peer: "chainfire", theirs, ours });
    for (let i = 0; i < databasesCount; i++) {
      const name = `t_many${i}`;
      await call("DatabaseService/CreateDatabase", { name });
      await call("SqlService/Execute", { database: name, statement: { sql: "CREATE TABLE t(a)" } });
    }
    const kib = Number(await output("ps", ["-o", "rss=", "-p", String(pidOf("flaredb"))]));
    console.log(
      `${databasesCount} databases and the load before: RSS ${Math.round(kib / 1024)} MiB, wanted 1024 at most`,
    );
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

if (import.meta.main) await main();
