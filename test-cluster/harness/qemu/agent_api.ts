import type { ComponentSignal, StartSpec } from "../substrate.ts";

/** Where a node's agent listens, on the address of the node. */
export const agentPort = 7090;

/** What a node is told at power-on, on a disk of its own that only it reads: it holds the agent's secret. */
export interface Seed {
  readonly hostname: string;
  /** With the length of the network's prefix. */
  readonly address: string;
  readonly token: string;
  /** As DENO_V8_FLAGS takes them. */
  readonly v8Flags: string;
}

/** A file the agent writes before it starts a component; of use to root only. */
export interface AgentFile {
  readonly path: string;
  /** A program. */
  readonly executable?: boolean;
  readonly base64: string;
}

export interface ExecRequest {
  readonly argv: readonly string[];
  readonly timeoutMs: number;
}

export interface StartRequest {
  readonly spec: StartSpec;
  readonly files: readonly AgentFile[];
}

export interface SignalRequest {
  readonly component: string;
  readonly signal: ComponentSignal;
}

/** The first message of a terminal; then bytes go both ways, and the last message is the exit code. */
export interface AttachRequest {
  readonly token: string;
  readonly argv: readonly string[];
  /** With a pseudo terminal. */
  readonly terminal: boolean;
}
