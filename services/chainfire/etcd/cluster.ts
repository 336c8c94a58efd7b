import { create } from "@bufbuild/protobuf";
import { fault } from "@ultracloud/base";
import {
  ClusterService,
  LeaderTransferRequestSchema,
  type Member,
  MemberAddRequestSchema,
  MemberListRequestSchema,
  MemberPromoteRequestSchema,
  MemberRemoveRequestSchema,
  MemberUpdateRequestSchema,
} from "@ultracloud/proto/chainfire/v1";
import { braces, flag, header, type HeaderInit, int } from "./encode.ts";
import { bool, type Json, list, text, uint64 } from "./json_read.ts";
import { type UnaryPath, unaryPath } from "./wire.ts";

const { method } = ClusterService;

type MemberInit = Partial<Omit<Member, "$typeName" | "$unknown">>;
interface MembersAnswer {
  readonly header?: HeaderInit | undefined;
  readonly member?: MemberInit | undefined;
  readonly members?: readonly MemberInit[];
}

const urls = (name: string, url: string | undefined) => url ? `,"${name}":[${JSON.stringify(url)}]` : "";

function memberFields({ id, name, peerUrl, clientUrl, isLearner }: MemberInit): string {
  const named = name ? `,"name":${JSON.stringify(name)}` : "";
  return braces(
    int("ID", id) + named + urls("peerURLs", peerUrl) + urls("clientURLs", clientUrl) + flag("isLearner", isLearner),
  );
}

/** etcd says no revision where it speaks of members. */
function membersAnswer(answer: MembersAnswer): string {
  const { member, members = [] } = answer;
  const one = member === undefined ? "" : `,"member":${memberFields(member)}`;
  const all = members.length === 0 ? "" : `,"members":[${members.map(memberFields).join()}]`;
  return `{${header(answer.header, false)}${one}${all}}`;
}

function badUrls(): never {
  throw fault("invalid_argument", "bad_member_urls", "etcdserver: given member URLs are invalid");
}

/** The one URL of a member: here each has one for its peers and one for clients. */
function oneUrl(value: unknown): string {
  const all = list(value);
  if (all.length !== 1) badUrls();
  const url = text(all[0]);
  if (!/^https?:\/\/[^/\s]+\/?$/.test(url)) badUrls();
  return url;
}

/** `name` and `clientURLs` go beyond etcd's request, whose members tell them when they start; one can be made up. */
function readAdd(json: Json) {
  const peerUrl = oneUrl(json.peerURLs ?? json.peer_urls);
  if (list(json.clientURLs).length === 0) {
    throw fault("invalid_argument", "client_urls_missing", "Cannot add a member without its clientURLs: wanted one");
  }
  return create(MemberAddRequestSchema, {
    peerUrl,
    clientUrl: oneUrl(json.clientURLs),
    name: text(json.name) || new URL(peerUrl).host.replaceAll(/[^A-Za-z0-9.]/g, "-"),
    isLearner: bool(json.isLearner ?? json.is_learner),
  });
}

export const clusterPaths: Readonly<Record<string, UnaryPath>> = {
  "/v3/cluster/member/list": unaryPath(method.memberList, () => create(MemberListRequestSchema), membersAnswer),
  "/v3/cluster/member/add": unaryPath(method.memberAdd, readAdd, membersAnswer),
  "/v3/cluster/member/remove": unaryPath(
    method.memberRemove,
    (json) => create(MemberRemoveRequestSchema, { id: uint64(json.ID) }),
    membersAnswer,
  ),
  "/v3/cluster/member/promote": unaryPath(
    method.memberPromote,
    (json) => create(MemberPromoteRequestSchema, { id: uint64(json.ID) }),
    membersAnswer,
  ),
  "/v3/cluster/member/update": unaryPath(
    method.memberUpdate,
    (json) =>
      create(MemberUpdateRequestSchema, { id: uint64(json.ID), peerUrl: oneUrl(json.peerURLs ?? json.peer_urls) }),
    membersAnswer,
  ),
  "/v3/maintenance/transfer-leadership": unaryPath(method.leaderTransfer, (json) => {
    const target = uint64(json.targetID ?? json.target_id);
    if (target === 0n) throw fault("failed_precondition", "bad_transferee", "etcdserver: bad leader transferee");
    return create(LeaderTransferRequestSchema, { target });
  }, () => "{}"),
};
