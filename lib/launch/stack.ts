import { fault, type Placement } from "@ultracloud/base";
import { generateIdentity, standardGrants, svcId, type TrustFile } from "@ultracloud/authz";
import { stringify } from "smol-toml";
import { type FleetMember, loadFleet } from "./fleet.ts";
import { helperSource, placeHelpers } from "./helpers.ts";
import { configOf, doesWithout } from "./local_config.ts";
import { endProcesses, findByCommandLine, isAlive, type ProcessIdentity, waitGone } from "./process_table.ts";
import { waitReady } from "./readiness.ts";
import { makeRunDir } from "./run_dir.ts";
import { type ComponentProcess, sourceDeno, spawnComponent } from "./spawn.ts";

/** A unix socket path may have 107 bytes; the longest below a run directory is `/vm-agent/slot-00/console.sock`. */
const runDirCharsMax = 107 - "/vm-agent/slot-00/console.sock".length;
/** Principals that are no component but have an identity: `uc` speaks to the stores as the operator. */
const operatorName = "operator";

export interface StackOptions {
  /** Root of the workspace. */
  readonly root: string;
  /** Everything the stack writes is below it, but for a short run directory when its path is long. */
  readonly dataDir: string;
  readonly components: readonly string[];
  /** Port of each listener, "chainfire.rpc" -> 7100. */
  readonly ports: Readonly<Record<string, number>>;
  readonly clusterId: string;
  /** Merged over the derived configuration, by component. */
  readonly overrides?: Readonly<Record<string, Readonly<Record<string, unknown>>>>;
  /** Command in front of a component's own, which it must become: `ip netns exec NAME`. */
  readonly enter?: Readonly<Record<string, readonly string[]>>;
}

/** The components of one cloud on this machine, each a process of its own under its pinned permissions, on loopback. */
export interface Stack extends AsyncDisposable {
  readonly dataDir: string;
  readonly runDir: string;
  readonly operatorKeyFile: string;
  readonly adminTokenFile: string;
  endpoint(component: string): string;
  placement(component: string): Placement;
  member(component: string): FleetMember;
  logFile(component: string): string;
  process(component: string): ComponentProcess | undefined;
  /** Starts a component that does not run; it is not yet ready. */
  start(component: string): ComponentProcess;
  /** Starts all and waits until each is ready; `onReady` is called as they come. */
  startAll(
    options: { timeoutMs: number; signal?: AbortSignal; onReady?: (component: string, ms: number) => void },
  ): Promise<void>;
  /** Ends every component and every guest, whoever started them; leaves the data. */
  stopAll(): Promise<void>;
  /** Lets the launcher exit while the stack goes on. */
  detach(): void;
}

interface RunningFile {
  readonly processes: Record<string, ProcessIdentity>;
}

/** Makes directories, keys, trust file and configurations; starts nothing. */
export async function prepareStack(options: StackOptions): Promise<Stack> {
  const fleet = await loadFleet(options.root);
  for (const name of options.components) {
    if (!fleet.has(name)) {
      throw fault(
        "not_found",
        "component_unknown",
        `Cannot start ${name}: wanted one of ${[...fleet.keys()].join(", ")}`,
      );
    }
  }
  const runDir = await runDirOf(options.dataDir);
  await privateDir(options.dataDir);
  await makeRunDir(runDir);
  await privateDir(`${options.dataDir}/log`);
  const trustFile = `${options.dataDir}/etc/trust.json`;
  const principals: TrustFile["principals"] = {};
  for (const name of [...options.components, operatorName]) {
    const etc = `${options.dataDir}/etc/${name}`;
    for (const dir of [etc, `${options.dataDir}/state/${name}`, `${runDir}/${name}`]) await privateDir(dir);
    const identity = await generateIdentity();
    await Deno.writeTextFile(`${etc}/identity.key`, JSON.stringify(identity.privateKey), { mode: 0o600 });
    principals[svcId(options.clusterId, name)] = { publicKey: identity.publicKey, grants: standardGrants(name) };
  }
  await Deno.writeTextFile(trustFile, JSON.stringify({ clusterId: options.clusterId, principals }, null, 2), {
    mode: 0o600,
  });
  const adminTokenFile = `${options.dataDir}/etc/iam/admin.token`;
  if (options.components.includes("iam")) {
    const secret = crypto.getRandomValues(new Uint8Array(32)).toBase64({ alphabet: "base64url", omitPadding: true });
    await Deno.writeTextFile(adminTokenFile, secret, { mode: 0o600 });
  }
  const stack = new LocalStack(options, fleet, runDir, trustFile, adminTokenFile);
  for (const name of options.components) {
    const config = { ...configOf(name, stack.placement(name), stack, options), ...options.overrides?.[name] };
    await Deno.writeTextFile(`${options.dataDir}/etc/${name}/config.toml`, stringify(config), { mode: 0o600 });
    const { manifest, dir } = stack.member(name);
    const configDir = `${options.dataDir}/etc/${name}`;
    await placeHelpers(manifest, {
      configDir,
      commandOf: (name) => [...sourceDeno(options.root), "-A", helperSource(dir, name)],
    });
  }
  return stack;
}

/** Run directory of a data directory: inside it when the path is short, else a hash below the temporary directory. */
export async function runDirOf(dataDir: string): Promise<string> {
  const inside = `${dataDir}/run`;
  if (inside.length <= runDirCharsMax) return inside;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(dataDir)));
  return `${Deno.env.get("TMPDIR") ?? "/tmp"}/uc-${digest.toHex().slice(0, 12)}`;
}

async function privateDir(dir: string): Promise<void> {
  await Deno.mkdir(dir, { recursive: true, mode: 0o700 });
}

/**
 * Ends whatever an earlier launcher of this data directory left: components by their recorded identities and by their
 * configuration's path, guests by their run directory. Answers how many processes there were.
 */
export async function endLeftovers(dataDir: string): Promise<number> {
  const runDir = await runDirOf(dataDir);
  await endInstances(dataDir);
  const recorded = Object.values(readRunning(dataDir).processes).filter(isAlive);
  let ended = 0;
  const end = async (found: readonly ProcessIdentity[]) => {
    const all = [...new Map(found.map((process) => [process.pid, process])).values()];
    await endProcesses(all, 3_000);
    ended += all.length;
  };
  // Components first: an agent that still lives starts again what ends beside it. By program too: an editor open on a
  // configuration is not ours to end.
  await end([...recorded, ...findByCommandLine(`${dataDir}/etc/`, "deno")]);
  // Guests, and the switch's daemons (ovsdb-server, ovs-vswitchd, ovn-controller ...): both outlive their agents.
  await end(["qemu-system", "ovs", "ovn"].flatMap((program) => findByCommandLine(`${runDir}/`, program)));
  await Deno.remove(`${dataDir}/running.json`).catch(() => {});
  await Deno.remove(runDir, { recursive: true }).catch(() => {});
  return ended;
}

/** Launchers outlive node-agent; without the lease that they run under each ends its instance and itself. */
async function endInstances(dataDir: string): Promise<void> {
  const stateDir = `${dataDir}/state/node-agent`;
  await Deno.remove(`${stateDir}/lease.json`).catch(() => {});
  const launchers = findByCommandLine(`${stateDir} `, "deno");
  if (!await waitGone(launchers, 5_000)) await endProcesses(launchers, 0);
}

/** Components of this data directory that live now, by name. */
export function runningComponents(dataDir: string): string[] {
  return Object.entries(readRunning(dataDir).processes).filter(([, identity]) => isAlive(identity)).map(([name]) =>
    name
  );
}

function readRunning(dataDir: string): RunningFile {
  try {
    return JSON.parse(Deno.readTextFileSync(`${dataDir}/running.json`));
  } catch {
    return { processes: {} };
  }
}

class LocalStack implements Stack {
  readonly dataDir: string;
  readonly runDir: string;
  readonly operatorKeyFile: string;
  readonly adminTokenFile: string;
  readonly #options: StackOptions;
  readonly #fleet: ReadonlyMap<string, FleetMember>;
  readonly #trustFile: string;
  readonly #processes = new Map<string, ComponentProcess>();

  constructor(
    options: StackOptions,
    fleet: ReadonlyMap<string, FleetMember>,
    runDir: string,
    trustFile: string,
    adminTokenFile: string,
  ) {
    this.#options = options;
    this.#fleet = fleet;
    this.#trustFile = trustFile;
    this.dataDir = options.dataDir;
    this.runDir = runDir;
    this.operatorKeyFile = `${options.dataDir}/etc/${operatorName}/identity.key`;
    this.adminTokenFile = adminTokenFile;
  }

  #address(listener: string): string {
    const port = this.#options.ports[listener];
    if (port === undefined) {
      throw fault("invalid_argument", "placement_incomplete", `Cannot place ${listener}: it has no port`);
    }
    return `127.0.0.1:${port}`;
  }

  endpoint(component: string): string {
    return `http://${this.#address(`${component}.rpc`)}`;
  }

  placement(component: string): Placement {
    const { manifest } = this.member(component);
    const listen: Record<string, string> = {};
    for (const name of Object.keys(manifest.listen)) listen[name] = this.#address(`${component}.${name}`);
    const callees: Record<string, string[]> = {};
    for (const callee of manifest.calls) {
      const [name] = callee.split(".") as [string];
      callees[callee] = doesWithout(component, name, this.#options) ? [] : [this.#address(callee)];
    }
    return {
      configDir: `${this.dataDir}/etc/${component}`,
      stateDir: `${this.dataDir}/state/${component}`,
      runDir: `${this.runDir}/${component}`,
      trustFile: this.#trustFile,
      listen,
      callees,
    };
  }

  member(component: string): FleetMember {
    const member = this.#fleet.get(component);
    if (!member) throw fault("not_found", "component_unknown", `Cannot find the component ${component}`);
    return member;
  }

  logFile(component: string): string {
    return `${this.dataDir}/log/${component}.log`;
  }

  process(component: string): ComponentProcess | undefined {
    return this.#processes.get(component);
  }

  start(component: string): ComponentProcess {
    const running = this.#processes.get(component);
    if (running && isAlive(running.identity)) return running;
    const { manifest, dir } = this.member(component);
    const process = spawnComponent({
      manifest,
      placement: this.placement(component),
      program: { kind: "source", root: this.#options.root, entry: `${dir}/${manifest.entry}` },
      logFile: this.logFile(component),
      enter: this.#options.enter?.[component] ?? [],
    });
    this.#processes.set(component, process);
    this.#record();
    return process;
  }

  /** Written whole at every start, so that a later launcher finds what a killed one left. */
  #record(): void {
    const processes: Record<string, ProcessIdentity> = {};
    for (const [name, process] of this.#processes) processes[name] = process.identity;
    const file = `${this.dataDir}/running.json`;
    Deno.writeTextFileSync(`${file}.new`, JSON.stringify({ processes }));
    Deno.renameSync(`${file}.new`, file);
  }

  async startAll(
    options: { timeoutMs: number; signal?: AbortSignal; onReady?: (component: string, ms: number) => void },
  ): Promise<void> {
    const start = performance.now();
    await Promise.all(this.#options.components.map(async (name) => {
      const process = this.start(name);
      await waitReady(this.endpoint(name), {
        name,
        timeoutMs: options.timeoutMs,
        process,
        ...(options.signal ? { signal: options.signal } : {}),
      });
      options.onReady?.(name, performance.now() - start);
    }));
  }

  async stopAll(): Promise<void> {
    await Promise.all([...this.#processes.values()].map((process) => process.stop()));
    this.#processes.clear();
    await endLeftovers(this.dataDir);
  }

  detach(): void {
    for (const process of this.#processes.values()) process.unref();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stopAll();
  }
}
