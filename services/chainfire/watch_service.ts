import { noKeyScope } from "@ultracloud/authz";
import { invalidField, type Rng, toHex } from "@ultracloud/base";
import { type WatchCreate, type WatchResponseSchema, WatchService } from "@ultracloud/proto/chainfire/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { namespaceName } from "./domain/namespaces.ts";
import { rejections } from "./errors.ts";
import { alsoWatches, rangeScope } from "./key_needs.ts";
import type { Member } from "./member.ts";
import type { WatchHub } from "./watch/hub.ts";
import type { WatchMessage } from "./watch/stream.ts";
import { splitEvents, watchMessageBytesMax } from "./watch/split.ts";
import type { WatchSpec } from "./watch/watch.ts";
import { fromEvent, type HeaderInit, toNumber } from "./wire.ts";

/** Streams belong to who opened them. */
const ownStream = () => noKeyScope;
const progressMsDefault = 10_000;
/** etcd's floor: shorter intervals are noise. */
const progressMsMin = 100;

/** Changes of keys, as they happen and from history. */
export function watchService(
  member: Member,
  deps: { readonly hub: WatchHub; readonly rng: Rng },
): BoundService {
  const { state, header } = member;
  const { hub, rng } = deps;
  const toSpec = (create: WatchCreate, field: string): WatchSpec => {
    if (create.key.length === 0) throw rejections.emptyKey(`${field}.key`);
    if (create.watchId < 0n) {
      throw invalidField(`${field}.watch_id`, "Cannot use a negative watch id: wanted 0 or more");
    }
    for (const { namespace, watchesMax } of state.quotas.of(create.key)) {
      const watches = watchesMax > 0 ? hub.watchesIn(namespace) + 1 : 0;
      if (watches > watchesMax) {
        throw rejections.quotaExceeded("watches", JSON.stringify(namespaceName(namespace)), watches, watchesMax);
      }
    }
    return {
      id: create.watchId,
      key: create.key,
      end: create.rangeEnd,
      from: create.startRevision === 0n ? state.revision + 1 : toNumber(create.startRevision),
      prevKv: create.prevKv,
      noPut: create.noPut,
      noDelete: create.noDelete,
      fragments: create.fragment,
    };
  };
  return bind(WatchService, {
    async *watch(request, { principal, signal }) {
      const asked = request.progressIntervalMs;
      if (asked < 0) throw invalidField("progress_interval_ms", "Cannot use a negative interval: wanted 0 or more");
      const specs = request.watches.map((create, i) => toSpec(create, `watches[${i}]`));
      const id = toHex(rng.fill(new Uint8Array(12)));
      const progressMs = asked === 0 ? progressMsDefault : Math.max(progressMsMin, asked);
      const stream = hub.open({ id, owner: principal.id, progressMs });
      try {
        specs.forEach((spec, i) => stream.add(spec, `watches[${i}].watch_id`));
        for await (const message of stream.messages(signal)) {
          // A note of progress speaks for the revision it was made at, however late it is read.
          const top = header(message.kind === "progress" ? message.revision : state.revision);
          if (message.kind !== "events") yield encode(message, top, id);
          else yield* encodeEvents(message, top);
        }
      } finally {
        stream.close();
      }
    },
    addWatch(request, { principal }) {
      if (!request.watch) throw invalidField("watch", "Cannot add no watch: wanted one");
      hub.stream(request.streamId, principal.id).add(toSpec(request.watch, "watch"), "watch.watch_id");
      return {};
    },
    cancelWatch(request, { principal }) {
      hub.stream(request.streamId, principal.id).cancel(request.watchId, "cancelled by the caller");
      return {};
    },
    requestProgress(request, { principal }) {
      hub.stream(request.streamId, principal.id).requestProgress();
      return {};
    },
  }, {
    watch: { resource: "watch", action: "get", scope: ownStream, also: alsoWatches },
    addWatch: {
      resource: "watch",
      action: "get",
      scope: ({ watch }) => watch === undefined ? noKeyScope : rangeScope(watch),
    },
    cancelWatch: { resource: "watch", action: "get", scope: ownStream },
    requestProgress: { resource: "watch", action: "get", scope: ownStream },
  });
}

type Events = Extract<WatchMessage, { kind: "events" }>;

function* encodeEvents(
  { watch, events }: Events,
  header: HeaderInit,
): Generator<MessageInitShape<typeof WatchResponseSchema>> {
  for (const part of splitEvents(events, watch.fragments ?? false, watchMessageBytesMax)) {
    yield {
      header,
      watchId: watch.id,
      events: part.events.map((event) => fromEvent(event, watch.prevKv)),
      fragment: part.fragment,
    };
  }
}

function encode(
  message: Exclude<WatchMessage, Events>,
  header: HeaderInit,
  streamId: string,
): MessageInitShape<typeof WatchResponseSchema> {
  switch (message.kind) {
    case "opened":
      return { header, streamId, watchId: -1n };
    case "created":
      return { header, watchId: message.id, created: true };
    case "cancelled":
      return {
        header,
        watchId: message.id,
        cancelled: true,
        cancelReason: message.reason,
        compactRevision: BigInt(message.compactRevision),
      };
    case "progress":
      return { header, watchId: -1n };
  }
}
