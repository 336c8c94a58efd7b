/** A process as something that can be found again: a pid alone may have been given to somebody else. */
export interface ProcessIdentity {
  readonly pid: number;
  /** Field 22 of /proc/<pid>/stat: clock ticks from boot to the process's start. */
  readonly startTicks: string;
}

/** Start ticks of a living, not zombie, process; undefined when there is none. */
function startTicksOf(pid: number): string | undefined {
  let stat: string;
  try {
    stat = Deno.readTextFileSync(`/proc/${pid}/stat`);
  } catch {
    return undefined;
  }
  // The command name may hold spaces and brackets: fields are counted after the last one.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  if (fields[0] === "Z") return undefined;
  return fields[19];
}

/** Identity of a living process; undefined when it is gone. */
export function identify(pid: number): ProcessIdentity | undefined {
  const startTicks = startTicksOf(pid);
  return startTicks === undefined ? undefined : { pid, startTicks };
}

/** True while exactly this process lives. */
export function isAlive(identity: ProcessIdentity): boolean {
  return startTicksOf(identity.pid) === identity.startTicks;
}

/** Sends a signal to exactly this process; false when it is gone. */
export function signalProcess(identity: ProcessIdentity, signal: Deno.Signal): boolean {
  if (!isAlive(identity)) return false;
  try {
    Deno.kill(identity.pid, signal);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

/**
 * Processes whose command line contains `needle` and, when given, whose program's name begins with `program`; used to
 * find what a killed launcher left behind.
 */
export function findByCommandLine(needle: string, program = ""): ProcessIdentity[] {
  const found: ProcessIdentity[] = [];
  for (const entry of Deno.readDirSync("/proc")) {
    if (!/^\d+$/.test(entry.name)) continue;
    const pid = Number(entry.name);
    if (pid === Deno.pid) continue;
    let commandLine: string;
    try {
      commandLine = Deno.readTextFileSync(`/proc/${pid}/cmdline`).replaceAll("\0", " ");
    } catch {
      continue;
    }
    if (!commandLine.includes(needle)) continue;
    const name = commandLine.split(" ")[0]!.split("/").at(-1)!;
    if (!name.startsWith(program)) continue;
    const identity = identify(pid);
    if (identity) found.push(identity);
  }
  return found;
}

/** Asks each process to end, waits up to `graceMs`, then kills what is left. Answers how many had to be killed. */
export async function endProcesses(identities: readonly ProcessIdentity[], graceMs: number): Promise<number> {
  for (const identity of identities) signalProcess(identity, "SIGTERM");
  if (await waitGone(identities, graceMs)) return 0;
  let killed = 0;
  for (const identity of identities) if (signalProcess(identity, "SIGKILL")) killed++;
  await waitGone(identities, 5_000);
  return killed;
}

/** True once none of them lives; false when `timeoutMs` passes first. */
export async function waitGone(identities: readonly ProcessIdentity[], timeoutMs: number): Promise<boolean> {
  const deadline = performance.now() + timeoutMs;
  while (identities.some(isAlive)) {
    if (performance.now() > deadline) return false;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return true;
}
