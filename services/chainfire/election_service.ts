import { keyScope } from "@ultracloud/authz";
import { fault, invalidField } from "@ultracloud/base";
import { ElectionService, type LeaderKey } from "@ultracloud/proto/chainfire/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import { contestPrefix, type Contests, isPlace, type Place } from "./contest/contests.ts";
import type { KeyWaits } from "./contest/key_waits.ts";
import { noBytes } from "./domain/ranges.ts";
import { rejections } from "./errors.ts";
import { contestScope } from "./key_needs.ts";
import type { LeaseRights } from "./lease_rights.ts";
import type { Member } from "./member.ts";
import { fromKv, toLeaseId, toNumber, wire } from "./wire.ts";

const placeScope = ({ leader }: { readonly leader?: LeaderKey | undefined }) => keyScope(leader?.key ?? noBytes);

/** Leadership of a name, with a value and a fencing token. */
export function electionService(
  member: Member,
  contests: Contests,
  { waits, leaseRights }: { readonly waits: KeyWaits; readonly leaseRights: LeaseRights },
): BoundService {
  const { state, group, header } = member;
  const toPlace = (leader: LeaderKey | undefined): Place => {
    if (!leader) throw invalidField("leader", "Cannot act for no leader: wanted what Campaign answered");
    if (leader.key.length === 0) throw rejections.emptyKey("leader.key");
    const kv = contests.get(leader.key);
    if (kv && !isPlace(kv)) {
      throw invalidField("leader.key", "Cannot use a key that is no election's", "not_an_election");
    }
    return { key: leader.key, createRevision: toNumber(leader.fencingToken), lease: leader.lease };
  };
  const nameOf = ({ name }: { readonly name: Uint8Array }) => {
    if (name.length === 0) throw rejections.emptyKey("name");
    return name;
  };
  return bind(ElectionService, {
    async campaign(request, { principal, signal }) {
      await leaseRights.check(principal, "update", [toLeaseId(request.lease, "lease")]);
      const { key, createRevision, lease } = await contests.win(request, signal);
      return {
        header: header(state.revision),
        leader: { name: request.name, key: wire(key), fencingToken: BigInt(createRevision), lease },
      };
    },
    async proclaim(request) {
      await group.readBarrier();
      const { succeeded, revision } = await contests.proclaim(toPlace(request.leader), request.value);
      if (!succeeded) {
        throw fault("failed_precondition", "election_lost", "Cannot speak as the leader: this leadership is over");
      }
      return { header: header(revision) };
    },
    async leader(request) {
      const name = nameOf(request);
      await group.readBarrier();
      const kv = contests.first(name);
      return { header: header(state.revision), ...(kv ? { kv: fromKv(kv) } : {}) };
    },
    async *observe(request, { signal }) {
      const name = nameOf(request);
      await group.readBarrier();
      let told = 0;
      for (;;) {
        const kv = contests.first(name);
        if (kv && kv.modRevision !== told) {
          told = kv.modRevision;
          yield { header: header(state.revision), kv: fromKv(kv) };
          continue;
        }
        await waits.forPrefix(contestPrefix(name), signal);
      }
    },
    async resign(request) {
      await group.readBarrier();
      const { revision } = await contests.leave(toPlace(request.leader));
      return { header: header(revision) };
    },
  }, {
    campaign: { resource: "election", action: "campaign", scope: contestScope },
    proclaim: { resource: "election", action: "proclaim", scope: placeScope },
    leader: { resource: "election", action: "get", scope: contestScope },
    observe: { resource: "election", action: "get", scope: contestScope },
    resign: { resource: "election", action: "resign", scope: placeScope },
  });
}
