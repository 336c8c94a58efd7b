/** What fleet-scheduler keeps and decides over. Messages stop at wire.ts. */
import type { ServiceSpec } from "@ultracloud/cluster-state";

export type { ServiceSpec };

/** What a process is started from: two specs with an equal template run the same thing. */
export type Template = Pick<ServiceSpec, typeof templateFields[number]>;

export const templateFields = [
  "command",
  "closure",
  "program",
  "args",
  "env",
  "secrets",
  "ports",
  "volumes",
  "healthCheck",
  "restart",
  "stopGraceMs",
  "resources",
  "limits",
] as const satisfies readonly (keyof ServiceSpec)[];

export type Resources = ServiceSpec["resources"];

/** What becomes of a change of template. */
export interface UpdateStatus {
  /** `stalled`: it failed and there is nothing to go back to, or nobody wants to. */
  readonly phase:
    | "none"
    | "canary"
    | "rolling"
    | "paused"
    | "rolled_back"
    | "stalled";
  /** Where it goes on from a pause. */
  readonly resume: "" | "canary" | "rolling";
  readonly startMs: number;
  readonly reason: string;
}

/** A template that has stood everywhere. */
export interface Stable {
  readonly template: Template;
  readonly revision: number;
  readonly hash: string;
}

/** One service as it is kept. */
export interface Service {
  readonly spec: ServiceSpec;
  /** Grows with every change of the template. */
  readonly revision: number;
  /** Of the template, see `templateHash`. */
  readonly hash: string;
  /** What a failed change goes back to. */
  readonly stable: Stable | null;
  /** What stood before; where an operator goes back to when the change has succeeded. */
  readonly previous: Stable | null;
  readonly update: UpdateStatus;
  /** A template that was rolled back is not tried again unless that is asked for. */
  readonly rejectedHash: string;
  readonly deleting: boolean;
  /** What has no place, kept so that it can be told since when; absent or null: everything has one. */
  readonly shortage?: Shortage | null;
}

/** Wanted instances without a place. */
export interface Shortage {
  readonly count: number;
  readonly wanted: number;
  /** What most nodes say. */
  readonly reason: string;
  /** A change of template waits for it. */
  readonly holdsUpdate: boolean;
  readonly sinceMs: number;
}

/** One process to run on one node. Immutable but for `desired`. */
export interface Instance {
  readonly id: string;
  readonly revision: number;
  readonly hash: string;
  readonly node: string;
  readonly template: Template;
  readonly desired: "run" | "stop";
  readonly createMs: number;
  /** Why it is to stop, for people. */
  readonly reason: string;
}

export type Phase =
  | "pending"
  | "starting"
  | "running"
  | "healthy"
  | "unhealthy"
  | "backing_off"
  | "failed"
  | "stopped";

/** What a node says of one instance. */
export interface Observed {
  readonly id: string;
  readonly phase: Phase;
  readonly reason: string;
  /** By the scheduler's clock, when it learnt of the phase. */
  readonly sinceMs: number;
  readonly restarts: number;
  readonly pid: number;
}

/** A drain as it stands. */
export interface Drain {
  readonly startMs: number;
  /** 0: none. */
  readonly deadlineMs: number;
  /** At the deadline: give up and let the node work on, or stop what is left. */
  readonly atDeadline: "abort" | "force";
  /** Who asked: an operator, or the id of a request of nix-agent. */
  readonly by: string;
  readonly phase: "draining" | "drained" | "failed";
  /** Instances at the start. */
  readonly total: number;
  readonly reason: string;
}

export interface FleetNode {
  readonly agentUrl: string;
  readonly class: string;
  readonly pool: string;
  readonly capacity: Resources;
  readonly agentVersion: string;
  readonly cordoned: boolean;
  readonly drain: Drain | null;
  /** When its lease was first seen to have ended; 0 while it holds. */
  readonly lostMs: number;
  readonly registeredMs: number;
}

/** A node with its name and labels, as decisions see it. */
export interface NodeView extends FleetNode {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
}

export interface ServiceView extends Service {
  readonly name: string;
  readonly instances: readonly Instance[];
}

/** All that a decision is made from. */
export interface World {
  readonly nowMs: number;
  readonly services: readonly ServiceView[];
  readonly nodes: readonly NodeView[];
  readonly observed: ReadonlyMap<string, Observed>;
}

export type Decision =
  | {
    readonly kind: "place";
    readonly service: string;
    readonly revision: number;
    readonly hash: string;
    readonly template: Template;
    readonly node: string;
  }
  | {
    readonly kind: "stop";
    readonly service: string;
    readonly id: string;
    readonly reason: string;
  }
  /** The instance is gone, or can no longer run: its record goes. */
  | {
    readonly kind: "forget";
    readonly service: string;
    readonly id: string;
    readonly reason: string;
  }
  | { readonly kind: "change"; readonly service: string; readonly to: Service }
  | { readonly kind: "remove"; readonly service: string }
  | { readonly kind: "drain"; readonly node: string; readonly to: Drain };

/** Instances that are wanted and have no place, and why. */
export interface Unplaced {
  readonly service: string;
  readonly count: number;
  /** Instances there shall be in all. */
  readonly wanted: number;
  /** Instances of another template serve on until there is room. */
  readonly holdsUpdate: boolean;
  /** How many nodes give each reason. */
  readonly reasons: Readonly<Record<string, number>>;
}
