import { fault } from "@ultracloud/base";
import { type Command, parseFlags } from "./_command.ts";
import { runDeno } from "./_process.ts";
import { bold, dim, formatSpan, red } from "./_term.ts";
import { listSources, loadWorkspace } from "./_workspace.ts";

/** No benchmark may hold the machine longer: fifty guests boot under TCG in one of them. */
const benchMsMax = 400_000;

interface Bench {
  /** `rpc/echo` for lib/rpc/echo_bench.ts. */
  readonly name: string;
  readonly file: string;
  /** Programs that print their own table; the others are made of Deno.bench. */
  readonly isProgram: boolean;
}

/** `lib/rpc/echo_bench.ts` as `rpc/echo`. */
function benchName(file: string): string {
  return file.replace(/^(lib|services|agents)\//, "").replace(/_bench(_main)?\.ts$/, "");
}

async function findBenches(root: string): Promise<Bench[]> {
  const found: Bench[] = [];
  for (const member of (await loadWorkspace(root)).members) {
    for (const file of await listSources(root, member.dir)) {
      if (!/_bench(_main)?\.ts$/.test(file)) continue;
      const text = await Deno.readTextFile(`${root}/${file}`);
      found.push({ name: benchName(file), file, isProgram: !/\bDeno\s*\.\s*bench\s*\(/.test(text) });
    }
  }
  return found;
}

/** Runs benchmarks one after the other. */
export const benchCommand: Command = {
  name: "bench",
  help: `deno task bench [name...]

Runs every *_bench.ts and *_bench_main.ts, or those whose name contains one of the given words, one after the other,
each for at most ${benchMsMax / 1_000} s. Installs nothing: a peer that is not on the machine is left out by name.

  --list   print the names and run nothing`,
  async run(args, root) {
    const { values, positionals } = parseFlags({
      args: [...args],
      allowPositionals: true,
      options: { list: { type: "boolean", default: false } },
    });
    const all = await findBenches(root);
    const chosen = positionals.length === 0
      ? all
      : all.filter((bench) => positionals.some((word) => bench.name.includes(word)));
    if (chosen.length === 0) {
      const names = all.map((bench) => bench.name).join(", ") || "a *_bench.ts beside the code it measures";
      throw fault(
        "not_found",
        "bench_unknown",
        `Cannot find a benchmark for ${positionals.join(" ") || "anything"}: wanted one of ${names}`,
      );
    }
    if (values.list === true) {
      for (const bench of chosen) console.log(`${bench.name}  ${dim(bench.file)}`);
      return 0;
    }
    let failedCount = 0;
    for (const bench of chosen) {
      console.log(`\n${bold(bench.name)} ${dim(bench.file)}`);
      const start = performance.now();
      const args = bench.isProgram ? ["run", "-q", "-A", bench.file] : ["bench", "-q", "-A", bench.file];
      const result = await runDeno({ args, cwd: root, timeoutMs: benchMsMax });
      const span = formatSpan(performance.now() - start);
      if (result.code === 0 && !result.timedOut) console.log(dim(`(${span})`));
      else {
        failedCount++;
        console.log(`${red("failed")} ${bench.name} after ${span}${result.timedOut ? ": it took too long" : ""}`);
      }
    }
    return failedCount === 0 ? 0 : 1;
  },
};
