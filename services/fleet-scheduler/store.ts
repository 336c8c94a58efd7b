import type { Platform, StoredRecord, Tx } from "@ultracloud/platform";
import type { FleetNode, NodeView, Observed, Service, ServiceView, World } from "./domain/types.ts";
import {
  nodeKind,
  type NodeStatus,
  type Placement,
  placementPrefix,
  serviceKind,
  statusPrefix,
  type StoredInstance,
} from "./kinds.ts";

/** A world with what tells whether it is still so. */
export interface Snapshot extends World {
  /** Versions of placements by service; 0: none yet. */
  readonly placed: ReadonlyMap<string, number>;
  /** Etags of services and nodes, by "kind|name". */
  readonly etags: ReadonlyMap<string, string>;
  /** Which scheduler-side version each instance was stopped at is kept in its record. */
  readonly stored: ReadonlyMap<string, readonly StoredInstance[]>;
}

export function nodeView(record: StoredRecord<FleetNode>): NodeView {
  return { ...record.value, name: record.name, labels: record.labels };
}

export function serviceView(record: StoredRecord<Service>, placement: Placement | undefined): ServiceView {
  return { ...record.value, name: record.name, instances: placement?.instances ?? [] };
}

/** Everything decisions are made from, read at once. */
export async function readSnapshot(platform: Platform, tx?: Tx): Promise<Snapshot> {
  const read = async (tx: Tx): Promise<Snapshot> => {
    const [services, nodes, placements, statuses] = await Promise.all([
      tx.list(serviceKind, ""),
      tx.list(nodeKind, ""),
      tx.rows<Placement>(placementPrefix),
      tx.rows<NodeStatus>(statusPrefix),
    ]);
    const byService = new Map(placements.map(({ key, value }) => [key.slice(placementPrefix.length), value]));
    const observed = new Map<string, Observed>();
    for (const { value } of statuses) for (const status of value.observed) observed.set(status.id, status);
    return {
      nowMs: tx.nowMs,
      services: services.map((record) => serviceView(record, byService.get(record.name))),
      nodes: nodes.map(nodeView),
      observed,
      placed: new Map([...byService].map(([name, { version }]) => [name, version])),
      stored: new Map([...byService].map(([name, { instances }]) => [name, instances])),
      etags: new Map([...services, ...nodes].map((record) => [`${record.kind}|${record.name}`, record.etag])),
    };
  };
  return tx ? await read(tx) : await platform.transact(read);
}
