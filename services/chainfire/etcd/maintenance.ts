import { create } from "@bufbuild/protobuf";
import {
  type Alarm,
  AlarmAction,
  AlarmRequestSchema,
  AlarmType,
  ClusterService,
  HashKvRequestSchema,
  MaintenanceService,
  ReclaimRequestSchema,
  SnapshotRequestSchema,
  StatusRequestSchema,
} from "@ultracloud/proto/chainfire/v1";
import { base64, braces, flag, header, int } from "./encode.ts";
import { int64, type Json, oneOf, uint64 } from "./json_read.ts";
import { type Path, streamPath } from "./paths.ts";
import { type UnaryPath, unaryPath } from "./wire.ts";

const { method } = MaintenanceService;
const actions = ["GET", "ACTIVATE", "DEACTIVATE"] as const;
const alarms = ["NONE", "NOSPACE", "CORRUPT"] as const;
const toAction = {
  GET: AlarmAction.GET,
  ACTIVATE: AlarmAction.ACTIVATE,
  DEACTIVATE: AlarmAction.DEACTIVATE,
} as const;
const toAlarm = { NONE: AlarmType.UNSPECIFIED, NOSPACE: AlarmType.NOSPACE, CORRUPT: AlarmType.CORRUPT } as const;
const alarmName = (type: AlarmType | undefined) => alarms[type ?? 0] ?? "NONE";

type AlarmInit = Partial<Pick<Alarm, "memberId" | "type">>;

function readAlarm(json: Json) {
  return create(AlarmRequestSchema, {
    action: toAction[oneOf(json.action, actions, "etcdserverpb.AlarmRequest_AlarmAction")],
    memberId: uint64(json.memberID ?? json.member_id),
    type: toAlarm[oneOf(json.alarm, alarms, "etcdserverpb.AlarmType")],
  });
}

function alarmFields({ memberId, type }: AlarmInit): string {
  return braces(`${int("memberID", memberId)},"alarm":"${alarmName(type)}"`);
}

/** As etcd: no header, and no list when nothing is raised. */
const alarmAnswer = ({ alarms: raised = [] }: { readonly alarms?: readonly AlarmInit[] }) =>
  raised.length === 0 ? "{}" : `{"alarms":[${raised.map(alarmFields).join()}]}`;

const snapshot = streamPath(async function* ({ calls, caller }) {
  for await (const part of calls.stream(method.snapshot, caller, () => create(SnapshotRequestSchema))) {
    // The last message is the hash of all before it, as at etcd.
    const blob = part.chunk?.length ? part.chunk : part.sha256;
    yield braces(int("remaining_bytes", part.remainingBytes) + base64("blob", blob));
  }
});

const hash = unaryPath(
  method.hashKv,
  (json) => {
    const revision = int64(json.revision);
    return create(HashKvRequestSchema, { revision: revision < 0n ? 0n : revision });
  },
  ({ header: of, hash: value = 0, compactRevision }) =>
    `{${header(of)}${value === 0 ? "" : `,"hash":${value}`}${int("compact_revision", compactRevision)}}`,
);

const status = unaryPath(ClusterService.method.status, () => create(StatusRequestSchema), (answer) => {
  const { version = "", dbBytes, dbBytesInUse, leader, raftIndex, appliedIndex, isLearner } = answer;
  const raised = (answer.alarms ?? []).map(({ memberId = 0n, type }) =>
    `memberID:${memberId} alarm:${alarmName(type)} `
  );
  const errors = [...raised, ...answer.errors ?? []];
  return `{${header(answer.header)},"version":${JSON.stringify(version)}${int("dbSize", dbBytes)}` +
    `${int("leader", leader)}${int("raftIndex", raftIndex)}${int("raftTerm", answer.header?.raftTerm)}` +
    `${int("raftAppliedIndex", appliedIndex)}${errors.length === 0 ? "" : `,"errors":${JSON.stringify(errors)}`}` +
    `${int("dbSizeInUse", dbBytesInUse)}${flag("isLearner", isLearner)}}`;
});

export const maintenanceUnaryPaths: Readonly<Record<string, UnaryPath>> = {
  "/v3/maintenance/alarm": unaryPath(method.alarm, readAlarm, alarmAnswer),
  "/v3/maintenance/status": status,
  "/v3/maintenance/defragment": unaryPath(method.reclaim, () => create(ReclaimRequestSchema), () => "{}"),
  // etcd 3.4 has the name of the first for what the second does.
  "/v3/maintenance/hash": hash,
  "/v3/maintenance/hashkv": hash,
};

export const maintenancePaths: Readonly<Record<string, Path>> = { "/v3/maintenance/snapshot": snapshot };
