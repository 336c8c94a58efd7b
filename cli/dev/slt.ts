import { createWorkloadSigner } from "@ultracloud/authz";
import { fault, systemClock } from "@ultracloud/base";
import { freePort, prepareStack } from "@ultracloud/launch";
import { type Command, parseFlags } from "./_command.ts";
import { bold, dim, green, red } from "./_term.ts";
import { failuresShownMax, runSlt, type SqlAnswer } from "./slt/run.ts";

/** One request may take this long; statements are limited by the service. */
const requestTimeoutMs = 60_000;
/** The most that the service answers. */
const rowsMax = 100_000;
const startTimeoutMs = 120_000;

/** Files with this ending below the given path, in order; a file is taken whatever its ending. */
async function sltFiles(path: string): Promise<string[]> {
  let info: Deno.FileInfo;
  try {
    info = await Deno.stat(path);
  } catch (cause) {
    throw fault("not_found", "slt_missing", `Cannot read ${path}: wanted a file or folder of sqllogictest files`, {
      cause,
    });
  }
  if (!info.isDirectory) return [path];
  const found: string[] = [];
  for await (const entry of Deno.readDir(path)) {
    const inner = `${path}/${entry.name}`;
    if (entry.isDirectory) found.push(...await sltFiles(inner));
    else if (/\.(slt|test)$/.test(entry.name)) found.push(inner);
  }
  return found.sort();
}

/** Runs sqllogictest files through the REST API of a real flaredb process. */
export const sltCommand: Command = {
  name: "slt",
  help: `deno task flaredb:slt <folder or file...>

Starts flaredb under its pinned permissions, gives every *.slt and *.test file a database of its own, and runs its
records through POST /api/v1/sql. Prints a count for each file and in all; ends with 1 when anything failed.

Understood: statement ok | error [text] | count <n>; query <types> [nosort|rowsort|valuesort] [label] with ---- and
results, one value or one row to a line, or "N values hashing to <md5>"; skipif, onlyif (sqlite, flaredb);
hash-threshold; halt; comments.`,
  async run(args, root) {
    const { positionals } = parseFlags({ args: [...args], allowPositionals: true, options: {} });
    if (positionals.length === 0) {
      throw fault("invalid_argument", "usage", "Cannot run nothing: wanted a folder or files of sqllogictest records");
    }
    const files = (await Promise.all(positionals.map(sltFiles))).flat();
    if (files.length === 0) {
      throw fault("not_found", "slt_missing", `Cannot find *.slt or *.test below ${positionals.join(", ")}`);
    }
    const dataDir = await Deno.makeTempDir({ prefix: "uc-slt-" });
    try {
      await using stack = await prepareStack({
        root,
        dataDir,
        components: ["flaredb"],
        ports: { "flaredb.rpc": freePort(), "flaredb.peer": freePort() },
        clusterId: "slt",
      });
      await stack.startAll({ timeoutMs: startTimeoutMs });
      return await runFiles(files, stack.endpoint("flaredb"), stack.operatorKeyFile);
    } finally {
      await Deno.remove(dataDir, { recursive: true });
    }
  },
};

async function runFiles(files: readonly string[], url: string, keyFile: string): Promise<number> {
  const signer = await createWorkloadSigner({ clusterId: "slt", name: "operator", keyFile }, { clock: systemClock });
  const authorization = signer.authorization("flaredb");
  const post = async (path: string, body: unknown) => {
    const response = await fetch(`${url}${path}`, {
      method: "POST",
      headers: { authorization: await authorization(), "content-type": "application/json" },
      // As a stream it cannot be sent again on another connection, which would run a statement twice.
      body: new Blob([JSON.stringify(body)]).stream(),
      signal: AbortSignal.timeout(requestTimeoutMs),
    });
    return { ok: response.ok, answer: await response.json() };
  };
  const manage = async (method: string, name: string) => {
    const { ok, answer } = await post(`/ultracloud.flaredb.v1.DatabaseService/${method}`, { name });
    if (!ok) throw fault("unavailable", "slt_database", `Cannot call ${method} for ${name}: ${answer.message}`);
  };
  let passed = 0, failed = 0;
  for (const [i, file] of files.entries()) {
    const database = `t_slt_${i}`;
    await manage("CreateDatabase", database);
    const run = async (sql: string): Promise<SqlAnswer> => {
      const { ok, answer } = await post("/api/v1/sql", { database, sql, rowLimit: rowsMax });
      return ok ? answer.results[0] : { error: `${answer.code}: ${answer.message}` };
    };
    const start = performance.now();
    const report = await runSlt(await Deno.readTextFile(file), run);
    await manage("DeleteDatabase", database);
    passed += report.passed;
    failed += report.failures.length;
    const seconds = ((performance.now() - start) / 1000).toFixed(1);
    const counts = `${report.passed} passed, ${report.failures.length} failed`;
    console.log(
      `${report.failures.length === 0 ? green("ok") : red("failed")} ${file}: ${counts} ${dim(`(${seconds} s)`)}`,
    );
    for (const failure of report.failures.slice(0, failuresShownMax)) console.log(`   ${failure}`);
    const more = report.failures.length - failuresShownMax;
    if (more > 0) console.log(`   and ${more} more`);
  }
  console.log(bold(`${files.length} files: ${passed} passed, ${failed} failed`));
  return failed === 0 ? 0 : 1;
}
