/** Linux counts processor time in hundredths of a second for programs, whatever the kernel's own tick is. */
const ticksPerSecond = 100;

interface Process {
  readonly parent: number;
  readonly seconds: number;
  /** Of children that have ended and were waited for. */
  readonly secondsOfEnded: number;
}

function read(pid: number): Process {
  const fields = Deno.readTextFileSync(`/proc/${pid}/stat`).split(") ").at(-1)!.split(" ").map(Number);
  return {
    parent: fields[1]!,
    seconds: (fields[11]! + fields[12]!) / ticksPerSecond,
    secondsOfEnded: (fields[13]! + fields[14]!) / ticksPerSecond,
  };
}

/** Processor time that a process has used, all of its threads, in seconds. */
export function secondsOf(pid: number): number {
  return read(pid).seconds;
}

/** The same of a process and its children, those that live and those that have ended. */
export function secondsOfFamily(pid: number): number {
  const { seconds, secondsOfEnded } = read(pid);
  let sum = seconds + secondsOfEnded;
  for (const { name } of Deno.readDirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const child = read(Number(name));
      if (child.parent === pid) sum += child.seconds;
    } catch (error) {
      // It ended while the list was read; then its parent counts it the next time.
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
  return sum;
}

/** What one run of a load generator came to. */
export interface Run {
  readonly perSecond: number;
  /** Processor time per request. */
  readonly serverUs: number;
  readonly clientUs: number;
}

/** Runs a load generator to its end: what it printed, and the processor time that it used itself. */
export async function drive(
  program: string,
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Promise<{ readonly out: string; readonly seconds: number }> {
  // bash's own clock: what the kernel says of a child is not in Deno.Command.
  const { code, stdout, stderr } = await new Deno.Command("bash", {
    args: ["-c", 'TIMEFORMAT="took %U %S"; time "$@"', "bash", program, ...args],
    env: { ...env, LC_ALL: "C" },
  }).output();
  const out = new TextDecoder().decode(stdout), said = new TextDecoder().decode(stderr);
  const took = /took ([\d.]+) ([\d.]+)\s*$/.exec(said);
  if (code !== 0 || took === null) throw new Error(`${program} ${args.join(" ")}: ${said}${out}`);
  return { out, seconds: Number(took[1]) + Number(took[2]) };
}
