/**
 * What node-agent and the launchers of its instances say to each other: files of an instance's directory. Either side
 * may be killed and started again at any instant; whoever comes next reads how far it is.
 *
 *     instances/<id>/spec.json      node-agent: what to start
 *     instances/<id>/lock           held by the launcher while it lives
 *     instances/<id>/status.json    launcher: how it is
 *     instances/<id>/stop.json      node-agent: end it
 *     instances/<id>/log/<offset>   launcher: output, in segments named by the offset of their first byte
 *     instances/<id>/credentials/   launcher: secrets, while the process runs
 *     pids/<id>.json                launcher: which process it is
 *     lease.json                    node-agent: until when anything may run here
 */
import type { ServiceSpec } from "@ultracloud/cluster-state";

/** The part of a service's spec that a process is started from. */
export type Template = Pick<
  ServiceSpec,
  | "command"
  | "closure"
  | "program"
  | "args"
  | "env"
  | "secrets"
  | "ports"
  | "volumes"
  | "healthCheck"
  | "restart"
  | "stopGraceMs"
  | "resources"
  | "limits"
>;

export interface LaunchSpec {
  readonly id: string;
  readonly service: string;
  readonly revision: string;
  readonly node: string;
  readonly template: Template;
}

/** How an instance is, by its launcher. */
export interface LaunchStatus {
  readonly phase: "starting" | "running" | "healthy" | "unhealthy" | "exited";
  /** For people: why it is not well, or how it ended. */
  readonly reason: string;
  readonly pid: number;
  /** What holds it and which limits do, for people. */
  readonly confinement: string;
  /** Of `exited`: ended by itself with code 0. */
  readonly clean: boolean;
}

/** Which process it is: a pid alone may be another's by now. */
export interface ProcessRecord {
  readonly pid: number;
  /** Clock ticks after boot at which it was started. */
  readonly startTicks: string;
  readonly bootId: string;
}

export interface Lease {
  /** Seconds after boot. */
  readonly untilUptime: number;
}

/** Output of one instance kept, in segments. */
export const logSegmentBytes = 1024 * 1024;
export const logSegmentsMax = 8;

/** Name of the segment that begins at the offset: names sort by it. */
export function segmentName(offset: number): string {
  return String(offset).padStart(16, "0");
}

export function segmentOffset(name: string): number | undefined {
  return /^\d{16}$/.test(name) ? Number(name) : undefined;
}
