import { fault, permissionsOf } from "@ultracloud/base";
import { loadFleet, prepareStack, spawnComponent, type Stack } from "@ultracloud/launch";
import { type Command, parseFlags } from "./_command.ts";
import { type Denort, findDenort } from "./_denort.ts";
import { type Fleet, productionPlacement, type Site } from "./_fleet_table.ts";
import { capture } from "./_process.ts";
import { portsFor } from "./run.ts";
import { bold, formatMib, formatSpan, formatTable, green, red, yellow } from "./_term.ts";
import { readTextIfPresent, workRoot } from "./_workspace.ts";

/** A person's tool acts with that person's rights; it is still never asked a question. */
const ucFlags = [
  "--no-prompt",
  "--allow-net",
  "--allow-read",
  "--allow-write",
  "--allow-env",
  "--allow-run",
  "--allow-sys",
];
const ucEntry = "cli/main.ts";

/** A component that has not answered /healthz by then does not start. */
const healthMsMax = 15_000;

interface Target {
  readonly name: string;
  readonly entry: string;
  readonly flags: readonly string[];
}

interface Row {
  readonly name: string;
  readonly ms: number;
  readonly bytes: number;
  readonly wrong?: string;
  readonly healthy?: boolean;
}

function targetOf(name: string, fleet: Fleet, root: string, site: Site): Target {
  const member = fleet.get(name);
  if (!member) return { name: "uc", entry: ucEntry, flags: ucFlags };
  const flags = permissionsOf(member.manifest, productionPlacement(member.manifest, fleet, site));
  return { name, entry: `${member.dir.slice(root.length + 1)}/${member.manifest.entry}`, flags };
}

async function compile(root: string, target: Target, output: string, env: Record<string, string>): Promise<Row> {
  const start = performance.now();
  const result = await capture(Deno.execPath(), {
    args: [
      "compile",
      "-q",
      "--no-check",
      "--frozen",
      "--exclude-unused-npm",
      ...target.flags,
      "--output",
      output,
      target.entry,
    ],
    cwd: root,
    env: { NO_COLOR: "1", ...env },
  });
  const ms = performance.now() - start;
  if (result.code !== 0) return { name: target.name, ms, bytes: 0, wrong: (result.stderr || result.stdout).trim() };
  return { name: target.name, ms, bytes: (await Deno.stat(output)).size };
}

async function answersHealth(url: string): Promise<boolean> {
  const deadline = performance.now() + healthMsMax;
  while (performance.now() < deadline) {
    try {
      const response = await fetch(`${url}/healthz`, { signal: AbortSignal.timeout(1_000) });
      await response.body?.cancel();
      if (response.ok) return true;
    } catch {
      // Not listening yet.
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  return false;
}

/** Starts a real product: `uc` must answer, a component must be healthy on its own port under its baked flags. */
async function startProduct(
  root: string,
  fleet: Fleet,
  stack: Stack,
  target: Target,
  dir: string,
  env: Record<string, string>,
) {
  if (target.name === "uc") return (await capture(`${dir}/uc`, { args: ["version"], cwd: root })).code === 0;
  const manifest = fleet.get(target.name)?.manifest;
  if (!manifest) return false;
  // The product's flags name the directories of a node; the same program is compiled once more for these.
  const placement = stack.placement(target.name);
  const path = `${dir}/${target.name}.here`;
  const compiled = await compile(root, { ...target, flags: permissionsOf(manifest, placement) }, path, env);
  if (compiled.wrong) return false;
  const process = spawnComponent({
    manifest,
    placement,
    program: { kind: "binary", path },
    logFile: stack.logFile(target.name),
  });
  try {
    return await answersHealth(stack.endpoint(target.name));
  } finally {
    await process.stop();
    await Deno.remove(path);
  }
}

function printTable(rows: readonly Row[], runtimeBytes: number, denort: Denort): void {
  const state = (row: Row) =>
    row.wrong
      ? "does not compile"
      : denort.kind === "missing"
      ? "compiles (proof only)"
      : row.healthy
      ? "starts"
      : "does not start";
  const cells = rows.map((row) => [
    row.name,
    formatSpan(row.ms),
    row.bytes === 0 ? "-" : formatMib(row.bytes),
    row.bytes === 0 || runtimeBytes === 0 ? "-" : formatMib(row.bytes - runtimeBytes),
    state(row),
  ]);
  console.log(formatTable([["program", "time", "size", "without runtime", "state"], ...cells]));
}

/** Compiles every component and `uc` with their pinned flags. */
export const buildCommand: Command = {
  name: "build",
  help: `deno task build [name...] [--proof] [--listen-address A] [--peers-cidr C]

Compiles into work/build and prints a table of sizes and times. With a real denort (DENORT_BIN, beside deno, in Deno's
cache or reachable for download) each product is also started and must answer /healthz. Without one the compilation is
proven with a stand-in runtime and the results, which would not run, are deleted.

  --proof            prove only, even where a real denort is
  --listen-address   address a node binds, baked into the flags (0.0.0.0)
  --peers-cidr       network of the peers, baked into the flags (10.0.0.0/8)`,
  async run(args, root) {
    const { values, positionals } = parseFlags({
      args: [...args],
      allowPositionals: true,
      options: {
        proof: { type: "boolean", default: false },
        "listen-address": { type: "string", default: "0.0.0.0" },
        "peers-cidr": { type: "string", default: "10.0.0.0/8" },
      },
    });
    const fleet = await loadFleet(root);
    const site = { listen: String(values["listen-address"]), peers: String(values["peers-cidr"]) };
    const all = ["uc", ...fleet.keys()];
    const unknown = positionals.find((name) => !all.includes(name));
    if (unknown !== undefined) {
      throw fault("not_found", "component_unknown", `Cannot build ${unknown}: wanted one of ${all.join(", ")}`);
    }
    const chosen = positionals.length === 0 ? all : all.filter((name) => positionals.includes(name));
    const targets = chosen.map((name) => targetOf(name, fleet, root, site));
    const denort: Denort = values.proof === true
      ? { kind: "missing", tried: ["--proof was given"] }
      : await findDenort();
    const dir = `${workRoot(root)}/build`;
    await Deno.mkdir(dir, { recursive: true });
    const env: Record<string, string> = denort.kind === "missing"
      ? { DENORT_BIN: await Deno.realPath(Deno.execPath()) }
      : denort.path === undefined
      ? {}
      : { DENORT_BIN: denort.path };
    const runtimeBytes = env["DENORT_BIN"] === undefined ? 0 : (await Deno.stat(env["DENORT_BIN"])).size;
    const rows: Row[] = [];
    for (const target of targets) {
      const output = `${dir}/${target.name}`;
      if (await readTextIfPresent(`${root}/${target.entry}`) === undefined) {
        rows.push({ name: target.name, ms: 0, bytes: 0, wrong: `${target.entry} does not exist` });
        continue;
      }
      const row = await compile(root, target, output, env);
      if (denort.kind === "missing") {
        await Deno.remove(output).catch(() => {});
        rows.push(row);
      } else if (row.wrong) rows.push(row);
      else rows.push({ ...row, healthy: await tryProduct(root, fleet, target, dir, env) });
    }
    printTable(rows, runtimeBytes, denort);
    for (const row of rows) if (row.wrong) console.log(`${red("failed")} ${row.name}: ${row.wrong}`);
    const failed = rows.some((row) => row.wrong !== undefined || row.healthy === false);
    if (denort.kind === "missing") {
      console.log(bold(yellow("COMPILE PROOF ONLY: nothing was kept, as no real denort is here")));
      for (const sentence of denort.tried) console.log(`  ${sentence}`);
    } else if (!failed) console.log(`${green("ok")} ${dir} holds ${rows.length} programs (denort: ${denort.source})`);
    return failed ? 1 : 0;
  },
};

async function tryProduct(root: string, fleet: Fleet, target: Target, dir: string, env: Record<string, string>) {
  await using stack = await prepareStack({
    root,
    dataDir: `${dir}/.try`,
    components: [...fleet.keys()],
    ports: portsFor(fleet, [...fleet.keys()], false),
    clusterId: "build",
  });
  return await startProduct(root, fleet, stack, target, dir, env);
}
