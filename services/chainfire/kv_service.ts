import { keyScope, noKeyScope } from "@ultracloud/authz";
import { type Clock, invalidField } from "@ultracloud/base";
import {
  CompactRequestSchema,
  Consistency,
  DeleteRangeRequestSchema,
  KvService,
  PutRequestSchema,
  type RangeRequest,
  TxnRequestSchema,
} from "@ultracloud/proto/chainfire/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import { checkOp, grows, isReadOnly } from "./domain/check.ts";
import { rangeBytesMax } from "./domain/limits.ts";
import type { DeleteResult, PutResult, TxnResult } from "./domain/types.ts";
import { rejections } from "./errors.ts";
import { alsoDelete, alsoPut, alsoTxn, rangeScope } from "./key_needs.ts";
import type { LeaseRights } from "./lease_rights.ts";
import type { Member } from "./member.ts";
import {
  fromDelete,
  fromPut,
  fromRange,
  fromTxn,
  isSerializable,
  toDelete,
  toNumber,
  toPut,
  toRange,
  toTxn,
} from "./wire.ts";

const root = () => "";
/** Calls have their turn between two steps of sweeping. */
const sweepPauseMs = 1;

/** Keys and transactions. */
export function kvService(
  member: Member,
  { clock, leaseRights }: { readonly clock: Clock; readonly leaseRights: LeaseRights },
): BoundService {
  const { state, header } = member;
  return bind(KvService, {
    async range(request) {
      const op = toRange(request);
      checkOp(op);
      member.counts.ranges++;
      const ageMs = ageAllowed(request);
      if (ageMs !== Infinity && !member.isFresh(ageMs)) await member.readBarrier();
      return fromRange(state.range(op, toBytesMax(request.bytesMax)), header);
    },
    async put(request, context) {
      const op = toPut(request);
      checkOp(op);
      if (op.lease !== 0n) await leaseRights.checkOp(context.principal, op);
      member.checkSpace();
      member.checkRate(op);
      const result = await member.proposeFor(context, PutRequestSchema, request, op);
      return fromPut(result as PutResult, header);
    },
    async deleteRange(request, context) {
      const op = toDelete(request);
      checkOp(op);
      member.checkRate(op);
      const result = await member.proposeFor(context, DeleteRangeRequestSchema, request, op);
      return fromDelete(result as DeleteResult, header);
    },
    async txn(request, context) {
      const op = toTxn(request);
      checkOp(op);
      member.counts.txns++;
      if (isReadOnly(op)) {
        await member.readBarrier();
        return fromTxn(state.read(op) as TxnResult, header);
      }
      await leaseRights.checkOp(context.principal, op);
      if (grows(op)) member.checkSpace();
      member.checkRate(op);
      const result = await member.proposeFor(context, TxnRequestSchema, request, op);
      return fromTxn(result as TxnResult, header);
    },
    async compact(request, context) {
      const revision = toNumber(request.revision);
      if (revision === 0) throw rejections.fieldInvalid("revision", "Cannot compact to revision 0: wanted 1 or more");
      const command = { kind: "compact", revision } as const;
      const result = await member.proposeFor(context, CompactRequestSchema, request, command);
      // The member sweeps anyhow; this waits for it, a step at a time.
      while (request.physical && state.sweep()) await clock.sleep(sweepPauseMs, context.signal);
      return { header: header(result.revision) };
    },
  }, {
    range: { resource: "kv", action: "get", scope: rangeScope },
    put: { resource: "kv", action: "update", scope: ({ key }) => keyScope(key), also: alsoPut },
    deleteRange: { resource: "kv", action: "delete", scope: rangeScope, also: alsoDelete },
    // What it does needs what it would need alone.
    txn: { resource: "kv", action: "txn", scope: () => noKeyScope, also: alsoTxn },
    // What is forgotten is everybody's past.
    compact: { resource: "kv", action: "compact", scope: root },
  });
}

/** How old the local copy may be for a read: 0 for a linearizable one, Infinity for a serializable one. */
function ageAllowed(request: RangeRequest): number {
  const { consistency, maxAgeMs } = request;
  if (consistency !== Consistency.BOUNDED_STALE) {
    if (maxAgeMs === 0n) return isSerializable(request) ? Infinity : 0;
    throw invalidField("max_age_ms", "Cannot use max_age_ms without CONSISTENCY_BOUNDED_STALE");
  }
  if (maxAgeMs <= 0n) {
    throw invalidField("max_age_ms", `Cannot read what is ${maxAgeMs} ms old: wanted max_age_ms of 1 or more`);
  }
  return toNumber(maxAgeMs);
}

/** Bytes of a page, never above the server's bound. */
function toBytesMax(asked: bigint): number {
  if (asked < 0n) throw invalidField("bytes_max", `Cannot use ${asked} as bytes_max: wanted 0 or more`);
  return asked === 0n ? rangeBytesMax : Math.min(rangeBytesMax, toNumber(asked));
}
