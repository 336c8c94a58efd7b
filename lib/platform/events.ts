import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { BoundedQueue, fault, invalidField } from "@ultracloud/base";
import { EventSchema, EventService, EventType } from "@ultracloud/proto/common/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import type { KvBackend, KvChanges } from "./kv.ts";
import { buckets, decodeRecord, type StoredRecord } from "./records.ts";

/** Events one reader may be behind before it is cut off. */
export const eventsBehindMax = 1024;

/** How records become events: per kind, the JSON of the resource as callers see it. Kinds left out are not told. */
export type EventViews = Readonly<Record<string, (record: StoredRecord) => unknown>>;

type EventInit = MessageInitShape<typeof EventSchema>;

/** Where a reader stands: everything up to `after`, and the first `skip` changes behind it. */
interface Cursor {
  readonly after: number;
  readonly skip: number;
}

function readCursor(text: string): Cursor | undefined {
  if (text === "") return undefined;
  const match = /^(\d{1,16})(?:\.(\d{1,6}))?$/.exec(text);
  if (!match) throw invalidField("cursor", "Cannot use the cursor: wanted one from an event", "invalid_cursor");
  return { after: Number(match[1]), skip: Number(match[2] ?? 0) };
}

/** Events of one batch of changes. Several changes of one write share its index, so the cursor counts within it. */
function* eventsOf(
  batch: KvChanges,
  from: Cursor | undefined,
  o: { service: string; views: EventViews; wanted: (record: StoredRecord) => boolean },
): Generator<EventInit> {
  let version = -1;
  let seen = 0;
  for (const change of batch.changes) {
    // Without an item a deletion mark has expired: its event was told when the mark was set.
    if (!change.item) continue;
    seen = change.item.version === version ? seen + 1 : 1;
    version = change.item.version;
    if (from && version === from.after + 1 && seen <= from.skip) continue;
    const { record, deleted } = decodeRecord(change.item.value);
    const view = o.views[record.kind];
    if (!view || !o.wanted(record)) continue;
    yield {
      cursor: `${version - 1}.${seen}`,
      type: deleted ? EventType.DELETED : record.revision === 1 ? EventType.CREATED : EventType.UPDATED,
      ref: { service: o.service, kind: record.kind, project: record.project, name: record.name, id: record.id },
      time: timestampFromMs(record.updateMs),
      resourceJson: deleted ? "" : JSON.stringify(view(record)),
    };
  }
}

/** Ordered changes of the records of a service, from a cursor on, until the signal aborts. */
export async function* watchRecords(
  kv: KvBackend,
  o: { readonly service: string; readonly views: EventViews },
  request: { readonly project: string; readonly cursor: string; readonly kinds: readonly string[] },
  signal: AbortSignal,
): AsyncGenerator<EventInit> {
  for (const [i, kind] of request.kinds.entries()) {
    if (!o.views[kind]) {
      const known = Object.keys(o.views).join(", ");
      throw invalidField(
        `kinds.${i}`,
        `Cannot watch kind ${JSON.stringify(kind.slice(0, 40))}: wanted one of ${known}`,
      );
    }
  }
  const from = readCursor(request.cursor);
  const wanted = (record: StoredRecord) =>
    (request.kinds.length === 0 || request.kinds.includes(record.kind)) &&
    (request.project === "" || record.project === request.project || record.project.startsWith(`${request.project}/`));
  const queue = new BoundedQueue<EventInit>({ name: "events of a reader", limit: eventsBehindMax });
  const stop = new AbortController();
  const both = AbortSignal.any([signal, stop.signal]);
  let failure: unknown;
  const pump = (async () => {
    try {
      for await (const batch of kv.watch(buckets.records, "", from?.after, both)) {
        for (const event of eventsOf(batch, from, { ...o, wanted })) queue.push(event);
      }
    } catch (error) {
      failure = stop.signal.aborted ? undefined : error;
    } finally {
      queue.close();
    }
  })();
  try {
    for (;;) {
      const event = await queue.take(signal);
      if (!event) break;
      yield event;
    }
    if (failure instanceof Error && "code" in failure && failure.code === "queue_full") {
      throw fault(
        "resource_exhausted",
        "event_reader_slow",
        `Cannot follow events as the reader is ${eventsBehindMax} behind: wanted it to resume from its last cursor`,
      );
    }
    if (failure !== undefined) throw failure;
  } finally {
    stop.abort();
    await pump;
  }
}

/** The RPC face, with its authorisation row. */
export function serveEvents(kv: KvBackend, o: { readonly service: string; readonly views: EventViews }): BoundService {
  return bind(EventService, {
    async *watchEvents(request, context) {
      for await (const event of watchRecords(kv, o, request, context.signal)) yield create(EventSchema, event);
    },
  }, {
    watchEvents: { resource: "event", action: "watch", scope: (r) => r.project },
  });
}
