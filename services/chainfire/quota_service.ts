import { invalidField } from "@ultracloud/base";
import { type Quota as QuotaMessage, QuotaService } from "@ultracloud/proto/chainfire/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import { namespaceBytesMax } from "./domain/limits.ts";
import { namespaceName } from "./domain/namespaces.ts";
import type { Quota, QuotaUsage } from "./domain/types.ts";
import { rejections } from "./errors.ts";
import type { Member } from "./member.ts";
import { wire } from "./wire.ts";
import type { WatchHub } from "./watch/hub.ts";

const root = () => "";

/** Bounds on what namespaces may use, and what they do use. */
export function quotaService(member: Member, deps: { readonly hub: WatchHub }): BoundService {
  const { state, group, header } = member;
  const answer = ({ quota, usage }: { readonly quota: Quota; readonly usage: QuotaUsage }) => ({
    header: header(state.revision),
    quota: fromQuota(quota),
    usage: {
      bytes: BigInt(usage.bytes),
      keys: BigInt(usage.keys),
      leases: BigInt(usage.leases),
      watches: BigInt(deps.hub.watchesIn(quota.namespace)),
    },
  });
  return bind(QuotaService, {
    async setQuota({ quota }) {
      if (!quota) throw invalidField("quota", "Cannot set no quota: wanted one");
      const result = await member.propose({ kind: "set_quota", quota: toQuota(quota) });
      return { header: header(result.revision) };
    },
    async getQuota({ namespace }) {
      checkNamespace(namespace, "namespace");
      await group.readBarrier();
      const name = namespaceName(namespace);
      const found = state.quotas.get(name);
      if (!found) throw rejections.quotaNotFound(JSON.stringify(name));
      return answer(found);
    },
    async listQuotas() {
      await group.readBarrier();
      return { header: header(state.revision), quotas: state.quotas.list().map(answer) };
    },
    async deleteQuota({ namespace }) {
      checkNamespace(namespace, "namespace");
      const result = await member.propose({ kind: "delete_quota", namespace });
      return { header: header(result.revision) };
    },
  }, {
    setQuota: { resource: "quota", action: "update", scope: root },
    getQuota: { resource: "quota", action: "get", scope: root },
    listQuotas: { resource: "quota", action: "list", scope: root },
    deleteQuota: { resource: "quota", action: "delete", scope: root },
  });
}

function checkNamespace(namespace: Uint8Array, field: string): void {
  if (namespace.length <= namespaceBytesMax) return;
  const message = `Cannot use a namespace of ${namespace.length} bytes: wanted at most ${namespaceBytesMax}`;
  throw invalidField(field, message);
}

function toQuota(quota: QuotaMessage): Quota {
  checkNamespace(quota.namespace, "quota.namespace");
  const bound = (field: string, value: bigint) => {
    if (value >= 0n && value <= BigInt(Number.MAX_SAFE_INTEGER)) return Number(value);
    throw invalidField(`quota.${field}`, `Cannot use ${value} as ${field}: wanted 0 to ${Number.MAX_SAFE_INTEGER}`);
  };
  const bounds = {
    bytesMax: bound("bytes_max", quota.bytesMax),
    keysMax: bound("keys_max", quota.keysMax),
    leasesMax: bound("leases_max", quota.leasesMax),
    watchesMax: bound("watches_max", quota.watchesMax),
    writesPerSecondMax: bound("writes_per_second_max", quota.writesPerSecondMax),
  };
  if (Object.values(bounds).every((value) => value === 0)) {
    throw invalidField("quota", "Cannot set a quota without any bound: wanted one, or DeleteQuota");
  }
  return { namespace: quota.namespace, ...bounds };
}

function fromQuota({ namespace, ...bounds }: Quota) {
  return {
    namespace: wire(namespace),
    bytesMax: BigInt(bounds.bytesMax),
    keysMax: BigInt(bounds.keysMax),
    leasesMax: BigInt(bounds.leasesMax),
    watchesMax: BigInt(bounds.watchesMax),
    writesPerSecondMax: BigInt(bounds.writesPerSecondMax),
  };
}
