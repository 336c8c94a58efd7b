import type { MessageInitShape } from "@bufbuild/protobuf";
import { type KvEventSchema, KvEventType, type WatchResponseSchema } from "@ultracloud/proto/chainfire/v1";
import { flag, header, type HeaderInit, int, keyValue } from "./encode.ts";

type MessageInit = MessageInitShape<typeof WatchResponseSchema>;
type EventInit = MessageInitShape<typeof KvEventSchema>;

const id = (watchId: bigint) => int("watch_id", watchId);

export const createdLine = (of: HeaderInit | undefined, watchId: bigint): string =>
  `{${header(of)}${id(watchId)},"created":true}`;

/** A watch that never came to be. */
export const refusedLine = (of: HeaderInit, reason: string): string =>
  `{${header(of)}${id(-1n)},"created":true,"canceled":true,"cancel_reason":${JSON.stringify(reason)}}`;

export const progressLine = (of: HeaderInit | undefined, watchId: bigint): string => `{${header(of)}${id(watchId)}}`;

/** As etcd: a watch whose history is gone is told where history begins, and no revision of the present. */
export function cancelledLine(message: MessageInit, watchId: bigint, withReason: boolean): string {
  const { compactRevision = 0n, cancelReason = "" } = message;
  const reason = withReason && cancelReason !== "" ? `,"cancel_reason":${JSON.stringify(cancelReason)}` : "";
  return `{${header(message.header, compactRevision === 0n)}${id(watchId)},"canceled":true` +
    `${int("compact_revision", compactRevision)}${reason}}`;
}

export function eventsLine(message: MessageInit, watchId: bigint): string {
  const events = (message.events ?? []).map(event).join();
  return `{${header(message.header)}${id(watchId)}${flag("fragment", message.fragment)},"events":[${events}]}`;
}

function event({ type, kv, prevKv }: EventInit): string {
  const kind = type === KvEventType.DELETE ? `"type":"DELETE",` : "";
  const before = prevKv === undefined ? "" : `,"prev_kv":${keyValue(prevKv)}`;
  return `{${kind}"kv":${keyValue(kv ?? {})}${before}}`;
}
