import { noKeyScope } from "@ultracloud/authz";
import type { Rng } from "@ultracloud/base";
import {
  LeaseEventType,
  LeaseGrantRequestSchema,
  LeaseKeepAliveRequestSchema,
  LeaseRevokeRequestSchema,
  LeaseService,
  type LeaseWatchResponseSchema,
} from "@ultracloud/proto/chainfire/v1";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { bind, type BoundService } from "@ultracloud/rpc";
import { leaseTtlMsMax, leaseTtlMsMin } from "./domain/limits.ts";
import type { CommandResult, LeaseChange, LeaseResult } from "./domain/types.ts";
import { rejections } from "./errors.ts";
import type { LeaseRights } from "./lease_rights.ts";
import type { Member } from "./member.ts";
import type { LeaseHub, LeaseMessage } from "./watch/lease_hub.ts";
import { type HeaderInit, toLeaseId } from "./wire.ts";

/** All leases, whoever has keys on them. */
const root = () => "";
/** One lease; its keys are looked at when it is used. */
const oneLease = () => noKeyScope;
/** More are better watched all together. */
const leaseWatchIdsMax = 1_000;
const eventTypes: Readonly<Record<LeaseChange, LeaseEventType>> = {
  granted: LeaseEventType.GRANTED,
  renewed: LeaseEventType.RENEWED,
  revoked: LeaseEventType.REVOKED,
  expired: LeaseEventType.EXPIRED,
};

/** Leases: keys bound to one go when nobody keeps it alive. */
export function leaseService(
  member: Member,
  deps: { readonly rng: Rng; readonly leaseHub: LeaseHub; readonly leaseRights: LeaseRights },
): BoundService {
  const { state, group, header } = member;
  const answer = (result: CommandResult) => {
    const { id, ttlMs, revision } = result as LeaseResult;
    return { header: header(revision), id, ttlMs: BigInt(ttlMs) };
  };
  return bind(LeaseService, {
    async leaseGrant(request, context) {
      const command = grantCommand(request, deps.rng);
      member.checkSpace();
      return answer(await member.proposeFor(context, LeaseGrantRequestSchema, request, command));
    },
    async leaseRevoke(request, context) {
      const command = { kind: "revoke", id: toLeaseId(request.id, "id") } as const;
      await deps.leaseRights.check(context.principal, "delete", [command.id]);
      const result = await member.proposeFor(context, LeaseRevokeRequestSchema, request, command);
      return { header: header(result.revision) };
    },
    async leaseKeepAlive(request, context) {
      const command = { kind: "keep_alive", id: toLeaseId(request.id, "id") } as const;
      await deps.leaseRights.check(context.principal, "update", [command.id]);
      return answer(await member.proposeFor(context, LeaseKeepAliveRequestSchema, request, command));
    },
    async leaseTimeToLive(request, { principal }) {
      const id = toLeaseId(request.id, "id");
      if (request.keys) await deps.leaseRights.check(principal, "get", [id]);
      // Only the leader's clock goes on between log entries: another member has it written down.
      const leads = group.status().role === "leader";
      if (leads) await group.readBarrier();
      else await member.propose({ kind: "expire" });
      const lease = state.lease(id);
      if (!lease) throw rejections.leaseNotFound(id);
      return {
        header: header(state.revision),
        id,
        grantedTtlMs: BigInt(lease.ttlMs),
        remainingTtlMs: BigInt(Math.max(0, lease.deadlineMs - (leads ? member.leaseClock.nowMs() : state.clockMs))),
        keys: request.keys ? state.leaseKeys(id) as Uint8Array<ArrayBuffer>[] : [],
      };
    },
    async leaseList() {
      await group.readBarrier();
      return { header: header(state.revision), ids: state.leaseIds() };
    },
    async *leaseWatch(request, { signal }) {
      if (request.ids.length > leaseWatchIdsMax) {
        const message = `Cannot watch ${request.ids.length} leases by id: wanted at most ${leaseWatchIdsMax}, or all`;
        throw rejections.fieldInvalid("ids", message);
      }
      await group.readBarrier();
      const options = { ids: new Set(request.ids.map((id) => toLeaseId(id, "ids"))), renewals: request.renewals };
      for await (const message of deps.leaseHub.open(options).messages(signal)) {
        yield encode(message, header(state.revision));
      }
    },
  }, {
    leaseGrant: { resource: "lease", action: "create", scope: oneLease },
    leaseRevoke: { resource: "lease", action: "delete", scope: oneLease },
    leaseKeepAlive: { resource: "lease", action: "update", scope: oneLease },
    leaseTimeToLive: { resource: "lease", action: "get", scope: oneLease },
    leaseList: { resource: "lease", action: "list", scope: root },
    leaseWatch: { resource: "lease", action: "list", scope: root },
  });
}

function encode(message: LeaseMessage, header: HeaderInit): MessageInitShape<typeof LeaseWatchResponseSchema> {
  switch (message.kind) {
    case "present":
      return {
        header,
        reset: true,
        events: message.leases.map(({ id, ttlMs }) => ({
          type: LeaseEventType.PRESENT,
          id,
          grantedTtlMs: BigInt(ttlMs),
        })),
      };
    case "events":
      return {
        header,
        events: message.events.map(({ type, id, ttlMs }) => ({
          type: eventTypes[type],
          id,
          grantedTtlMs: BigInt(ttlMs),
        })),
      };
    case "cancelled":
      return { header, cancelled: true, cancelReason: message.reason };
  }
}

/** The command that grants a lease; id 0 is replaced by a random one. */
function grantCommand({ id, ttlMs }: { readonly id: bigint; readonly ttlMs: bigint }, rng: Rng) {
  if (ttlMs <= 0n) {
    throw rejections.fieldInvalid("ttl_ms", `Cannot grant a lease for ${ttlMs} ms: wanted 1 or more`);
  }
  if (ttlMs > BigInt(leaseTtlMsMax)) throw rejections.leaseTtlTooLarge(ttlMs, leaseTtlMsMax);
  return {
    kind: "grant",
    id: id === 0n ? randomLeaseId(rng) : toLeaseId(id, "id"),
    ttlMs: Math.max(leaseTtlMsMin, Number(ttlMs)),
  } as const;
}

/** Grants a lease for a call that needs one. */
export async function grantLease(
  member: Member,
  wanted: { readonly id: bigint; readonly ttlMs: bigint },
  rng: Rng,
): Promise<LeaseResult> {
  const command = grantCommand(wanted, rng);
  member.checkSpace();
  return await member.propose(command) as LeaseResult;
}

/** 62 random bits, never 0: two of them do not meet. */
function randomLeaseId(rng: Rng): bigint {
  const high = BigInt(rng.uint32() >>> 2);
  return (high << 32n | BigInt(rng.uint32())) || 1n;
}
