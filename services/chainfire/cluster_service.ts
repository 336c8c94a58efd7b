import { type Clock, fault, invalidField } from "@ultracloud/base";
import { ClusterService } from "@ultracloud/proto/chainfire/v1";
import type { BoundService } from "@ultracloud/rpc";
import { bindPart } from "./bind_part.ts";
import type { Member } from "./member.ts";

const root = () => "";
/** How often a hand-over is looked at. */
const transferPollMs = 10;

/** Who the members are and how this one is doing. */
export function clusterService(member: Member, deps: { readonly clock: Clock }): BoundService {
  const { state, group, header, options } = member;
  return bindPart(ClusterService, {
    memberList() {
      const { voters, learners } = group.status();
      const known = new Map(options.members.map((info) => [info.id, info]));
      return {
        header: header(state.revision),
        members: [...voters, ...learners].map((id) => {
          const { name, peerUrl, clientUrl } = known.get(id) ?? { name: String(id), peerUrl: "", clientUrl: "" };
          return { id: BigInt(id), name, peerUrl, clientUrl, isLearner: learners.includes(id) };
        }),
      };
    },
    status() {
      const { leader, lastIndex, appliedIndex, learners } = group.status();
      const { total, used } = member.stateBytes;
      return {
        header: header(state.revision),
        version: options.version,
        leader: BigInt(leader),
        raftIndex: BigInt(lastIndex),
        appliedIndex: BigInt(appliedIndex),
        dbBytes: BigInt(total),
        dbBytesInUse: BigInt(used),
        isLearner: learners.includes(options.memberId),
        compactRevision: BigInt(state.compactRevision),
        errors: [
          ...(leader === 0 ? ["no leader is known"] : []),
          ...(used >= options.stateBytesMax ? ["no space: writes are refused"] : []),
        ],
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
  });
}
