import { fault } from "@ultracloud/base";
import {
  type ClusterFile,
  isAlive,
  type ProcessIdentity,
  signalProcess,
  spawnDetached,
  type SpawnOptions,
  waitGone,
} from "@ultracloud/launch";
import type { ClusterHome } from "../home.ts";
import type { Journal } from "../journal.ts";
import { enterNamespace, lanName, plug, portName } from "../lan.ts";
import type { ComponentSignal, NodeDirs, NodeProcess, Pipe, StartSpec, Substrate } from "../substrate.ts";
import { type SubstrateSettings, v8FlagsOf } from "../settings.ts";
import { tool, type ToolOptions, type ToolResult } from "../tools.ts";
import { waitFor } from "../wait.ts";
import type { AgentFile, Seed } from "./agent_api.ts";
import { AgentClient } from "./agent_client.ts";
import { diskOrder, nodeCmdline, nodePaths } from "./guest_tree.ts";
import { makeDisk } from "./packing.ts";
import { helperProgram } from "./programs.ts";

const mib = 2 ** 20;
const logBytes = 256 * mib;
/** From power-on to an agent that answers, before patience. */
const bootTimeoutMs = 60_000;
/** A disk is read in blocks of this size. */
const sectorBytes = 512;
/**
 * A plain model: protection keys, five levels of page tables and wide vectors cost an emulator a sixth of its time, and
 * no program of a node needs them.
 */
const emulatedCpu = "Nehalem";
/** Code that the emulator has translated; beyond this it begins anew. */
const translatedMib = 256;

/** What the nodes boot; made outside of the cluster's network, where packages can be fetched. */
export interface QemuImages {
  readonly kernel: string;
  readonly initrd: string;
  readonly root: string;
  readonly programs: string;
}

/** File of the work root that says which images the cluster was made with. */
export function imagesFile(home: ClusterHome): string {
  return `${home.stateDir}/images.json`;
}

/**
 * Nodes as VMs: a kernel, a clock, a memory and disks of each node's own, emulated (TCG). They meet on the bridge of the
 * cluster's namespace; QEMU runs there too, so that whoever removes the namespace finds every VM. Power is taken away by
 * killing QEMU: what the guest's kernel had not written to its disk is lost.
 */
export class QemuSubstrate implements Substrate {
  readonly name = "qemu";
  readonly losesMemory = true;
  readonly ownClocks = true;
  readonly deno = nodePaths.deno;
  readonly #home: ClusterHome;
  readonly #cluster: ClusterFile;
  readonly #journal: Journal;
  readonly #vms: NonNullable<SubstrateSettings["vm"]>;
  readonly #patience: number;
  /** Code that is compiled on a node is translated once more by the emulator: interpreting it costs half of that. */
  readonly #v8Flags: string;
  readonly #agents = new Map<string, AgentClient>();

  constructor(home: ClusterHome, cluster: ClusterFile, journal: Journal, settings: SubstrateSettings) {
    this.#home = home;
    this.#cluster = cluster;
    this.#journal = journal;
    if (settings.vm === undefined) {
      throw fault("invalid_argument", "settings_invalid", "Cannot make VMs: wanted vm in qemu.json");
    }
    this.#vms = settings.vm;
    this.#patience = settings.patience;
    this.#v8Flags = v8FlagsOf(settings);
  }

  #dir(node: string): string {
    return `${this.#home.stateDir}/nodes/${node}`;
  }

  #index(node: string): number {
    return Object.keys(this.#cluster.nodes).indexOf(node) + 1;
  }

  dirs(_node: string): NodeDirs {
    const { etc, run, log } = nodePaths;
    return { etc, run, log, state: `${nodePaths.state}/state` };
  }

  etcDir(node: string): string {
    return `${this.#dir(node)}/etc`;
  }

  consoleFile(node: string): string {
    return `${this.#dir(node)}/console.log`;
  }

  program(component: string): SpawnOptions["program"] {
    return { kind: "bundle", deno: nodePaths.deno, path: `${nodePaths.programs}/${component}.js` };
  }

  helper(component: string, name: string, _source: string): string[] {
    const flags = ["--quiet", "--no-config", "--unstable-no-legacy-abort", "-A"];
    return [nodePaths.deno, "run", ...flags, `${nodePaths.programs}/${helperProgram(component, name)}.js`];
  }

  async create(node: string): Promise<void> {
    const spec = this.#cluster.nodes[node]!;
    const dir = this.#dir(node);
    await Deno.mkdir(dir, { recursive: true, mode: 0o700 });
    await makeDisk(`${dir}/state.img`, spec.diskBytesMax ?? this.#vms.diskBytes);
    await makeDisk(`${dir}/log.img`, logBytes);
    const bits = this.#cluster.network.cidr.split("/")[1];
    const token = crypto.getRandomValues(new Uint8Array(32)).toHex();
    await writeSeed(`${dir}/seed.img`, {
      hostname: node,
      address: `${spec.address}/${bits}`,
      token,
      v8Flags: this.#v8Flags,
    });
    const port = portName(this.#index(node));
    this.#journal.record({ kind: "namespace", name: lanName(this.#home) });
    await tool(["ip", "-n", lanName(this.#home), "tuntap", "add", "dev", port, "mode", "tap"]);
    await plug(this.#home, port);
    await this.#boot(node);
  }

  /** Starts QEMU; nothing when it runs. */
  async #boot(node: string): Promise<void> {
    if (this.#vm(node) !== undefined) return;
    const child = spawnDetached({
      name: node,
      command: [...enterNamespace(lanName(this.#home)), ...await this.#command(node)],
      logFile: `${this.#dir(node)}/qemu.log`,
      env: { PATH: Deno.env.get("PATH") ?? "/usr/bin:/bin" },
    });
    child.unref();
    await Deno.writeTextFile(this.#vmFile(node), JSON.stringify(child.identity));
  }

  async #command(node: string): Promise<string[]> {
    const images = JSON.parse(await Deno.readTextFile(imagesFile(this.#home))) as QemuImages;
    const dir = this.#dir(node);
    const files: Readonly<Record<typeof diskOrder[number], string>> = {
      root: images.root,
      programs: images.programs,
      seed: `${dir}/seed.img`,
      state: `${dir}/state.img`,
      log: `${dir}/log.img`,
    };
    const disks = diskOrder.flatMap((name) => {
      const mode = name === "state" || name === "log" ? "cache=writeback" : "readonly=on";
      return [
        ...["-drive", `file=${files[name]},if=none,id=${name},format=raw,${mode}`],
        ...["-device", `virtio-blk-pci,drive=${name}`],
      ];
    });
    const mac = `52:54:00:77:00:${this.#index(node).toString(16).padStart(2, "0")}`;
    const port = portName(this.#index(node));
    return [
      ...["qemu-system-x86_64", "-name", `${this.#home.prefix}-${node}`, "-nodefaults", "-no-user-config"],
      // Debian's QEMU 7.2 is unreliable with two emulated processors.
      ...["-machine", "pc", "-accel", `tcg,tb-size=${translatedMib}`, "-cpu", emulatedCpu, "-smp", "1"],
      ...["-m", `${this.#vms.memoryMib[this.#cluster.nodes[node]!.role]}`, "-display", "none", "-no-reboot"],
      ...["-kernel", images.kernel, "-initrd", images.initrd, "-append", nodeCmdline],
      ...["-chardev", `file,id=console,path=${this.consoleFile(node)},append=on`, "-serial", "chardev:console"],
      ...disks,
      ...["-netdev", `tap,id=lan,ifname=${port},script=no,downscript=no`],
      ...["-device", `virtio-net-pci,netdev=lan,mac=${mac},romfile=`, "-device", "virtio-rng-pci"],
    ];
  }

  #vmFile(node: string): string {
    return `${this.#dir(node)}/qemu.pid`;
  }

  /** QEMU of the node while it runs. */
  #vm(node: string): ProcessIdentity | undefined {
    try {
      const identity = JSON.parse(Deno.readTextFileSync(this.#vmFile(node))) as ProcessIdentity;
      return isAlive(identity) ? identity : undefined;
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return undefined;
      throw error;
    }
  }

  async powerOn(node: string, signal?: AbortSignal): Promise<void> {
    await this.#boot(node);
    const options = { timeoutMs: bootTimeoutMs, what: `${node} to boot`, everyMs: 200, signal };
    const up = await waitFor(options, async () => {
      if (this.#vm(node) === undefined) return false;
      return await this.#agent(node).isReady() || undefined;
    });
    if (up) return;
    const tail = async (path: string) => (await Deno.readTextFile(path).catch(() => "")).slice(-1_000);
    throw fault(
      "unavailable",
      "node_ended",
      `Cannot boot ${node}: its QEMU has ended\n${await tail(`${this.#dir(node)}/qemu.log`)}${await tail(
        this.consoleFile(node),
      )}`,
    );
  }

  async powerOff(node: string): Promise<void> {
    const vm = this.#vm(node);
    if (vm === undefined) return;
    signalProcess(vm, "SIGKILL");
    await waitGone([vm], 10_000);
  }

  pause(node: string): Promise<void> {
    this.#signalVm(node, "SIGSTOP");
    return Promise.resolve();
  }

  resume(node: string): Promise<void> {
    this.#signalVm(node, "SIGCONT");
    return Promise.resolve();
  }

  #signalVm(node: string, signal: "SIGSTOP" | "SIGCONT"): void {
    const vm = this.#vm(node);
    if (vm !== undefined) signalProcess(vm, signal);
  }

  /** A fault at once when the node has no power: nobody would answer. */
  #agent(node: string): AgentClient {
    if (this.#vm(node) === undefined) {
      throw fault("unavailable", "node_off", `Cannot reach ${node}: it has no power`);
    }
    const held = this.#agents.get(node);
    if (held) return held;
    const { token } = readSeed(`${this.#dir(node)}/seed.img`);
    const { address } = this.#cluster.nodes[node]!;
    const client = new AgentClient({ address, token, patience: this.#patience });
    this.#agents.set(node, client);
    return client;
  }

  async start(node: string, spec: StartSpec): Promise<void> {
    const env = {
      ...spec.env,
      PATH: "/usr/sbin:/usr/bin",
      HOME: "/root",
      DENO_DIR: `${nodePaths.state}/deno`,
      DENO_V8_FLAGS: this.#v8Flags,
    };
    const files: AgentFile[] = [];
    const add = async (name: string) => {
      const from = `${this.etcDir(node)}/${name}`;
      const executable = ((await Deno.stat(from)).mode! & 0o100) !== 0;
      files.push({ path: `${nodePaths.etc}/${name}`, executable, base64: (await Deno.readFile(from)).toBase64() });
    };
    await add("trust.json");
    for await (const { name, isFile } of Deno.readDir(`${this.etcDir(node)}/${spec.component}`)) {
      if (isFile) await add(`${spec.component}/${name}`);
    }
    await this.#agent(node).start({ ...spec, env }, files);
  }

  async signal(node: string, component: string, signal: ComponentSignal): Promise<boolean> {
    return this.#vm(node) !== undefined && await this.#agent(node).signal(component, signal);
  }

  async processes(node: string): Promise<NodeProcess[]> {
    return this.#vm(node) === undefined ? [] : await this.#agent(node).processes();
  }

  async exec(node: string, argv: readonly string[], options: ToolOptions = {}): Promise<ToolResult> {
    return await this.#agent(node).exec(argv, options);
  }

  async pipe(node: string, argv: readonly string[]): Promise<Pipe> {
    return await this.#agent(node).pipe(argv);
  }

  async attach(node: string, argv: readonly string[]): Promise<number> {
    return await this.#agent(node).attach(argv);
  }

  async readFile(node: string, path: string): Promise<string> {
    return await this.#agent(node).readFile(path);
  }

  async writeFile(node: string, path: string, data: Uint8Array): Promise<void> {
    await this.#agent(node).writeFiles([{ path, base64: data.toBase64() }]);
  }

  [Symbol.dispose](): void {
    for (const agent of this.#agents.values()) agent[Symbol.dispose]();
    this.#agents.clear();
  }
}

async function writeSeed(path: string, seed: Seed): Promise<void> {
  const text = new TextEncoder().encode(JSON.stringify(seed, null, 1) + "\n");
  const disk = new Uint8Array(Math.ceil(text.length / sectorBytes) * sectorBytes);
  disk.set(text);
  await Deno.writeFile(path, disk, { mode: 0o600 });
}

function readSeed(path: string): Seed {
  return JSON.parse(Deno.readTextFileSync(path).replaceAll("\0", "")) as Seed;
}
