import { type ConfinementKind, confinementKinds } from "../domain/confinement.ts";
import type { LaunchSpec, LaunchStatus, Lease, ProcessRecord } from "../domain/files.ts";
import { confine, type Confinement, type Probe, probe, unheld } from "./confinement.ts";
import { askHealth } from "./health.ts";
import { LogWriter } from "./log.ts";
import { forgetSecrets, prepare, type Prepared } from "./prepare.ts";
import { killRecorded, recordOf, signalGroup, uptime } from "./processes.ts";
import { startLauncherUnit } from "./systemd.ts";

/** How often stop and lease are looked at. */
const lookMs = 100;
/** After SIGKILL nothing more can be done; a process that still does not end hangs in the kernel. */
const killGraceMs = 10_000;
/** An agent that looks whether somebody has the lock holds it for that moment. */
const lockTries = 10;
/** What a launcher in a unit needs of this one's environment: where its own program keeps things. */
const passedOn = ["HOME", "PATH", "DENO_DIR", "XDG_CACHE_HOME"];

interface Place {
  readonly stateDir: string;
  readonly dir: string;
  readonly pidFile: string;
}

/** One instance from its start to its end. Trusted with everything: it runs what it is told. */
async function main(stateDir: string, id: string, kind: ConfinementKind): Promise<void> {
  const dir = `${stateDir}/instances/${id}`;
  const lock = Deno.openSync(`${dir}/lock`, { create: true, write: true, mode: 0o600 });
  for (let tries = 1; !lock.tryLockSync(true); tries++) {
    if (tries === lockTries) return;
    await pause(lookMs / 2);
  }
  const at: Place = { stateDir, dir, pidFile: `${stateDir}/pids/${id}.json` };
  const before = readJson<ProcessRecord>(at.pidFile);
  // A launcher that was killed left its process alone.
  if (before) killRecorded(before);
  const write = (status: LaunchStatus) => writeJson(`${dir}/status.json`, status);
  const spec = readJson<LaunchSpec>(`${dir}/spec.json`);
  if (!spec) return;
  write({ phase: "starting", reason: "", pid: 0, confinement: "", clean: false });
  let end: Omit<LaunchStatus, "confinement">;
  let confinement = "";
  try {
    const limits = limitsOf(spec);
    const host = hostOf(kind);
    const left = unheld(limits, host.holds);
    if (left.length > 0 && spec.template.limits!.required) {
      throw new Error(`this host cannot hold its limits (${left.join(", ")}): ${host.reason}`);
    }
    await using inside = await confine({ stateDir, id, limits }, host);
    confinement = left.length === 0 ? inside.text : `${inside.text}; not held: ${left.join(", ")}, as ${host.reason}`;
    end = await run(spec, at, inside, (status) => write({ ...status, confinement }));
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    end = { phase: "exited", reason: `cannot start: ${reason.slice(0, 400)}`, pid: 0, clean: false };
  }
  forgetSecrets(dir);
  removeFile(at.pidFile);
  write({ ...end, confinement });
}

function limitsOf({ template: { limits } }: LaunchSpec) {
  const { cpuMillis, memoryBytes, tasksMax } = limits ?? {};
  return { cpuMillis, memoryBytes, tasksMax };
}

/** What the host can do, of the kind that the agent has settled on: less than the best, when it was told so. */
function hostOf(kind: ConfinementKind): Probe {
  if (kind === "group") return { kind, holds: [], reason: "it is set to use process groups alone" };
  const host = probe();
  if (host.kind !== kind) throw new Error(`wanted ${kind} on this host, found ${host.kind}: ${host.reason}`);
  return host;
}

async function run(
  spec: LaunchSpec,
  at: Place,
  inside: Confinement,
  write: (status: Omit<LaunchStatus, "confinement">) => void,
): Promise<Omit<LaunchStatus, "confinement">> {
  const { template } = spec;
  const prepared = prepare(spec, at.dir);
  using log = new LogWriter(`${at.dir}/log`);
  if (wantsEnd(at)) return { phase: "exited", reason: "stopped before it started", pid: 0, clean: true };
  const [program, ...args] = inside.wrap([prepared.program, ...prepared.args]);
  const child = new Deno.Command(program!, {
    args,
    env: { ...prepared.env },
    clearEnv: true,
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
    detached: true,
  }).spawn();
  const record = recordOf(child.pid);
  if (record) writeJson(at.pidFile, record);
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
  const outOfMemory = await inside.outOfMemory();
  // What it started goes with it.
  signalGroup(child.pid, "SIGKILL");
  await inside.kill();
  await Promise.race([drained, pause(1_000)]);
  await health?.done;
  if (cause !== "") return { phase: "exited", reason: cause, pid: 0, clean: cause === stopAsked };
  const { code, signal } = await status;
  const said = log.lastLine === "" ? "" : `: ${log.lastLine}`;
  const how = signal === null ? `ended with ${code}` : `ended by ${signal}`;
  const why = outOfMemory ? `, out of its ${template.limits?.memoryBytes} bytes of memory` : "";
  return { phase: "exited", reason: `${how}${why}${said}`, pid: 0, clean: code === 0 };
}

/** The launcher in the unit says how it is as soon as it has its lock; a unit that never does is the instance's end. */
async function startUnit(stateDir: string, id: string, program: string): Promise<void> {
  const statusFile = `${stateDir}/instances/${id}/status.json`;
  const env = Object.fromEntries(passedOn.flatMap((name) => {
    const value = Deno.env.get(name);
    return value === undefined ? [] : [[name, value]];
  }));
  try {
    await startLauncherUnit(
      { id, command: [program, stateDir, id, "systemd"], env },
      () => readJson(statusFile) !== undefined,
    );
  } catch (error) {
    const reason = `cannot start: ${error instanceof Error ? error.message : error}`;
    writeJson(statusFile, { phase: "exited", reason, pid: 0, confinement: "", clean: false } satisfies LaunchStatus);
  }
}

const stopAsked = "stopped";
const leaseEnded = "its node's lease has ended";

/** Why it must end, or undefined. */
function wantsEnd(at: Place): string | undefined {
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

const usage = `wanted \`probe\`, or the state directory, an instance, one of ${confinementKinds.join(", ")}` +
  " and, for a unit, the program of this launcher";

/**
 * launcher probe                            what this host can do for instances, as JSON
 * launcher STATE_DIR ID KIND                runs the instance to its end
 * launcher STATE_DIR ID systemd PROGRAM     starts PROGRAM in a unit of its own to do so, and leaves
 */
if (import.meta.main) {
  const [stateDir, id, kind, program, ...rest] = Deno.args;
  if (stateDir === "probe" && id === undefined) {
    console.log(JSON.stringify(probe()));
    Deno.exit(0);
  }
  if (id === undefined || !confinementKinds.includes(kind as ConfinementKind) || rest.length > 0) {
    console.error(`Cannot launch ${JSON.stringify(Deno.args)}: ${usage}`);
    Deno.exit(2);
  }
  if (program === undefined) await main(stateDir!, id, kind as ConfinementKind);
  else await startUnit(stateDir!, id, program);
  Deno.exit(0);
}
