import { fault } from "@ultracloud/base";

/** The last of what a program said is enough for a marker; the whole is on the console. */
const wordsCharsMax = 600;

export interface Ended {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly env?: Readonly<Record<string, string>>;
  readonly stdin?: string;
  readonly signal?: AbortSignal;
}

/** Runs a pinned program to its end, whatever its exit code. It is killed when the signal aborts. */
export type Run = (program: string, args: readonly string[], options?: RunOptions) => Promise<Ended>;

/** `Run` over real processes. */
export const runProgram: Run = async (program, args, options = {}) => {
  const { stdin, env, signal } = options;
  try {
    const child = new Deno.Command(program, {
      args: [...args],
      stdin: stdin === undefined ? "null" : "piped",
      stdout: "piped",
      stderr: "piped",
      ...(env === undefined ? {} : { env }),
      ...(signal === undefined ? {} : { signal }),
    }).spawn();
    if (stdin !== undefined) {
      const writer = child.stdin.getWriter();
      // A program that ends without reading says why by its code.
      await writer.write(new TextEncoder().encode(stdin)).catch(() => {});
      await writer.close().catch(() => {});
    }
    const { code, stdout, stderr } = await child.output();
    signal?.throwIfAborted();
    const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
    return { code, stdout: text(stdout), stderr: text(stderr) };
  } catch (cause) {
    if (!(cause instanceof Deno.errors.NotFound)) throw cause;
    throw fault("failed_precondition", "program_missing", `Cannot start ${program}: wanted it on the PATH`, { cause });
  }
};

/** The last of what a program said, without the colours of a terminal, on one line. */
export function lastWords({ stdout, stderr }: Ended): string {
  // deno-lint-ignore no-control-regex -- the escapes are what is taken out
  const plain = (stderr.trim() || stdout.trim()).replaceAll(/\x1b\[[0-9;]*[A-Za-z]/g, "");
  return plain.split("\n").map((line) => line.trim()).filter((line) => line !== "").join("; ").slice(-wordsCharsMax);
}

/** Runs a program that must succeed; answers what it printed. `code` is that of the fault when it does not. */
export async function must(
  run: Run,
  code: string,
  program: string,
  args: readonly string[],
  options: RunOptions = {},
): Promise<string> {
  const ended = await run(program, args, options);
  if (ended.code === 0) return ended.stdout;
  throw fault(
    "failed_precondition",
    code,
    `Cannot run ${program} ${args.join(" ").slice(0, 160)}: it ended with ${ended.code}: ${lastWords(ended)}`,
  );
}

/** A file of /proc or /sys, which no component may open itself; empty when it is not there. */
export async function readSystemFile(run: Run, path: string): Promise<string> {
  const ended = await run("cat", [path]);
  return ended.code === 0 ? ended.stdout.replaceAll("\0", "").trim() : "";
}
