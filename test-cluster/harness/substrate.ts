import type { SpawnOptions } from "@ultracloud/launch";
import type { ToolOptions, ToolResult } from "./tools.ts";

/** Where the files of a node are, as seen from inside it. */
export interface NodeDirs {
  /** Configuration and keys: `<etc>/<component>`. */
  readonly etc: string;
  readonly state: string;
  /** Sockets: short. */
  readonly run: string;
  readonly log: string;
}

/** How a component is started on a node: everything is decided, nothing is looked up there. */
export interface StartSpec {
  readonly component: string;
  /** Made before the start, readable by their owner only. */
  readonly dirs: readonly string[];
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly logFile: string;
}

/** Standard input and output of a program on a node; it ends when its input does. */
export interface Pipe {
  readonly readable: ReadableStream<Uint8Array>;
  readonly writable: WritableStream<Uint8Array>;
}

export interface NodeProcess {
  readonly component: string;
  readonly pid: number;
}

export type ComponentSignal = "SIGTERM" | "SIGKILL" | "SIGSTOP" | "SIGCONT";

/** What nodes are made of. A lane knows nodes only through it, so the same lanes run on every substrate. */
export interface Substrate extends Disposable {
  readonly name: "netns" | "qemu";
  /** True when the loss of a node's power takes its memory along: what its kernel had not written out is gone. */
  readonly losesMemory: boolean;
  /** True when each node has a clock of its own. */
  readonly ownClocks: boolean;
  /** The Deno program on a node, for `exec`. */
  readonly deno: string;
  /** Directories of a node, from inside it. */
  dirs(node: string): NodeDirs;
  /** Directory of the node's configuration on this machine; written before the node is made. */
  etcDir(node: string): string;
  /** Makes the node; `powerOn` waits until it takes commands. */
  create(node: string): Promise<void>;
  /** How a component is run on a node; `entry` is its program in this workspace. */
  program(component: string, entry: string): SpawnOptions["program"];
  /** The command that runs a helper of a component on a node, everything granted; `source` is its program here. */
  helper(component: string, name: string, source: string): readonly string[];
  /** Starts a component; it is not yet ready when this returns. Nothing happens when it runs. */
  start(node: string, spec: StartSpec): Promise<void>;
  /** Sends a signal to a component; false when it does not run. */
  signal(node: string, component: string, signal: ComponentSignal): Promise<boolean>;
  /** Components that run on the node now. */
  processes(node: string): Promise<NodeProcess[]>;
  /** Takes the power away: everything of the node ends at once and its network is gone. */
  powerOff(node: string): Promise<void>;
  /** Power is there, and the node takes commands; components are started by the caller. */
  powerOn(node: string, signal?: AbortSignal): Promise<void>;
  /** Stops the node in time, as a long pause of its host would. */
  pause(node: string): Promise<void>;
  resume(node: string): Promise<void>;
  /** Runs a program on the node. */
  exec(node: string, argv: readonly string[], options?: ToolOptions): Promise<ToolResult>;
  /** Starts a program on the node: what is written becomes its input, its output is what is read. */
  pipe(node: string, argv: readonly string[]): Promise<Pipe>;
  /** Runs a program on the node, on this terminal; answers its exit code. */
  attach(node: string, argv: readonly string[]): Promise<number>;
  /** Reads a file of the node from here; empty when it is absent. */
  readFile(node: string, path: string): Promise<string>;
  /** Writes a file of the node, readable by its root only; its directory is made. */
  writeFile(node: string, path: string, data: Uint8Array): Promise<void>;
  /** File of this machine with what the node wrote on its console; undefined when it has none. */
  consoleFile(node: string): string | undefined;
}
