import { fault } from "@ultracloud/base";

export interface ToolResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface ToolOptions {
  readonly cwd?: string;
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
}

/** A program of the host that does not end is killed after this. */
const toolTimeoutMs = 60_000;

/** Runs a program to its end, whatever its exit code; a fault only when it is not there or takes too long. */
export async function runTool(argv: readonly string[], options: ToolOptions = {}): Promise<ToolResult> {
  const [program, ...args] = argv as [string, ...string[]];
  const timeoutMs = options.timeoutMs ?? toolTimeoutMs;
  const late = AbortSignal.timeout(timeoutMs);
  const signal = options.signal === undefined ? late : AbortSignal.any([late, options.signal]);
  try {
    const { code, stdout, stderr } = await new Deno.Command(program, {
      args,
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
      signal,
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    }).output();
    options.signal?.throwIfAborted();
    if (late.aborted) {
      throw fault("deadline_exceeded", "tool_timeout", `Cannot wait for ${argv.join(" ")}: ${timeoutMs} ms passed`);
    }
    const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
    return { code, stdout: text(stdout), stderr: text(stderr) };
  } catch (cause) {
    if (!(cause instanceof Deno.errors.NotFound)) throw cause;
    throw fault("failed_precondition", "tool_missing", `Cannot run ${program}: it is not installed`, { cause });
  }
}

/** Runs a program that must succeed; answers its output. */
export async function tool(argv: readonly string[], options: ToolOptions = {}): Promise<string> {
  const { code, stdout, stderr } = await runTool(argv, options);
  if (code === 0) return stdout;
  const said = (stderr || stdout).trim().slice(-600);
  throw fault("internal", "tool_failed", `Cannot run ${argv.join(" ").slice(0, 200)}: it ended with ${code}: ${said}`);
}

/** Where a program of this name is on PATH; undefined when it is nowhere. */
export function whichTool(name: string): string | undefined {
  for (const dir of [...(Deno.env.get("PATH") ?? "").split(":"), "/usr/sbin", "/sbin"]) {
    try {
      if (dir !== "" && Deno.statSync(`${dir}/${name}`).isFile) return `${dir}/${name}`;
    } catch {
      // Not in this one.
    }
  }
  return undefined;
}
