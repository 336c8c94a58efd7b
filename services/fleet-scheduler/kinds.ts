import { defineKind } from "@ultracloud/platform";
import type { FleetNode, Instance, Observed, Service } from "./domain/types.ts";

/** Services and nodes belong to no project; their name is their id. */
export const serviceKind = defineKind<Service>({ name: "service" });
export const nodeKind = defineKind<FleetNode>({ name: "node" });

/** The instances of one service: one row, so that two schedulers cannot both add to it. */
export interface Placement {
  /** Of the assignments, when it was last written. */
  readonly version: number;
  readonly instances: readonly StoredInstance[];
}

export interface StoredInstance extends Instance {
  /** Of the assignments, when it was told to stop; 0 while it runs. */
  readonly stopVersion: number;
}

export const placementPrefix = "placement|";
/** Row: where a service's instances are. */
export function placementKey(service: string): string {
  return placementPrefix + service;
}

/** Row: what a node says of its instances. */
export interface NodeStatus {
  readonly observed: readonly Observed[];
}

export const statusPrefix = "status|";
export function statusKey(node: string): string {
  return statusPrefix + node;
}

/** Row: how often assignments have changed. */
export const versionKey = "assignments";
