import { type Rng, toHex } from "@ultracloud/base";
import type { Platform, Tx } from "@ultracloud/platform";
import type { Decision } from "./domain/types.ts";
import { nodeKind, type Placement, placementKey, serviceKind, type StoredInstance, versionKey } from "./kinds.ts";
import type { Snapshot } from "./store.ts";

/** Decisions carried out in one go; the rest waits for the next look. */
const decisionsMax = 2_000;

/** An id people can read and type: the service and eight characters. */
function instanceId(service: string, rng: Rng): string {
  return `${service}-${toHex(rng.fill(new Uint8Array(4)))}`;
}

/**
 * Writes decisions, each only while what it was made from still stands: a placement that another scheduler has
 * changed meanwhile is left alone. Answers how many were written.
 */
export async function commit(platform: Platform, seen: Snapshot, decisions: readonly Decision[]): Promise<number> {
  const some = decisions.slice(0, decisionsMax);
  if (some.length === 0) return 0;
  return await platform.transact(async (tx) => {
    let written = 0;
    for (const decision of some) {
      if (decision.kind === "drain") written += await writeDrain(tx, seen, decision);
      else if (decision.kind === "change" || decision.kind === "remove") {
        written += await writeService(tx, seen, decision);
      }
    }
    const version = (await tx.row<number>(versionKey) ?? 0) + 1;
    const touched = new Map<string, Decision[]>();
    for (const decision of some) {
      if (decision.kind !== "place" && decision.kind !== "stop" && decision.kind !== "forget") continue;
      touched.set(decision.service, [...touched.get(decision.service) ?? [], decision]);
    }
    let moved = 0;
    for (const [service, own] of touched) {
      const row = await tx.row<Placement>(placementKey(service));
      if ((row?.version ?? 0) !== (seen.placed.get(service) ?? 0)) continue;
      const instances = apply(row?.instances ?? [], own, version, tx, platform.rng);
      tx.putRow(placementKey(service), { version, instances } satisfies Placement);
      moved += own.length;
    }
    if (moved > 0) tx.putRow(versionKey, version);
    return written + moved;
  }, { serialize: "assignments" });
}

function apply(
  before: readonly StoredInstance[],
  decisions: readonly Decision[],
  version: number,
  tx: Tx,
  rng: Rng,
): StoredInstance[] {
  let instances = [...before];
  for (const decision of decisions) {
    if (decision.kind === "forget") instances = instances.filter(({ id }) => id !== decision.id);
    if (decision.kind === "stop") {
      instances = instances.map((instance) =>
        instance.id === decision.id
          ? { ...instance, desired: "stop", reason: decision.reason, stopVersion: version }
          : instance
      );
    }
    if (decision.kind === "place") {
      const { service, revision, hash, template, node } = decision;
      instances.push({
        id: instanceId(service, rng),
        revision,
        hash,
        template,
        node,
        desired: "run",
        createMs: tx.nowMs,
        reason: "",
        stopVersion: 0,
      });
    }
  }
  return instances;
}

async function writeDrain(tx: Tx, seen: Snapshot, decision: Extract<Decision, { kind: "drain" }>): Promise<number> {
  const node = await tx.find(nodeKind, "", decision.node);
  if (!node || node.etag !== seen.etags.get(`node|${decision.node}`)) return 0;
  tx.update(nodeKind, node, { value: { ...node.value, drain: decision.to } });
  return 1;
}

async function writeService(
  tx: Tx,
  seen: Snapshot,
  decision: Extract<Decision, { kind: "change" | "remove" }>,
): Promise<number> {
  const service = await tx.find(serviceKind, "", decision.service);
  if (!service || service.etag !== seen.etags.get(`service|${decision.service}`)) return 0;
  if (decision.kind === "change") tx.update(serviceKind, service, { value: decision.to });
  else {
    tx.remove(serviceKind, service);
    tx.deleteRow(placementKey(decision.service));
  }
  return 1;
}
