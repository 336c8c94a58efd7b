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

export interface NodeProcess {
  readonly component: string;
  readonly pid: number;
}

/** What nodes are made of. A lane knows nodes only through it, so the same lanes run on every substrate. */
export interface Substrate {
  readonly name: "netns";
  /** Directories of a node, from inside it. */
  dirs(node: string): NodeDirs;
  /** Directory of the node's configuration on this machine; written before the node is made. */
  etcDir(node: string): string;
  /** Makes the node and powers it on; no component runs yet. */
  create(node: string): Promise<void>;
  /** Starts a component; it is not yet ready when this returns. Nothing happens when it runs. */
  start(node: string, spec: StartSpec): Promise<void>;
  /** Sends a signal to a component; false when it does not run. */
  signal(node: string, component: string, signal: "SIGTERM" | "SIGKILL" | "SIGSTOP" | "SIGCONT"): Promise<boolean>;
  /** Components that run on the node now. */
  processes(node: string): Promise<NodeProcess[]>;
  /** Takes the power away: everything of the node ends at once and its network is gone. */
  powerOff(node: string): Promise<void>;
  /** Power is back; components are started by the caller. */
  powerOn(node: string): Promise<void>;
  /** Stops the node in time, as a long pause of its host would. */
  pause(node: string): Promise<void>;
  resume(node: string): Promise<void>;
  /** Runs a program on the node. */
  exec(node: string, argv: readonly string[], options?: ToolOptions): Promise<ToolResult>;
  /** The command that runs a program on the node from this machine, for a person's terminal. */
  execArgv(node: string, argv: readonly string[]): string[];
  /** Reads a file of the node from here; empty when it is absent. */
  readFile(node: string, path: string): Promise<string>;
}
