import { type Rng } from "@ultracloud/base";
import {
  LeaseGrantRequestSchema,
  LeaseKeepAliveRequestSchema,
  LeaseRevokeRequestSchema,
  LeaseService,
} from "@ultracloud/proto/chainfire/v1";
import type { BoundService } from "@ultracloud/rpc";
import { bindPart } from "./bind_part.ts";
import { leaseTtlMsMax, leaseTtlMsMin } from "./domain/limits.ts";
import type { CommandResult, LeaseResult } from "./domain/types.ts";
import { rejections } from "./errors.ts";
import type { Member } from "./member.ts";
import { toLeaseId } from "./wire.ts";

const root = () => "";

/** Leases: keys bound to one go when nobody keeps it alive. */
export function leaseService(member: Member, deps: { readonly rng: Rng }): BoundService {
  const { state, group, header } = member;
  const answer = (result: CommandResult) => {
    const { id, ttlMs, revision } = result as LeaseResult;
    return { header: header(revision), id, ttlMs: BigInt(ttlMs) };
  };
  return bindPart(LeaseService, {
    async leaseGrant(request, context) {
      if (request.ttlMs <= 0n) {
        throw rejections.fieldInvalid("ttl_ms", `Cannot grant a lease for ${request.ttlMs} ms: wanted 1 or more`);
      }
      if (request.ttlMs > BigInt(leaseTtlMsMax)) throw rejections.leaseTtlTooLarge(request.ttlMs, leaseTtlMsMax);
      const id = request.id === 0n ? randomLeaseId(deps.rng) : toLeaseId(request.id, "id");
      member.checkSpace();
      const command = { kind: "grant", id, ttlMs: Math.max(leaseTtlMsMin, Number(request.ttlMs)) } as const;
      return answer(await member.proposeFor(context, LeaseGrantRequestSchema, request, command));
    },
    async leaseRevoke(request, context) {
      const command = { kind: "revoke", id: toLeaseId(request.id, "id") } as const;
      const result = await member.proposeFor(context, LeaseRevokeRequestSchema, request, command);
      return { header: header(result.revision) };
    },
    async leaseKeepAlive(request, context) {
      const command = { kind: "keep_alive", id: toLeaseId(request.id, "id") } as const;
      return answer(await member.proposeFor(context, LeaseKeepAliveRequestSchema, request, command));
    },
    async leaseTimeToLive(request) {
      const id = toLeaseId(request.id, "id");
      await group.readBarrier();
      // Only the leader's clock goes on between log entries.
      member.checkLeads();
      const lease = state.lease(id);
      if (!lease) throw rejections.leaseNotFound(id);
      return {
        header: header(state.revision),
        id,
        grantedTtlMs: BigInt(lease.ttlMs),
        remainingTtlMs: BigInt(Math.max(0, lease.deadlineMs - member.leaseClock.nowMs())),
        keys: request.keys ? state.leaseKeys(id) as Uint8Array<ArrayBuffer>[] : [],
      };
    },
    async leaseList() {
      await group.readBarrier();
      return { header: header(state.revision), ids: state.leaseIds() };
    },
  }, {
    leaseGrant: { resource: "lease", action: "create", scope: root },
    leaseRevoke: { resource: "lease", action: "delete", scope: root },
    leaseKeepAlive: { resource: "lease", action: "update", scope: root },
    leaseTimeToLive: { resource: "lease", action: "get", scope: root },
    leaseList: { resource: "lease", action: "list", scope: root },
  });
}

/** 62 random bits, never 0: two of them do not meet. */
function randomLeaseId(rng: Rng): bigint {
  const high = BigInt(rng.uint32() >>> 2);
  return (high << 32n | BigInt(rng.uint32())) || 1n;
}
