import type { Limits } from "../domain/confinement.ts";
import type { Confinement, Probe } from "./confinement.ts";

/** There while systemd is the init of this host (sd_booted(3)). */
const bootedDir = "/run/systemd/system";
const slice = "ultracloud.slice";
/** Both units of an instance are found by its name. */
export const launcherUnit = (id: string) => `ultracloud-launch-${id}.service`;
export const scopeUnit = (id: string) => `ultracloud-run-${id}.scope`;
/** Until the launcher in its unit has taken its lock and says how it is. */
const unitStartMsMax = 60_000;

interface Ended {
  readonly code: number;
  readonly words: string;
}

async function run(program: string, args: readonly string[]): Promise<Ended> {
  try {
    const { code, stdout, stderr } = await new Deno.Command(program, {
      args: [...args],
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).output();
    const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes).trim();
    return { code, words: text(code === 0 ? stdout : stderr).slice(0, 300) };
  } catch (error) {
    return { code: -1, words: error instanceof Error ? error.message : String(error) };
  }
}

/** The program's path, by this process's own PATH: an instance may have another one. */
function find(program: string): string {
  for (const dir of (Deno.env.get("PATH") ?? "").split(":")) {
    const path = `${dir}/${program}`;
    try {
      if (Deno.statSync(path).isFile) return path;
    } catch {
      // Not there.
    }
  }
  throw new Error(`${program} is not on the PATH of the launcher`);
}

const systemctl = (...args: string[]) => run("systemctl", args);

/** Units, when systemd runs here; it holds each limit whose controller it has. */
export function probeSystemd(booted = bootedDir): Probe | undefined {
  try {
    if (!Deno.statSync(booted).isDirectory) return undefined;
  } catch {
    return undefined;
  }
  const reason = `systemd runs here: units in ${slice}`;
  return { kind: "systemd", holds: ["cpuMillis", "memoryBytes", "tasksMax"], reason };
}

/** The properties of a unit that hold the limits. */
export function limitProperties({ cpuMillis, memoryBytes, tasksMax }: Limits): string[] {
  return [
    ...(cpuMillis === undefined ? [] : [`CPUQuota=${cpuMillis / 10}%`]),
    ...(memoryBytes === undefined ? [] : [`MemoryMax=${memoryBytes}`, "MemorySwapMax=0"]),
    ...(tasksMax === undefined ? [] : [`TasksMax=${tasksMax}`]),
  ];
}

/**
 * Starts a launcher in a unit of its own, so that a restart of node-agent's unit does not end it, and waits until
 * `isThere`. Throws an Error that says why it did not start.
 */
export async function startLauncherUnit(
  o: { readonly id: string; readonly command: readonly string[]; readonly env: Readonly<Record<string, string>> },
  isThere: () => boolean,
): Promise<void> {
  const unit = launcherUnit(o.id);
  const args = [
    "--quiet",
    "--collect",
    `--unit=${unit}`,
    `--slice=${slice}`,
    "--property=Type=exec",
    `--description=UltraCloud instance ${o.id}`,
    ...Object.entries(o.env).map(([name, value]) => `--setenv=${name}=${value}`),
    "--",
    ...o.command,
  ];
  const started = await run("systemd-run", args);
  if (started.code !== 0) throw new Error(`systemd-run ended with ${started.code}: ${started.words}`);
  for (const end = performance.now() + unitStartMsMax; !isThere();) {
    if (performance.now() > end) {
      // It must not come after all, when its instance is said to have ended.
      await systemctl("kill", "--signal=SIGKILL", unit);
      await systemctl("stop", unit);
      throw new Error(`${unit} did not take up its instance within ${unitStartMsMax} ms`);
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** A scope for the instance's processes. It goes with the unit of its launcher, whatever ended that. */
export async function openScope(
  o: { readonly id: string; readonly limits: Limits; readonly text: string },
): Promise<Confinement> {
  const scope = scopeUnit(o.id), launcher = launcherUnit(o.id);
  const kill = async () => {
    // Not loaded any more is as good as killed.
    await systemctl("kill", "--signal=SIGKILL", scope);
  };
  const forget = async () => {
    await systemctl("stop", scope);
    await systemctl("reset-failed", scope);
  };
  await kill();
  await forget();
  const bound = (await systemctl("is-active", launcher)).code === 0;
  const properties = [
    ...limitProperties(o.limits),
    "TimeoutStopSec=5s",
    // A launcher that is killed leaves nothing behind, also while no agent and no scheduler is there to look.
    ...(bound ? [`BindsTo=${launcher}`, `After=${launcher}`] : []),
  ];
  const program = find("systemd-run");
  return {
    text: o.text,
    wrap: (command) => [
      program,
      "--quiet",
      "--scope",
      `--unit=${scope}`,
      `--slice=${slice}`,
      ...properties.map((property) => `--property=${property}`),
      "--",
      ...command,
    ],
    kill,
    outOfMemory: async () => (await systemctl("show", "--property=Result", "--value", scope)).words === "oom-kill",
    [Symbol.asyncDispose]: forget,
  };
}
