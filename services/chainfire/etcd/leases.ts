import { create } from "@bufbuild/protobuf";
import { Fault, fault } from "@ultracloud/base";
import {
  LeaseGrantRequestSchema,
  LeaseKeepAliveRequestSchema,
  LeaseListRequestSchema,
  LeaseRevokeRequestSchema,
  LeaseService,
  LeaseTimeToLiveRequestSchema,
} from "@ultracloud/proto/chainfire/v1";
import { leaseTtlMsMax } from "../domain/limits.ts";
import { rejections } from "../errors.ts";
import { braces, header, headerAnswer, type HeaderInit, int } from "./encode.ts";
import { bool, int64, type Json, parseObject } from "./json_read.ts";
import { jsonValues } from "./json_stream.ts";
import { readLease } from "./kv.ts";
import { type Path, singlePath, streamPath } from "./paths.ts";
import { type UnaryPath, unaryPath } from "./wire.ts";

const { method } = LeaseService;
const msPerSecond = 1_000n;
/** What etcd makes of shorter ones with its default election timeout. */
const ttlSecondsMin = 2n;

function readGrant(json: Json) {
  const id = int64(json.ID);
  if (id < 0n) throw fault("invalid_argument", "invalid_field", `Cannot grant lease ${id}: wanted an id of 0 or more`);
  const seconds = int64(json.TTL);
  const ttlMs = (seconds < ttlSecondsMin ? ttlSecondsMin : seconds) * msPerSecond;
  if (ttlMs > BigInt(leaseTtlMsMax)) throw rejections.leaseTtlTooLarge(ttlMs, leaseTtlMsMax);
  return create(LeaseGrantRequestSchema, { id, ttlMs });
}

/** Whole seconds, as etcd counts them. */
const seconds = (ttlMs: bigint | undefined) => (ttlMs ?? 0n) / msPerSecond;

type GrantAnswer = { header?: HeaderInit | undefined; id?: bigint; ttlMs?: bigint };
const grantAnswer = (answer: GrantAnswer) =>
  `{${header(answer.header)}${int("ID", answer.id)}${int("TTL", seconds(answer.ttlMs))}}`;

const isLost = (error: unknown) => error instanceof Fault && error.code === "lease_not_found";

export const leaseUnaryPaths: Readonly<Record<string, UnaryPath>> = {
  "/v3/lease/grant": unaryPath(method.leaseGrant, readGrant, grantAnswer),
  "/v3/lease/revoke": unaryPath(
    method.leaseRevoke,
    (json) => create(LeaseRevokeRequestSchema, { id: readLease(json.ID) }),
    headerAnswer,
  ),
  "/v3/lease/leases": unaryPath(
    method.leaseList,
    () => create(LeaseListRequestSchema),
    ({ header: of, ids = [] }) => {
      const leases = ids.length === 0 ? "" : `,"leases":[${ids.map((id) => braces(int("ID", id))).join()}]`;
      return `{${header(of)}${leases}}`;
    },
  ),
};

/** `present` is the header of an answer that no RPC gave: a lease that is gone is an answer at etcd, not a failure. */
export function leasePaths(present: () => HeaderInit): Readonly<Record<string, Path>> {
  const timeToLive = singlePath(async ({ calls, caller, read }) => {
    let id = 0n;
    let wantsKeys = false;
    try {
      const lease = await calls.unary(method.leaseTimeToLive, caller, async () => {
        const json = await read();
        id = int64(json.ID);
        wantsKeys = bool(json.keys);
        return create(LeaseTimeToLiveRequestSchema, { id: readLease(json.ID), keys: wantsKeys });
      });
      const keys = lease.keys ?? [];
      const listed = keys.length === 0 ? "" : `,"keys":[${keys.map((key) => `"${key.toBase64()}"`).join()}]`;
      return `{${header(lease.header)}${int("ID", id)}${int("TTL", seconds(lease.remainingTtlMs))}` +
        `${int("grantedTTL", seconds(lease.grantedTtlMs))}${listed}}`;
    } catch (error) {
      if (!isLost(error)) throw error;
      return `{${header(present())}${int("ID", id)},"TTL":"-1"}`;
    }
  });
  const keepAlive = streamPath(async function* ({ calls, caller }, request) {
    for await (const text of jsonValues(request.body, calls.messageBytesMax, caller.signal)) {
      let id = 0n;
      try {
        yield grantAnswer(
          await calls.unary(method.leaseKeepAlive, caller, () => {
            const json = parseObject(text);
            id = int64(json.ID);
            return create(LeaseKeepAliveRequestSchema, { id: readLease(json.ID) });
          }),
        );
      } catch (error) {
        if (!isLost(error)) throw error;
        yield `{${header(present())}${int("ID", id)}}`;
      }
    }
  }, "unknown");
  return { "/v3/lease/timetolive": timeToLive, "/v3/lease/keepalive": keepAlive };
}
