import type { Layout } from "./layout.ts";

/** A VM as its worker sees it. */
export interface VmView {
  readonly vmId: string;
  readonly state: VmState;
  /** Why it is not simply as asked; empty otherwise. */
  readonly reason: string;
  readonly startedAtMs: number | undefined;
  readonly generation: number;
  /** Of QEMU; 0: none or not known. */
  readonly pid: number;
  readonly writerEpoch: number;
  readonly rootEpoch: number;
  /** While a QEMU runs that is known. */
  readonly layout: Layout | undefined;
  /** Of the migration it takes part in; empty: none. */
  readonly migrationId: string;
}

export type VmState =
  | "pending"
  | "starting"
  | "running"
  | "paused"
  | "migrating"
  | "stopping"
  | "stopped"
  | "failed"
  | "unknown";

export type RunState =
  /** The guest executes. */
  | { readonly kind: "running" }
  | { readonly kind: "paused"; readonly reason: string }
  /** The guest has powered off; QEMU waits to be told to quit. */
  | { readonly kind: "off" };

/** What QEMU's run state (`query-status`) means; qapi/run-state.json lists them. */
export function runStateOf(status: string): RunState {
  switch (status) {
    case "running":
      return { kind: "running" };
    case "shutdown":
      return { kind: "off" };
    case "io-error":
      return { kind: "paused", reason: "a disk failed and QEMU stopped the guest" };
    case "guest-panicked":
      return { kind: "paused", reason: "the guest's kernel panicked" };
    case "internal-error":
      return { kind: "paused", reason: "QEMU met an internal error" };
    default:
      return { kind: "paused", reason: `QEMU reports ${status}` };
  }
}
