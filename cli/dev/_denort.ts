import { capture } from "./_process.ts";

/** The runtime that `deno compile` puts in front of a program. */
export type Denort =
  | {
    readonly kind: "real"; /** Absent when Deno finds it by itself. */
    readonly path?: string;
    readonly source: string;
  }
  | { readonly kind: "missing"; readonly tried: readonly string[] };

/** How long Deno may take to download its runtime, some 40 MB. */
const downloadMsMax = 60_000;

/** Lets `deno compile` look for its runtime by itself, with a program of one line. */
async function denoFetchesIt(): Promise<boolean> {
  const dir = await Deno.makeTempDir({ prefix: "uc-denort-" });
  try {
    await Deno.writeTextFile(`${dir}/main.ts`, "console.log(1);\n");
    const { success } = await new Deno.Command(Deno.execPath(), {
      args: ["compile", "-q", "--no-config", `--output=${dir}/main`, `${dir}/main.ts`],
      env: { DENORT_BIN: "" },
      stdin: "null",
      stdout: "null",
      stderr: "null",
      signal: AbortSignal.timeout(downloadMsMax),
    }).output();
    return success;
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

async function exists(path: string): Promise<boolean> {
  try {
    return (await Deno.stat(path)).isFile;
  } catch {
    return false;
  }
}

/** False for a deno binary under that name: what is compiled with it is a REPL. */
export async function isDenort(path: string): Promise<boolean> {
  if (!await exists(path)) return false;
  if (await Deno.realPath(path) === await Deno.realPath(Deno.execPath())) return false;
  try {
    const answer = await capture(path, { args: ["--version"], cwd: "/" });
    return !answer.stdout.startsWith("deno ");
  } catch {
    return false;
  }
}

/** Looks for a real denort: DENORT_BIN, beside deno, Deno's own cache, then what Deno downloads itself. */
export async function findDenort(): Promise<Denort> {
  const tried: string[] = [];
  const named = Deno.env.get("DENORT_BIN");
  if (named !== undefined) {
    if (await isDenort(named)) return { kind: "real", path: named, source: "DENORT_BIN" };
    tried.push(`DENORT_BIN=${named} is no denort`);
  } else tried.push("DENORT_BIN is not set");
  const beside = `${(await Deno.realPath(Deno.execPath())).replace(/[^/]*$/, "")}denort`;
  if (await isDenort(beside)) return { kind: "real", path: beside, source: "beside deno" };
  tried.push("none beside deno");
  const file = `release/v${Deno.version.deno}/denort-${Deno.build.target}.zip`;
  const cache = Deno.env.get("DENO_DIR") ?? `${Deno.env.get("HOME") ?? ""}/.cache/deno`;
  if (await exists(`${cache}/dl/${file}`)) return { kind: "real", source: "Deno's cache" };
  if (await denoFetchesIt()) return { kind: "real", source: "download" };
  tried.push("Deno could not download it");
  return { kind: "missing", tried };
}
