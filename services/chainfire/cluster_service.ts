import { type Clock, fault, invalidField } from "@ultracloud/base";
import { ClusterService, ProgressState } from "@ultracloud/proto/chainfire/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import type { Member } from "./member.ts";
import type { ListedMember, Membership } from "./membership.ts";
import { fromAlarm, toNumber } from "./wire.ts";

const root = () => "";
const progressStates = {
  probe: ProgressState.PROBE,
  replicate: ProgressState.REPLICATE,
  snapshot: ProgressState.SNAPSHOT,
} as const;
/** How often a hand-over is looked at. */
const transferPollMs = 10;

/** Who the members are, who comes and goes, and how this one is doing. */
export function clusterService(
  member: Member,
  deps: { readonly clock: Clock; readonly membership: Membership },
): BoundService {
  const { membership } = deps;
  const { state, group, header, options } = member;
  const listed = () => ({ header: header(state.revision), members: membership.list().map(fromMember) });
  return bind(ClusterService, {
    async memberList(request) {
      if (!request.local) await group.readBarrier();
      return listed();
    },
    async memberAdd({ name, peerUrl, clientUrl, isLearner, autoPromote }) {
      const learner = isLearner || autoPromote;
      const added = await membership.add({ name, peerUrl, clientUrl }, { learner, autoPromote });
      return { ...listed(), member: fromMember({ ...added, learner, autoPromote }) };
    },
    async memberPromote(request) {
      await membership.promote(toNumber(request.id));
      return listed();
    },
    async memberRemove(request) {
      await membership.remove(toNumber(request.id));
      return listed();
    },
    async memberUpdate({ id, name, peerUrl, clientUrl }) {
      await membership.update(toNumber(id), { name, peerUrl, clientUrl });
      return listed();
    },
    async memberReplace({ id, name, peerUrl, clientUrl }) {
      const added = await membership.replace(toNumber(id), { name, peerUrl, clientUrl });
      return { ...listed(), member: fromMember({ ...added, learner: false, autoPromote: false }) };
    },
    status() {
      const { leader, lastIndex, appliedIndex, progress } = group.status();
      const { total, used } = state.bytes();
      return {
        header: header(state.revision),
        version: options.version,
        leader: BigInt(leader),
        raftIndex: BigInt(lastIndex),
        appliedIndex: BigInt(appliedIndex),
        dbBytes: BigInt(total),
        dbBytesInUse: BigInt(used),
        isLearner: member.isLearner,
        compactRevision: BigInt(state.compactRevision),
        errors: [
          ...(leader === 0 ? ["no leader is known"] : []),
          ...(used >= options.stateBytesMax ? ["no space: writes are refused"] : []),
          ...state.alarms.map(({ member: id, type }) => `alarm ${type} of member ${id}`),
        ],
        alarms: state.alarms.map(fromAlarm),
        progress: [...progress ?? []].map(([id, peer]) => ({
          memberId: BigInt(id),
          matchIndex: BigInt(peer.match),
          state: progressStates[peer.state],
          recentlyActive: peer.recentlyActive,
        })),
        stateHash: BigInt(state.stateHash),
        stateHashRevision: BigInt(state.revision),
        diskBytesFree: BigInt(member.diskBytesFree ?? -1),
      };
    },
    async leaderTransfer(request, { signal }) {
      member.checkLeads();
      const target = Number(request.target);
      if (target === 0) throw invalidField("target", "Cannot hand over to member 0: wanted the id of a voter");
      if (target !== options.memberId) group.transferLeader(target);
      const endMs = deps.clock.monotonicMs() + 2 * options.electionTimeoutMs;
      while (group.status().leader !== target) {
        if (deps.clock.monotonicMs() > endMs) {
          throw fault("unavailable", "leader_transfer_failed", `Cannot see member ${target} lead in time`);
        }
        await deps.clock.sleep(transferPollMs, signal);
      }
      return { header: header(state.revision) };
    },
  }, {
    memberList: { resource: "cluster", action: "list", scope: root },
    status: { resource: "cluster", action: "get", scope: root },
    leaderTransfer: { resource: "cluster", action: "transfer", scope: root },
    memberAdd: { resource: "member", action: "create", scope: root },
    memberPromote: { resource: "member", action: "promote", scope: root },
    memberRemove: { resource: "member", action: "delete", scope: root },
    memberUpdate: { resource: "member", action: "update", scope: root },
    memberReplace: { resource: "member", action: "replace", scope: root },
  });
}

function fromMember({ id, name, peerUrl, clientUrl, learner, autoPromote }: ListedMember) {
  return { id: BigInt(id), name, peerUrl, clientUrl, isLearner: learner, autoPromote };
}
