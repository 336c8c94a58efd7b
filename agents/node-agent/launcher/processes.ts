import type { ProcessRecord } from "../domain/files.ts";

function read(path: string): string | undefined {
  try {
    return Deno.readTextFileSync(path);
  } catch {
    return undefined;
  }
}

/** The process with this pid now, or undefined. */
export function recordOf(pid: number): ProcessRecord | undefined {
  const stat = read(`/proc/${pid}/stat`);
  // The name in parentheses may hold anything; fields follow the last one.
  const startTicks = stat?.slice(stat.lastIndexOf(")") + 2).split(" ")[19];
  const bootId = read("/proc/sys/kernel/random/boot_id")?.trim();
  return startTicks === undefined || bootId === undefined ? undefined : { pid, startTicks, bootId };
}

/** Seconds after boot, to the hundredth. */
export function uptime(): number {
  return Number(read("/proc/uptime")!.split(" ")[0]);
}

/** Kills the process group that the record's process leads, if that is still the one. */
export function killRecorded(record: ProcessRecord): void {
  const now = recordOf(record.pid);
  if (now?.startTicks === record.startTicks && now.bootId === record.bootId) signalGroup(record.pid, "SIGKILL");
}

/** To every process of the group; one that is gone already is no error. */
export function signalGroup(leader: number, signal: Deno.Signal): void {
  try {
    Deno.kill(-leader, signal);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound) && !(error instanceof TypeError)) {
      if (!/ESRCH|No such process/.test(String(error))) throw error;
    }
  }
}
