/**
 * Runs inside the guest of main.ts, with everything granted: real control groups of version 2, and in the second boot a
 * real systemd. Prints a line for each finding, `UC_CHECK {"name": ..., "ok": ..., "detail": ...}`, then `UC_DONE`.
 */
import assert from "node:assert/strict";
import { desiredSystemSchema, serviceSchema } from "@ultracloud/cluster-state";
import { Nix, TrialRunner } from "@ultracloud/nix-agent";
import {
  killRecorded,
  launcherUnit,
  type LaunchSpec,
  type LaunchStatus,
  probe,
  type ProcessRecord,
  scopeUnit,
} from "@ultracloud/node-agent";

const launcher = "/launcher";
const state = "/tmp/state";
const trialState = "/tmp/trial";
/** The guest is emulated, and its only processor is shared. */
const hangMsMax = 120_000;

async function until<T>(what: string, look: () => T | undefined | false | Promise<T | undefined | false>): Promise<T> {
  for (const end = performance.now() + hangMsMax;;) {
    const found = await look();
    if (found !== undefined && found !== false) return found;
    if (performance.now() > end) throw new Error(`Waited too long for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

const read = (path: string): string | undefined => {
  try {
    return Deno.readTextFileSync(path);
  } catch {
    return undefined;
  }
};

/** A zombie has ended: it only waits to be asked how. */
const lives = (pid: number) => {
  const status = read(`/proc/${pid}/status`);
  return status !== undefined && !/^State:\s+Z/m.test(status);
};
const statusOf = (id: string): LaunchStatus | undefined => {
  const text = read(`${state}/instances/${id}/status.json`);
  return text === undefined ? undefined : JSON.parse(text);
};
const logOf = (id: string): string => read(`${state}/instances/${id}/log/${"0".repeat(16)}`) ?? "";
function write(id: string, script: string, limits: Record<string, unknown> = {}): void {
  const { limits: parsed, ...template } = serviceSchema.parse({ command: ["/bin/sh", "-c", script], limits });
  const spec: LaunchSpec = {
    id,
    service: "s",
    revision: "1",
    node: "guest",
    template: { ...template, limits: parsed },
  };
  Deno.mkdirSync(`${state}/instances/${id}`, { recursive: true });
  Deno.mkdirSync(`${state}/pids`, { recursive: true });
  Deno.writeTextFileSync(`${state}/instances/${id}/spec.json`, JSON.stringify(spec));
  Deno.writeTextFileSync(`${state}/lease.json`, JSON.stringify({ untilUptime: 1e9 }));
}

function launchArgs(id: string, kind: string): string[] {
  return [state, id, kind, ...(kind === "systemd" ? [launcher] : [])];
}

/** Starts the instance as node-agent does, and answers once it says how it is. */
async function start(id: string, kind: string, script: string, limits: Record<string, unknown> = {}) {
  write(id, script, limits);
  const child = new Deno.Command(launcher, { args: launchArgs(id, kind), stdin: "null", stdout: "null" }).spawn();
  const status = await until(`${id} to say how it is`, () => {
    const status = statusOf(id);
    return status !== undefined && status.phase !== "starting" && status;
  });
  return { child, status };
}

/**
 * Where the kernel counts what the instance takes; one that does not run says why. Its process is there from the first
 * moment, but under systemd in its launcher's unit until `systemd-run` has a scope for it and becomes it.
 */
async function groupOf(id: string, kind: string, { pid, reason }: LaunchStatus): Promise<string> {
  const path = await until(`the group of ${id}`, () => {
    const found = pid === 0 ? undefined : /^0::(.*)$/m.exec(read(`/proc/${pid}/cgroup`) ?? "")?.[1];
    assert.ok(found !== undefined, `process ${pid} has no group: ${reason}`);
    return (kind !== "systemd" || found.endsWith(`/${scopeUnit(id)}`)) && found;
  });
  return `/sys/fs/cgroup${path}`;
}

const ended = (id: string) => until(`the end of ${id}`, () => statusOf(id)?.phase === "exited" && statusOf(id));

async function check(name: string, work: () => Promise<string> | string): Promise<void> {
  let ok = true, detail: string;
  try {
    detail = await work();
  } catch (error) {
    ok = false;
    detail = error instanceof Error ? error.stack ?? error.message : String(error);
  }
  console.log(`UC_CHECK ${JSON.stringify({ name, ok, detail })}`);
}

const escaping = "setsid sh -c 'echo $$; exec sleep 100000' & while :; do sleep 1; done";

async function instances(kind: string): Promise<void> {
  const all = ["cpuMillis", "memoryBytes", "tasksMax"];
  await check(`the host's best is found: ${kind}, which holds every limit`, () => {
    const found = probe();
    assert.deepEqual([found.kind, [...found.holds].sort()], [kind, all], found.reason);
    return found.reason;
  });
  await check("an instance that takes more memory than it may is ended, and the reason says so", async () => {
    const { child } = await start("fat", kind, "head -c 400000000 /dev/zero | tail", { memoryBytes: 48 * 2 ** 20 });
    const { reason, confinement } = await ended("fat");
    assert.match(reason, /out of its 50331648 bytes of memory/);
    assert.equal(confinement, `${kind}: memoryBytes 50331648`);
    await child.status;
    return `${confinement}; ${reason}`;
  });
  await check("an instance that starts more processes than it may cannot", async () => {
    const script = "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 1000 & done; wait";
    const { child } = await start("many", kind, script, { tasksMax: 5 });
    const { reason } = await ended("many");
    assert.match(reason, /fork/i);
    await child.status;
    return reason;
  });
  await check("an instance that spins is held to its share of a processor", async () => {
    const { status } = await start("spin", kind, "while :; do :; done", { cpuMillis: 200 });
    const group = await groupOf("spin", kind, status);
    const throttled = await until("throttling", () => {
      const count = Number(/^nr_throttled (\d+)$/m.exec(read(`${group}/cpu.stat`) ?? "")?.[1] ?? 0);
      return count >= 20 && count;
    });
    const max = read(`${group}/cpu.max`)!.trim();
    assert.equal(max, "20000 100000");
    await stop("spin");
    return `cpu.max ${max}, throttled ${throttled} times`;
  });
  await check("a stop ends what left its session, too", async () => {
    const { status } = await start("stray", kind, escaping);
    const escaped = Number(await until("the escaped process", () => /^\d+\n/.exec(logOf("stray"))?.[0]));
    assert.ok(lives(escaped) && escaped !== status.pid);
    await stop("stray");
    await until("the end of both", () => !lives(escaped) && !lives(status.pid));
    return `processes ${status.pid} and ${escaped} ended`;
  });
}

async function stop(id: string): Promise<void> {
  Deno.writeTextFileSync(`${state}/instances/${id}/stop.json`, "{}");
  await ended(id);
}

/** The pid of the launcher that holds the instance. */
function launcherPid(id: string): number {
  for (const { name } of Deno.readDirSync("/proc")) {
    const words = (/^\d+$/.test(name) ? read(`/proc/${name}/cmdline`) : undefined)?.split("\0") ?? [];
    if (words[0]?.endsWith("deno") && words.includes("/launcher.js") && words.includes(id)) return Number(name);
  }
  throw new Error(`Cannot find the launcher of ${id}`);
}

async function withoutSystemd(): Promise<void> {
  await instances("cgroup");
  await check(
    "a launcher that was killed leaves processes; the next one ends all of them before it starts",
    async () => {
      await start("orphan", "cgroup", escaping);
      const escaped = Number(await until("the escaped process", () => /^\d+\n/.exec(logOf("orphan"))?.[0]));
      Deno.kill(launcherPid("orphan"), "SIGKILL");
      assert.ok(lives(escaped));
      Deno.removeSync(`${state}/instances/orphan/status.json`);
      await start("orphan", "cgroup", "sleep 1000");
      assert.equal(lives(escaped), false);
      await stop("orphan");
      return `process ${escaped} ended with the next launcher`;
    },
  );
}

async function systemctl(...args: string[]): Promise<string> {
  const { stdout, stderr } = await new Deno.Command("systemctl", { args, stdin: "null" }).output();
  return new TextDecoder().decode(stdout).trim() + new TextDecoder().decode(stderr).trim();
}

async function run(program: string, ...args: string[]): Promise<void> {
  const { success, stderr } = await new Deno.Command(program, { args, stdin: "null" }).output();
  assert.ok(success, new TextDecoder().decode(stderr));
}

async function withSystemd(): Promise<void> {
  await instances("systemd");
  await check("an instance runs in a scope of its own, bound to the unit of its launcher", async () => {
    const { status } = await start("web", "systemd", "sleep 100000", { memoryBytes: 64 * 2 ** 20, tasksMax: 16 });
    const [scope, unit] = [scopeUnit("web"), launcherUnit("web")];
    assert.equal(await groupOf("web", "systemd", status), `/sys/fs/cgroup/ultracloud.slice/${scope}`);
    const shown = await systemctl("show", "--property=BindsTo,MemoryMax,TasksMax", scope);
    for (const line of [`BindsTo=${unit}`, "MemoryMax=67108864", "TasksMax=16"]) assert.ok(shown.includes(line), shown);
    assert.equal(await systemctl("is-active", unit), "active");
    await stop("web");
    return shown.replaceAll("\n", ", ");
  });
  await check("a launcher that is killed takes its instance with it, with no agent there to look", async () => {
    const { status } = await start("bound", "systemd", escaping);
    const escaped = Number(await until("the escaped process", () => /^\d+\n/.exec(logOf("bound"))?.[0]));
    Deno.kill(launcherPid("bound"), "SIGKILL");
    await until("the end of its processes", () => !lives(status.pid) && !lives(escaped));
    return `processes ${status.pid} and ${escaped} ended with their launcher`;
  });
  await check("a restart of the agent's unit leaves its instances alone", async () => {
    write("kept", "sleep 100000");
    const command = `${launcher} ${launchArgs("kept", "systemd").join(" ")}; sleep 100000`;
    await run("systemd-run", "--unit=agent.service", "/bin/sh", "-c", command);
    const status = await until("the instance", () => statusOf("kept")?.phase === "running" && statusOf("kept"));
    await run("systemctl", "stop", "agent.service");
    assert.equal(await systemctl("is-active", "agent.service"), "inactive");
    assert.ok(lives(status.pid));
    await stop("kept");
    return `process ${status.pid} lived on without the agent's unit`;
  });
  await check("a trial of nix-agent goes on when the agent's own unit is stopped in the middle", async () => {
    await run(
      "systemd-run",
      "--unit=nix-agent.service",
      "--setenv=HOME=/root",
      "/usr/bin/deno",
      "run",
      "--no-config",
      "-A",
      "/checks.js",
      "trial",
    );
    const runner = trialRunner();
    await until("the trial", async () => await runner.phase() === "verifying");
    await run("systemctl", "stop", "nix-agent.service");
    assert.equal(await systemctl("is-active", "nix-agent.service"), "inactive");
    assert.equal(await runner.alive(), true);
    await until("a healthy trial", async () => {
      assert.equal(await runner.result(), undefined);
      return await runner.phase() === "healthy";
    });
    await runner.confirm();
    assert.equal(await until("the result", () => runner.result()), "active");
    return "started in a transient unit, healthy after the agent's unit was stopped, confirmed, active";
  });
}

const trialRunner = () =>
  new TrialRunner(
    { stateDir: trialState, launcher: "systemd", switchTimeoutMs: 60_000 },
    new Nix({ root: "/tmp/root", profile: "/profile", nixConfDir: undefined, home: "/tmp" }),
  );

/** As the agent: starts a trial and stays. */
async function startTrial(): Promise<void> {
  const system = desiredSystemSchema.parse({
    target_system: `/nix/store/${"a".repeat(32)}-system`,
    health_check_command: ["true"],
    health_check_grace_ms: 5_000,
  });
  await trialRunner().start({
    id: "01guest",
    intentId: "1",
    system,
    previousGeneration: 0,
    previousSystem: "",
    bootId: "boot-1",
    rebooting: false,
  }, "verify");
  await new Promise((resolve) => setTimeout(resolve, 1e9));
}

const [mode] = Deno.args;
if (mode === "trial") await startTrial();
else {
  if (mode === "systemd") await withSystemd();
  else await withoutSystemd();
  for (const { name } of Deno.readDirSync(`${state}/pids`)) {
    const text = read(`${state}/pids/${name}`);
    if (text !== undefined) killRecorded(JSON.parse(text) as ProcessRecord);
  }
  console.log("UC_DONE");
  Deno.writeTextFileSync("/proc/sysrq-trigger", "o");
}
