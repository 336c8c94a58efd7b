import { type ComponentManifest, fault, permissionsOf, type Placement } from "@ultracloud/base";
import { identify, type ProcessIdentity, signalProcess, waitGone } from "./process_table.ts";

export interface SpawnOptions {
  readonly manifest: ComponentManifest;
  readonly placement: Placement;
  /**
   * Source: run by this Deno with the manifest's flags. Bundle: a `deno bundle` product, run by the Deno of its host
   * with the manifest's flags. Binary: a `deno compile` product with its flags inside.
   */
  readonly program:
    | { readonly kind: "source"; readonly root: string; readonly entry: string }
    | { readonly kind: "bundle"; readonly deno: string; readonly path: string }
    | { readonly kind: "binary"; readonly path: string };
  /** Standard output and error are appended here, so that they outlive the launcher. */
  readonly logFile: string;
  readonly env?: Readonly<Record<string, string>>;
  /** Arguments after the entry; the default names the configuration file. */
  readonly args?: readonly string[];
  /** Command in front, which becomes the component: `ip netns exec NAME`. */
  readonly enter?: readonly string[];
}

/** A started component. It is in its own session: signals of the launcher's terminal do not reach it. */
export interface ComponentProcess {
  readonly name: string;
  readonly identity: ProcessIdentity;
  readonly logFile: string;
  /** Settles when the process ends. */
  readonly ended: Promise<{ readonly code: number; readonly signal: string | null }>;
  signal(signal: Deno.Signal): void;
  /** SIGTERM, then SIGKILL after the grace. */
  stop(graceMs?: number): Promise<void>;
  kill(): Promise<void>;
  /** Lets the launcher exit while the process goes on. */
  unref(): void;
}

/** How long a component may take to end by itself before it is killed. */
export const stopGraceMs = 5_000;

/** The command line that runs a component under exactly its pinned permissions. */
export function commandOf(options: Pick<SpawnOptions, "manifest" | "placement" | "program" | "args">): string[] {
  const args = options.args ?? ["--config", `${options.placement.configDir}/config.toml`];
  const { program } = options;
  if (program.kind === "binary") return [program.path, ...args];
  const permissions = permissionsOf(options.manifest, options.placement);
  if (program.kind === "bundle") {
    // What the workspace's deno.json switches on; there is none beside a bundle.
    const flags = ["--quiet", "--no-config", "--unstable-no-legacy-abort"];
    return [program.deno, "run", ...flags, ...permissions, program.path, ...args];
  }
  return [...sourceDeno(program.root), ...permissions, program.entry, ...args];
}

/** The command that runs a source of the workspace at `root`; grants and the source follow. */
export function sourceDeno(root: string): string[] {
  return [Deno.execPath(), "run", "--quiet", "--frozen", `--config=${root}/deno.json`];
}

/** Starts a component; it is running, not yet ready, when this returns. */
export function spawnComponent(options: SpawnOptions): ComponentProcess {
  return spawnDetached({
    name: options.manifest.name,
    command: [...options.enter ?? [], ...commandOf(options)],
    logFile: options.logFile,
    env: { ...componentEnv(), ...options.env },
  });
}

/** Starts a command in a session of its own with exactly this environment. */
export function spawnDetached(options: {
  readonly name: string;
  readonly command: readonly string[];
  readonly logFile: string;
  readonly env: Readonly<Record<string, string>>;
}): ComponentProcess {
  // The shell only opens the log and becomes the component: Deno.Command cannot append a child's output to a file.
  const child = new Deno.Command("/bin/sh", {
    args: ["-c", 'exec "$@" >>"$UC_LAUNCH_LOG" 2>&1 </dev/null', "sh", ...options.command],
    clearEnv: true,
    env: { ...options.env, UC_LAUNCH_LOG: options.logFile },
    stdin: "null",
    stdout: "null",
    stderr: "null",
    detached: true,
  }).spawn();
  const identity = identify(child.pid);
  if (!identity) {
    throw fault(
      "unavailable",
      "component_start_failed",
      `Cannot start ${options.name}: it ended at once; see its log`,
    );
  }
  const ended = child.status.then(({ code, signal }) => ({ code, signal }));
  return {
    name: options.name,
    identity,
    logFile: options.logFile,
    ended,
    signal: (signal) => void signalProcess(identity, signal),
    async stop(graceMs = stopGraceMs) {
      signalProcess(identity, "SIGTERM");
      if (!await waitGone([identity], graceMs)) signalProcess(identity, "SIGKILL");
      await ended;
    },
    async kill() {
      signalProcess(identity, "SIGKILL");
      await ended;
    },
    unref: () => child.unref(),
  };
}

/** What a component needs from the launcher's environment; nothing else leaks into it. */
export function componentEnv(): Record<string, string> {
  const env: Record<string, string> = { DENO_NO_UPDATE_CHECK: "1", NO_COLOR: "1" };
  for (const name of ["PATH", "HOME", "DENO_DIR", "TMPDIR", "NPM_CONFIG_REGISTRY", "DENO_TLS_CA_STORE"]) {
    const value = Deno.env.get(name);
    if (value !== undefined) env[name] = value;
  }
  // Where the switch's daemons are; a login shell that became root by `su` alone lacks it.
  env.PATH = [...(env.PATH ?? "").split(":"), "/usr/sbin", "/sbin"].filter((dir) => dir !== "").join(":");
  return env;
}
