import type { LaunchSpec, LaunchStatus, Lease, ProcessRecord } from "../domain/files.ts";
import { type Cgroup, makeCgroup } from "./cgroup.ts";
import { askHealth } from "./health.ts";
import { LogWriter } from "./log.ts";
import { forgetSecrets, prepare, type Prepared } from "./prepare.ts";
import { killRecorded, recordOf, signalGroup, uptime } from "./processes.ts";

/** How often stop and lease are looked at. */
const lookMs = 100;
/** After SIGKILL nothing more can be done; a process that still does not end hangs in the kernel. */
const killGraceMs = 10_000;

/** One instance from its start to its end: `launcher STATE_DIR ID`. Trusted with everything: it runs what it is told. */
async function main(stateDir: string, id: string): Promise<void> {
  const dir = `${stateDir}/instances/${id}`;
  const lock = Deno.openSync(`${dir}/lock`, { create: true, write: true, mode: 0o600 });
  if (!lock.tryLockSync(true)) return;
  const pidFile = `${stateDir}/pids/${id}.json`;
  const before = readJson<ProcessRecord>(pidFile);
  // A launcher that was killed left its process alone.
  if (before) killRecorded(before);
  const write = (status: LaunchStatus) => writeJson(`${dir}/status.json`, status);
  const spec = readJson<LaunchSpec>(`${dir}/spec.json`);
  if (!spec) return;
  write({ phase: "starting", reason: "", pid: 0, clean: false });
  let end: LaunchStatus;
  try {
    using cgroup = makeCgroup(id);
    end = await run(spec, { stateDir, dir, pidFile }, cgroup, write);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    end = { phase: "exited", reason: `cannot start: ${reason.slice(0, 400)}`, pid: 0, clean: false };
  }
  forgetSecrets(dir);
  removeFile(pidFile);
  write(end);
}

async function run(
  spec: LaunchSpec,
  at: { readonly stateDir: string; readonly dir: string; readonly pidFile: string },
  cgroup: Cgroup | undefined,
  write: (status: LaunchStatus) => void,
): Promise<LaunchStatus> {
  const { template } = spec;
  const prepared = prepare(spec, at.dir);
  using log = new LogWriter(`${at.dir}/log`);
  if (wantsEnd(at)) return { phase: "exited", reason: "stopped before it started", pid: 0, clean: true };
  const child = new Deno.Command(prepared.program, {
    args: [...prepared.args],
    env: { ...prepared.env },
    clearEnv: true,
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
    detached: true,
  }).spawn();
  const record = recordOf(child.pid);
  if (record) writeJson(at.pidFile, record);
  cgroup?.add(child.pid);
  const drained = Promise.all([copy(child.stdout, log), copy(child.stderr, log)]);
  let ended = false;
  const status = child.status.finally(() => ended = true);
  const tell = (phase: LaunchStatus["phase"], reason = "") => write({ phase, reason, pid: child.pid, clean: false });
  tell("running");
  const health = template.healthCheck ? watchHealth(spec, prepared, tell, () => ended) : undefined;

  let cause = "";
  while (!ended) {
    cause = wantsEnd(at) ?? (health?.failed ? `unhealthy: ${health.failed}` : "");
    if (cause !== "") break;
    await Promise.race([status, pause(lookMs)]);
  }
  if (!ended) {
    // Without a lease there is no time for manners.
    if (cause !== leaseEnded) {
      signalGroup(child.pid, "SIGTERM");
      const until = performance.now() + template.stopGraceMs;
      while (!ended && performance.now() < until && leaseHolds(at.stateDir)) {
        await Promise.race([status, pause(lookMs)]);
      }
    }
    if (!ended) signalGroup(child.pid, "SIGKILL");
  }
  await Promise.race([status, pause(killGraceMs)]);
  // What it started goes with it.
  signalGroup(child.pid, "SIGKILL");
  cgroup?.kill();
  await Promise.race([drained, pause(1_000)]);
  await health?.done;
  if (cause !== "") return { phase: "exited", reason: cause, pid: 0, clean: cause === stopAsked };
  const { code, signal } = await status;
  const said = log.lastLine === "" ? "" : `: ${log.lastLine}`;
  const how = signal === null ? `ended with ${code}` : `ended by ${signal}`;
  return { phase: "exited", reason: `${how}${said}`, pid: 0, clean: code === 0 };
}

const stopAsked = "stopped";
const leaseEnded = "its node's lease has ended";

/** Why it must end, or undefined. */
function wantsEnd(at: { readonly stateDir: string; readonly dir: string }): string | undefined {
  if (!leaseHolds(at.stateDir)) return leaseEnded;
  try {
    Deno.statSync(`${at.dir}/stop.json`);
    return stopAsked;
  } catch {
    return undefined;
  }
}

function leaseHolds(stateDir: string): boolean {
  const lease = readJson<Lease>(`${stateDir}/lease.json`);
  return lease !== undefined && uptime() < lease.untilUptime;
}

/** Asks for health until the end; `failed` says why once it has failed too often in a row. */
function watchHealth(
  spec: LaunchSpec,
  prepared: Prepared,
  tell: (phase: LaunchStatus["phase"], reason?: string) => void,
  isOver: () => boolean,
): { failed: string; readonly done: Promise<void> } {
  const { graceMs, intervalMs, failuresMax } = spec.template.healthCheck!;
  const started = performance.now();
  const state = { failed: "", done: Promise.resolve() };
  state.done = (async () => {
    let failures = 0, was: LaunchStatus["phase"] = "running";
    while (!isOver() && state.failed === "") {
      const wrong = await askHealth(spec.template, prepared);
      if (isOver()) return;
      if (wrong === undefined) failures = 0;
      // Early failures are the start itself.
      else if (performance.now() - started > graceMs || was === "healthy") failures++;
      const phase: LaunchStatus["phase"] = wrong === undefined ? "healthy" : failures > 0 ? "unhealthy" : was;
      if (phase !== was) tell(was = phase, wrong ?? "");
      if (failures >= failuresMax) state.failed = wrong!;
      for (let left = intervalMs; left > 0 && !isOver(); left -= lookMs) await pause(Math.min(left, lookMs));
    }
  })();
  return state;
}

async function copy(from: ReadableStream<Uint8Array>, log: LogWriter): Promise<void> {
  try {
    for await (const bytes of from) log.write(bytes);
  } catch (error) {
    console.error(`Cannot keep the output: ${error}`);
  }
}

const pause = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

function readJson<T>(path: string): T | undefined {
  try {
    return JSON.parse(Deno.readTextFileSync(path)) as T;
  } catch {
    return undefined;
  }
}

/** All of it or nothing is seen. */
function writeJson(path: string, value: unknown): void {
  Deno.writeTextFileSync(`${path}.new`, JSON.stringify(value), { mode: 0o600 });
  Deno.renameSync(`${path}.new`, path);
}

function removeFile(path: string): void {
  try {
    Deno.removeSync(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

if (import.meta.main) {
  const [stateDir, id] = Deno.args;
  if (stateDir === undefined || id === undefined) {
    console.error("Cannot launch: wanted the state directory and an instance");
    Deno.exit(2);
  }
  await main(stateDir, id);
  Deno.exit(0);
}
