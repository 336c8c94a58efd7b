import { keyScope } from "@ultracloud/authz";
import { invalidField } from "@ultracloud/base";
import { LockService } from "@ultracloud/proto/chainfire/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import { type Contests, isPlace } from "./contest/contests.ts";
import { noBytes } from "./domain/ranges.ts";
import { rejections } from "./errors.ts";
import { contestScope } from "./key_needs.ts";
import type { LeaseRights } from "./lease_rights.ts";
import type { Member } from "./member.ts";
import { toLeaseId, wire } from "./wire.ts";

/** Mutual exclusion with a fencing token. */
export function lockService(
  member: Member,
  contests: Contests,
  { leaseRights }: { readonly leaseRights: LeaseRights },
): BoundService {
  const { state, group, header } = member;
  return bind(LockService, {
    async lock(request, { principal, signal }) {
      await leaseRights.check(principal, "update", [toLeaseId(request.lease, "lease")]);
      const { key, createRevision, lease } = await contests.win({ ...request, value: noBytes }, signal);
      return { header: header(state.revision), key: wire(key), fencingToken: BigInt(createRevision), lease };
    },
    async unlock({ key }) {
      if (key.length === 0) throw rejections.emptyKey("key");
      await group.readBarrier();
      const kv = contests.get(key);
      // Only what a lock made: this must not become a way to delete any key.
      if (kv && !isPlace(kv)) throw invalidField("key", "Cannot unlock a key that is no lock's", "not_a_lock");
      const result = kv && await contests.leave(kv);
      return { header: header(result?.revision ?? state.revision) };
    },
  }, {
    lock: { resource: "lock", action: "acquire", scope: contestScope },
    unlock: { resource: "lock", action: "release", scope: ({ key }) => keyScope(key) },
  });
}
