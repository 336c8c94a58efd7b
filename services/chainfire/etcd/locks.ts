import { create } from "@bufbuild/protobuf";
import { fault } from "@ultracloud/base";
import {
  CampaignRequestSchema,
  ElectionService,
  type LeaderKey,
  LeaderKeySchema,
  LeaderRequestSchema,
  LockRequestSchema,
  LockService,
  ObserveRequestSchema,
  ProclaimRequestSchema,
  ResignRequestSchema,
  UnlockRequestSchema,
} from "@ultracloud/proto/chainfire/v1";
import { base64, braces, header, headerAnswer, int, keyValue, type KvInit } from "./encode.ts";
import type { HeaderInit } from "./encode.ts";
import { bytes, int64, type Json, object, unreadable } from "./json_read.ts";
import { readLease } from "./kv.ts";
import { type Path, patient, singlePath, streamPath } from "./paths.ts";
import { type UnaryPath, unaryPath } from "./wire.ts";

const locks = LockService.method;
const elections = ElectionService.method;
/** etcd's length of a session that names no lease. */
const sessionTtlMs = 60_000n;

/** A lease to hold something with: given, or one of the server's own. */
function holding(json: Json) {
  const lease = int64(json.lease) === 0n ? 0n : readLease(json.lease);
  return { lease, ttlMs: lease === 0n ? sessionTtlMs : 0n };
}

const lock = singlePath(async ({ calls, caller, read }) => {
  const held = await calls.unary(locks.lock, patient(caller), async () => {
    const json = await read();
    return create(LockRequestSchema, { name: bytes(json.name), ...holding(json) });
  });
  return `{${header(held.header)}${base64("key", held.key)}}`;
}, "unknown");

function leaderFields({ name, key, fencingToken, lease }: Partial<LeaderKey>): string {
  return braces(base64("name", name) + base64("key", key) + int("rev", fencingToken) + int("lease", lease));
}

const campaign = singlePath(async ({ calls, caller, read }) => {
  const won = await calls.unary(elections.campaign, patient(caller), async () => {
    const json = await read();
    return create(CampaignRequestSchema, { name: bytes(json.name), value: bytes(json.value), ...holding(json) });
  });
  return `{${header(won.header)},"leader":${leaderFields(won.leader ?? {})}}`;
}, "unknown");

function readLeader(json: Json): LeaderKey {
  const leader = object(json.leader);
  if (leader === undefined) throw unreadable('"leader" field must be provided');
  return create(LeaderKeySchema, {
    name: bytes(leader.name),
    key: bytes(leader.key),
    fencingToken: int64(leader.rev),
    lease: readLease(leader.lease),
  });
}

type LeaderAnswer = { header?: HeaderInit | undefined; kv?: KvInit | undefined };
const leaderAnswer = ({ header: of, kv }: LeaderAnswer) => {
  if (kv === undefined) throw fault("not_found", "no_election_leader", "election: no leader");
  return `{${header(of)},"kv":${keyValue(kv)}}`;
};

const observe = streamPath(async function* ({ calls, caller, read }) {
  const leaders = calls.stream(
    elections.observe,
    caller,
    async () => create(ObserveRequestSchema, { name: bytes((await read()).name) }),
  );
  for await (const leader of leaders) yield leaderAnswer(leader);
}, "unknown");

export const lockUnaryPaths: Readonly<Record<string, UnaryPath>> = {
  "/v3/lock/unlock": unaryPath(
    locks.unlock,
    (json) => create(UnlockRequestSchema, { key: bytes(json.key) }),
    headerAnswer,
    "unknown",
  ),
  "/v3/election/leader": unaryPath(
    elections.leader,
    (json) => create(LeaderRequestSchema, { name: bytes(json.name) }),
    leaderAnswer,
    "unknown",
  ),
  "/v3/election/proclaim": unaryPath(
    elections.proclaim,
    (json) => create(ProclaimRequestSchema, { leader: readLeader(json), value: bytes(json.value) }),
    headerAnswer,
    "unknown",
  ),
  "/v3/election/resign": unaryPath(
    elections.resign,
    (json) => create(ResignRequestSchema, { leader: readLeader(json) }),
    headerAnswer,
    "unknown",
  ),
};

export const lockPaths: Readonly<Record<string, Path>> = {
  "/v3/lock/lock": lock,
  "/v3/election/campaign": campaign,
  "/v3/election/observe": observe,
};
