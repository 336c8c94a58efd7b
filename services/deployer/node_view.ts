import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { rolloutOf } from "@ultracloud/cluster-state";
import { toMeta, Tx } from "@ultracloud/platform";
import { EnrolmentState, type NodeSchema } from "@ultracloud/proto/deployer/v1";
import type { Core, NodeFacts } from "./core.ts";
import type { ClusterState } from "@ultracloud/cluster-state";
import { type ObservedRow, type OfferRow, rowKeys } from "./kinds.ts";
import { tokenRow } from "./tokens.ts";
import { toDesired, toFacts, toObserved, toPlan } from "./wire.ts";

export type NodeInit = MessageInitShape<typeof NodeSchema>;

function enrolmentOf({ record }: NodeFacts): EnrolmentState {
  if (record?.value.machine === undefined) return EnrolmentState.EXPECTED;
  return record.value.installedMs === undefined ? EnrolmentState.ENROLLED : EnrolmentState.INSTALLED;
}

/** Everything that is known about a node, as people and programs read it. */
export async function nodeView(core: Core, cluster: ClusterState | undefined, node: NodeFacts): Promise<NodeInit> {
  const tx = new Tx(core.platform.kv, core.platform);
  const { record, spec, name } = node;
  const value = record?.value;
  const plan = core.planOf(cluster, node);
  const desired = core.desiredOf(cluster, node);
  const [offer, observed, token, refusal] = await Promise.all([
    tx.row<OfferRow>(rowKeys.offer(name)),
    tx.row<ObservedRow>(rowKeys.observed(name)),
    value?.tokenSha256 === undefined ? undefined : tokenRow(tx, value.tokenSha256),
    plan === undefined || value?.facts === undefined ? undefined : core.planRefusal(cluster, node),
  ]);
  const usable = token !== undefined && token.spent !== true && token.expiresMs > core.platform.clock.nowMs();
  return {
    meta: record ? toMeta(record) : { id: name, name },
    role: spec?.role ?? "",
    class: node.class,
    pool: node.pool,
    hostname: spec?.hostname ?? name,
    serial: node.serial,
    enrolment: enrolmentOf(node),
    tokenValid: usable,
    inClusterState: spec !== undefined,
    rollout: cluster && spec ? rolloutOf(cluster, name) ?? "" : "",
    offeredSystem: offer?.system.target_system ?? "",
    holdReason: desired === undefined ? "" : await holdReason(core, node, tx, offer),
    markers: (value?.markers ?? []).map(({ name, detail, timeMs }) => ({
      name,
      detail,
      time: timestampFromMs(timeMs),
    })),
    identities: Object.keys(value?.identities ?? {}),
    ...(value?.facts === undefined ? {} : { facts: toFacts(value.facts) }),
    ...(value?.phoneHomeMs === undefined ? {} : { phoneHomeTime: timestampFromMs(value.phoneHomeMs) }),
    ...(token === undefined ? {} : { tokenExpireTime: timestampFromMs(token.expiresMs) }),
    ...(plan === undefined ? {} : { installPlan: toPlan(plan) }),
    ...(refusal === undefined ? {} : { planRefusal: refusal }),
    ...(desired === undefined ? {} : { desiredSystem: toDesired(desired) }),
    ...(observed === undefined ? {} : { observed: toObserved(observed) }),
  };
}

/** Why the node is not offered what it should become; empty when it is. */
export async function holdReason(core: Core, node: NodeFacts, tx: Tx, offer: OfferRow | undefined): Promise<string> {
  const cluster = await core.states.cluster(tx);
  const desired = core.desiredOf(cluster, node);
  if (desired === undefined || offer?.intentId === core.intentOf(desired)) return "";
  const quarantine = await core.quarantineOf(node, desired, tx);
  if (quarantine !== undefined) return `quarantined: it failed on ${quarantine.node}: ${quarantine.reason}`;
  const rollout = cluster && node.spec ? rolloutOf(cluster, node.name) : undefined;
  return rollout === undefined ? "not yet looked at" : `waits for its turn in the rollout ${rollout}`;
}
