/**
 * Child processes that never outlive the tool. Each runs in its own process group, so that ending it also ends what
 * it started itself.
 */
const groups = new Set<number>();
let ending = false;

export interface RunOptions {
  readonly args: readonly string[];
  readonly cwd: string;
  readonly env?: Readonly<Record<string, string>>;
  /** Output goes here instead of to this process's own stdout and stderr. */
  readonly logFile?: string;
  /** The group is ended when it takes longer. */
  readonly timeoutMs?: number;
}

export interface RunResult {
  readonly code: number;
  readonly timedOut: boolean;
  /** What ended it, `SIGSEGV`; null when it ended by itself. */
  readonly signal: Deno.Signal | null;
}

/** Time a group gets between the request to end and being killed: longer than any component's own shutdown. */
const graceMs = 15_000;

function signalGroup(pid: number, signal: Deno.Signal): void {
  try {
    Deno.kill(-pid, signal);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound) && !(error instanceof TypeError)) throw error;
  }
}

/** Runs a program to its end. */
export async function runProgram(program: string, options: RunOptions): Promise<RunResult> {
  const stdio = options.logFile === undefined ? "inherit" : "piped";
  const child = new Deno.Command(program, {
    args: [...options.args],
    cwd: options.cwd,
    env: { ...options.env },
    stdin: "null",
    stdout: stdio,
    stderr: stdio,
    detached: true,
  }).spawn();
  groups.add(child.pid);
  let timedOut = false;
  let killer: ReturnType<typeof setTimeout> | undefined;
  const timer = options.timeoutMs === undefined ? undefined : setTimeout(() => {
    timedOut = true;
    signalGroup(child.pid, "SIGTERM");
    killer = setTimeout(() => signalGroup(child.pid, "SIGKILL"), graceMs);
  }, options.timeoutMs);
  try {
    if (options.logFile === undefined) {
      const { code, signal } = await child.status;
      return { code, signal, timedOut };
    }
    using log = await Deno.open(options.logFile, { write: true, create: true, append: true });
    const drain = async (stream: ReadableStream<Uint8Array>) => {
      for await (const chunk of stream) {
        for (let at = 0; at < chunk.length;) at += await log.write(chunk.subarray(at));
      }
    };
    const [status] = await Promise.all([child.status, drain(child.stdout), drain(child.stderr)]);
    return { code: status.code, signal: status.signal, timedOut };
  } finally {
    clearTimeout(timer);
    clearTimeout(killer);
    groups.delete(child.pid);
    // What the child left behind has lost its parent: it ends with it.
    signalGroup(child.pid, "SIGKILL");
    // Once the tool is ending nothing may follow: the signal handler leaves the process.
    if (ending) await new Promise<never>(() => {});
  }
}

/** Runs this same Deno, which need not be on PATH. */
export function runDeno(options: RunOptions): Promise<RunResult> {
  return runProgram(Deno.execPath(), options);
}

/** Runs a program and answers its output; for short answers only. */
export async function capture(
  program: string,
  options: { args: readonly string[]; cwd: string; env?: Readonly<Record<string, string>> },
): Promise<{ code: number; stdout: string; stderr: string }> {
  const output = await new Deno.Command(program, {
    args: [...options.args],
    cwd: options.cwd,
    env: { ...options.env },
    stdin: "null",
  }).output();
  const decoder = new TextDecoder();
  return { code: output.code, stdout: decoder.decode(output.stdout), stderr: decoder.decode(output.stderr) };
}

/** On Ctrl-C or SIGTERM: asks every group to end, waits, kills the rest, and leaves with the shell's code. */
export function endChildrenOnSignal(): void {
  const end = async (code: number) => {
    if (ending) {
      for (const pid of groups) signalGroup(pid, "SIGKILL");
      Deno.exit(code);
    }
    ending = true;
    for (const pid of groups) signalGroup(pid, "SIGINT");
    const deadline = performance.now() + graceMs;
    while (groups.size > 0 && performance.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 50));
    for (const pid of groups) signalGroup(pid, "SIGKILL");
    Deno.exit(code);
  };
  Deno.addSignalListener("SIGINT", () => void end(130));
  Deno.addSignalListener("SIGTERM", () => void end(143));
}
