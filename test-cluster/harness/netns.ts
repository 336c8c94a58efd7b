import {
  type ClusterFile,
  findByCommandLine,
  makeRunDir,
  type ProcessIdentity,
  signalProcess,
  sourceDeno,
  type SpawnOptions,
  waitGone,
} from "@ultracloud/launch";
import { workspaceRoot } from "@ultracloud/testing";
import { namespaces, processesIn } from "./clean.ts";
import { ComponentTable } from "./component_table.ts";
import type { ClusterHome } from "./home.ts";
import type { Journal } from "./journal.ts";
import { enterNamespace, lanName, plug, portName } from "./lan.ts";
import type { ComponentSignal, NodeDirs, NodeProcess, Pipe, StartSpec, Substrate } from "./substrate.ts";
import { runTool, tool, type ToolOptions, type ToolResult } from "./tools.ts";

/** The node's interface, inside its namespace. */
const nic = "eth0";

/**
 * Nodes as network namespaces: own addresses, own processes (each component in a session of its own), own directories.
 * They share the kernel, the clock and the power supply, so a lost node is one whose processes were all killed.
 */
export class NetnsSubstrate implements Substrate {
  readonly name = "netns";
  readonly losesMemory = false;
  readonly ownClocks = false;
  readonly deno = Deno.execPath();
  readonly #home: ClusterHome;
  readonly #cluster: ClusterFile;
  readonly #journal: Journal;

  constructor(home: ClusterHome, cluster: ClusterFile, journal: Journal) {
    this.#home = home;
    this.#cluster = cluster;
    this.#journal = journal;
  }

  #namespace(node: string): string {
    return `${this.#home.prefix}-${node}`;
  }

  #dir(node: string): string {
    return `${this.#home.stateDir}/nodes/${node}`;
  }

  dirs(node: string): NodeDirs {
    const dir = this.#dir(node);
    return { etc: `${dir}/etc`, state: `${dir}/disk/state`, run: `${this.#home.runDir}/${node}`, log: `${dir}/log` };
  }

  etcDir(node: string): string {
    return this.dirs(node).etc;
  }

  async create(node: string): Promise<void> {
    const spec = this.#cluster.nodes[node]!;
    const { state, run, log } = this.dirs(node);
    await makeRunDir(this.#home.runDir);
    await Deno.mkdir(run, { recursive: true, mode: 0o700 });
    await Deno.mkdir(log, { recursive: true, mode: 0o700 });
    if (spec.diskBytesMax !== undefined) await this.#mountDisk(node, spec.diskBytesMax);
    await Deno.mkdir(state, { recursive: true, mode: 0o700 });

    const name = this.#namespace(node);
    if ((await namespaces()).includes(name)) return;
    this.#journal.record({ kind: "namespace", name });
    await tool(["ip", "netns", "add", name]);
    const port = portName(Object.keys(this.#cluster.nodes).indexOf(node) + 1);
    await tool([
      ...["ip", "-n", lanName(this.#home), "link", "add", port],
      ...["type", "veth", "peer", "name", nic, "netns", name],
    ]);
    await plug(this.#home, port);
    await tool(["ip", "-n", name, "link", "set", "lo", "up"]);
    const bits = this.#cluster.network.cidr.split("/")[1];
    await tool(["ip", "-n", name, "addr", "add", `${spec.address}/${bits}`, "dev", nic]);
    await tool(["ip", "-n", name, "link", "set", nic, "up"]);
  }

  /**
   * A file system of its own that fills up. A real one tells so as late as disks do; where the kernel has no loop
   * devices, memory does.
   */
  async #mountDisk(node: string, bytes: number): Promise<void> {
    const dir = `${this.#dir(node)}/disk`;
    const image = `${this.#dir(node)}/disk.img`;
    await Deno.mkdir(dir, { recursive: true });
    this.#journal.record({ kind: "mount", path: dir });
    try {
      await tool(["truncate", "-s", String(bytes), image]);
      await tool(["mkfs.ext4", "-q", "-m", "0", image]);
      await tool(["mount", "-o", "loop", image, dir]);
    } catch {
      await tool(["mount", "-t", "tmpfs", "-o", `size=${bytes},mode=0700`, "tmpfs", dir]);
    }
  }

  program(_component: string, entry: string): SpawnOptions["program"] {
    return { kind: "source", root: workspaceRoot, entry };
  }

  helper(_component: string, _name: string, source: string): string[] {
    return [...sourceDeno(workspaceRoot), "-A", source];
  }

  async start(node: string, spec: StartSpec): Promise<void> {
    await this.#table(node).start(spec, this.#enter(node));
  }

  #enter(node: string): string[] {
    return enterNamespace(this.#namespace(node));
  }

  #table(node: string): ComponentTable {
    return new ComponentTable(`${this.#dir(node)}/pids`);
  }

  signal(node: string, component: string, signal: ComponentSignal): Promise<boolean> {
    return Promise.resolve(this.#table(node).signal(component, signal));
  }

  processes(node: string): Promise<NodeProcess[]> {
    return Promise.resolve(this.#table(node).list());
  }

  async powerOff(node: string): Promise<void> {
    const name = this.#namespace(node);
    await tool(["ip", "-n", name, "link", "set", nic, "down"]);
    // Not asked to end, as a power cut does not ask.
    for (let all = await this.#everything(node); all.length > 0; all = await this.#everything(node)) {
      for (const process of all) signalProcess(process, "SIGKILL");
      await waitGone(all, 5_000);
    }
  }

  async powerOn(node: string): Promise<void> {
    await tool(["ip", "-n", this.#namespace(node), "link", "set", nic, "up"]);
  }

  /** Components and what they started: guests run in the same namespace. */
  async #everything(node: string): Promise<ProcessIdentity[]> {
    const inside = await processesIn(this.#namespace(node));
    const guests = findByCommandLine(`${this.dirs(node).run}/`, "qemu-system");
    return [...new Map([...inside, ...guests].map((p) => [p.pid, p])).values()];
  }

  async pause(node: string): Promise<void> {
    for (const process of await this.#everything(node)) signalProcess(process, "SIGSTOP");
  }

  async resume(node: string): Promise<void> {
    for (const process of await this.#everything(node)) signalProcess(process, "SIGCONT");
  }

  async exec(node: string, argv: readonly string[], options: ToolOptions = {}): Promise<ToolResult> {
    return await runTool([...this.#enter(node), ...argv], options);
  }

  pipe(node: string, argv: readonly string[]): Promise<Pipe> {
    const [program, ...args] = [...this.#enter(node), ...argv] as [string, ...string[]];
    const options = { args, stdin: "piped", stdout: "piped", stderr: "null" } as const;
    const child = new Deno.Command(program, options).spawn();
    return Promise.resolve({ readable: child.stdout, writable: child.stdin });
  }

  async attach(node: string, argv: readonly string[]): Promise<number> {
    const [program, ...args] = [...this.#enter(node), ...argv] as [string, ...string[]];
    return (await new Deno.Command(program, { args, stdin: "inherit" }).spawn().status).code;
  }

  async readFile(_node: string, path: string): Promise<string> {
    return await Deno.readTextFile(path).catch((error) => {
      if (error instanceof Deno.errors.NotFound) return "";
      throw error;
    });
  }

  async writeFile(_node: string, path: string, data: Uint8Array): Promise<void> {
    await Deno.mkdir(path.slice(0, path.lastIndexOf("/")), { recursive: true, mode: 0o700 });
    await Deno.writeFile(path, data, { mode: 0o600 });
  }

  consoleFile(): undefined {
    return undefined;
  }

  [Symbol.dispose](): void {
    // Nothing is held open.
  }
}
