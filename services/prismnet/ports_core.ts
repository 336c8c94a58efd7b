import { fault, invalidField } from "@ultracloud/base";
import type { Platform, StoredRecord, Tx } from "@ultracloud/platform";
import { stillEnding } from "./domain/rules.ts";
import type { Port, SecurityGroup } from "./domain/types.ts";
import type { Engine } from "./engine.ts";
import { groupKind, groupUseKey, portKind, subnetKind } from "./kinds.ts";

export const groupsPerPortMax = 8;

/** Groups by name or id, each once. */
export async function resolveGroups(
  tx: Tx,
  project: string,
  namesOrIds: readonly string[],
): Promise<StoredRecord<SecurityGroup>[]> {
  if (namesOrIds.length > groupsPerPortMax) {
    throw invalidField(
      "securityGroups",
      `Cannot put a port in ${namesOrIds.length} groups: wanted at most ${groupsPerPortMax}`,
    );
  }
  const groups = await Promise.all(namesOrIds.map((nameOrId) => tx.get(groupKind, project, nameOrId)));
  return [...new Map(groups.map((group) => [group.id, group])).values()];
}

/** Notes which groups the port uses, so that they cannot be deleted and their changes find it. */
export function noteGroupUse(tx: Tx, portId: string, before: readonly string[], after: readonly string[]): void {
  for (const id of before) if (!after.includes(id)) tx.deleteRow(groupUseKey(id, portId));
  for (const id of after) {
    if (before.includes(id)) continue;
    tx.putRow(groupUseKey(id, portId), portId);
    tx.touch(id);
  }
}

/** Makes or renews the binding of a port for a host. */
export async function bindPort(
  tx: Tx,
  engine: Engine,
  record: StoredRecord<Port>,
  host: string,
  groups: readonly StoredRecord<SecurityGroup>[] | Promise<readonly StoredRecord<SecurityGroup>[]>,
): Promise<StoredRecord<Port>> {
  const port = record.value;
  if (port.host !== "" && port.host !== host) {
    throw fault(
      "failed_precondition",
      "port_bound",
      `Cannot bind port ${record.name} to ${host} as it is bound to ${port.host}: wanted it unbound first`,
    );
  }
  const [subnet, of] = await Promise.all([tx.getById(subnetKind, port.subnetId), groups]);
  const rules = of.flatMap((group) => group.value.rules);
  const binding = await engine.bind(tx, { portId: record.id, host, port, subnet: subnet.value, rules });
  if (port.host === host && JSON.stringify(binding) === JSON.stringify(port.binding)) return record;
  return tx.update(portKind, record, { value: { ...port, host, binding } });
}

/** Has a second host carry a port that another has: its guest is about to move there. */
export function bindBeside(tx: Tx, engine: Engine, record: StoredRecord<Port>, host: string): StoredRecord<Port> {
  const port = record.value;
  if (!engine.carriesTwice) {
    throw fault(
      "failed_precondition",
      "engine_unsupported",
      `Cannot bind port ${record.name} to ${host} beside ${port.host} as engine ${engine.name} has it on one host: ` +
        "wanted engine ovn",
    );
  }
  if (port.host === host || port.arrivingHost === host) return record;
  if (port.arrivingHost !== undefined) {
    throw fault(
      "failed_precondition",
      "port_bound",
      `Cannot bind port ${record.name} to ${host} as it is bound to ${port.host} and ${port.arrivingHost}: wanted ` +
        "one of them unbound first",
    );
  }
  return tx.update(portKind, record, { value: { ...port, arrivingHost: host } });
}

/** Takes a port from a host, or from all with an empty name; the other one of two has it alone then. */
export async function unbindPort(
  tx: Tx,
  engine: Engine,
  record: StoredRecord<Port>,
  host: string,
): Promise<StoredRecord<Port>> {
  const { binding, arrivingHost, ...rest } = record.value;
  if (rest.host === "" || (host !== "" && host !== rest.host && host !== arrivingHost)) return record;
  if (host !== "" && arrivingHost !== undefined) {
    const left = host === arrivingHost ? rest.host : arrivingHost;
    return tx.update(portKind, record, { value: { ...rest, host: left, ...(binding ? { binding } : {}) } });
  }
  await engine.unbind(tx, { portId: record.id, host: rest.host, port: record.value });
  return tx.update(portKind, record, { value: { ...rest, host: "" } });
}

/** Groups of a port, read by id. */
export function groupsOf(tx: Tx, port: Port): Promise<StoredRecord<SecurityGroup>[]> {
  return Promise.all(port.securityGroupIds.map((id) => tx.getById(groupKind, id)));
}

/** Brings one bound port's binding up to its groups' rules; answers whether it changed. */
export function refreshPort(platform: Platform, engine: Engine, portId: string): Promise<boolean> {
  return platform.transact(async (tx) => {
    const record = await tx.findById(portKind, portId);
    if (!record || record.value.host === "") return false;
    const next = await bindPort(tx, engine, record, record.value.host, await groupsOf(tx, record.value));
    return next !== record;
  }, { serialize: engine.turnOf(portId) });
}

/** Brings every bound port of a group up to its rules. */
export async function refreshGroup(platform: Platform, engine: Engine, groupId: string): Promise<void> {
  const uses = await platform.kv.scan("rows", { prefix: groupUseKey(groupId, "port_"), limit: 10_000 });
  for (const use of uses) await refreshPort(platform, engine, use.key.slice(groupUseKey(groupId).length));
}

/**
 * Brings every bound port up to its groups: what a process that died between a rule change and its effect left
 * behind. Ports that stand are compared in memory and cost no write.
 */
export async function reconcilePorts(platform: Platform, engine: Engine, signal: AbortSignal): Promise<number> {
  let changed = 0;
  const groups = new Map((await platform.list(groupKind)).map((group) => [group.id, group]));
  for (const record of await platform.list(portKind)) {
    signal.throwIfAborted();
    if (record.value.host === "") continue;
    const rules = record.value.securityGroupIds.flatMap((id) => groups.get(id)?.value.rules ?? []);
    if (engine.stands(record.value, rules)) continue;
    if (await refreshPort(platform, engine, record.id)) changed++;
  }
  return changed;
}

/** Ends the removed rules whose time is over; answers how many groups had some. */
export async function endRules(platform: Platform, signal: AbortSignal): Promise<number> {
  const isOver = (group: SecurityGroup, nowMs: number) =>
    stillEnding(group, nowMs).length < (group.ending?.length ?? 0);
  const due = (await platform.list(groupKind)).filter(({ value }) => isOver(value, platform.clock.nowMs()));
  for (const { id } of due) {
    signal.throwIfAborted();
    await platform.transact(async (tx) => {
      const group = await tx.findById(groupKind, id);
      if (!group || !isOver(group.value, tx.nowMs)) return;
      tx.update(groupKind, group, { value: { ...group.value, ending: stillEnding(group.value, tx.nowMs) } });
    });
  }
  return due.length;
}
