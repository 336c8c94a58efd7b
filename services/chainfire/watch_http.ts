import { create, type MessageInitShape, toJson } from "@bufbuild/protobuf";
import { Fault, type FaultKind, invalidField, utf8 } from "@ultracloud/base";
import {
  WatchCreateSchema,
  WatchRequestSchema,
  type WatchResponse,
  WatchResponseSchema,
  WatchService,
} from "@ultracloud/proto/chainfire/v1";
import { type Caller, type Calls, type HttpHandler, streamedResponse } from "@ultracloud/rpc";
import { prefixRange } from "./domain/namespaces.ts";

const path = "/v1/watch";
/** How long a poll waits when it does not say, and at most. */
const pollMsDefault = 30_000;
const pollMsMax = 300_000;

/**
 * A watch for programs without an RPC client: `GET /v1/watch?key=...` with `prefix=true` or `range_end`,
 * `start_revision`, `prev_kv`. By the `accept` header it answers server-sent events (their id is the revision, so that a
 * browser goes on by itself), or messages as lines of JSON; with `poll_ms` one message, as soon as something changed or
 * when the time is over. It is the RPC in other words, with its credentials, rows and limits.
 */
export const watchHttp: HttpHandler = (request, peer, calls) => {
  const url = new URL(request.url);
  if (url.pathname !== path) return undefined;
  if (request.method !== "GET") return failure(405, "unimplemented", "Cannot watch so: wanted GET");
  const left = new AbortController();
  const signal = AbortSignal.any([request.signal, left.signal]);
  const caller: Caller = { headers: request.headers, signal, peer };
  return answer(url.searchParams, { calls, caller, left }).catch((error) => {
    left.abort();
    if (!(error instanceof Fault)) throw error;
    return failure(statuses[error.kind] ?? 500, error.kind, error.message);
  });
};

interface Asked {
  readonly calls: Calls;
  readonly caller: Caller;
  readonly left: AbortController;
}

type Message = MessageInitShape<typeof WatchResponseSchema>;

async function answer(query: URLSearchParams, { calls, caller, left }: Asked): Promise<Response> {
  const pollMs = query.has("poll_ms") ? Math.min(pollMsMax, number(query, "poll_ms", pollMsDefault)) : undefined;
  const messages = calls.stream(WatchService.method.watch, caller, () => toRequest(query, caller.headers, pollMs));
  // Refusals come before the first message: they are answered with their status.
  await messages.next();
  if (pollMs !== undefined) return await poll(messages, left);
  const events = caller.headers.get("accept")?.includes("text/event-stream") ?? false;
  const parts = async function* () {
    try {
      for await (const message of messages) {
        const full = create(WatchResponseSchema, message);
        yield utf8.encode(events ? eventText(full) : `${jsonOf(full)}\n`);
      }
    } finally {
      left.abort();
    }
  };
  const headers = {
    "content-type": events ? "text/event-stream" : "application/x-ndjson",
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
  };
  return streamedResponse(parts(), { headers }, () => left.abort());
}

/** The first message that says something, or how far the watch was when the time was over. */
async function poll(messages: AsyncGenerator<Message>, left: AbortController): Promise<Response> {
  try {
    for await (const message of messages) {
      const full = create(WatchResponseSchema, message);
      // A note of progress (of no watch) comes once nothing happened for as long as the poll waits.
      if (full.created) continue;
      return new Response(jsonOf(full), {
        headers: { "content-type": "application/json", "cache-control": "no-store" },
      });
    }
    return failure(503, "unavailable", "Cannot watch on: the stream ended");
  } finally {
    left.abort();
    await messages.return(undefined);
  }
}

function toRequest(query: URLSearchParams, headers: Headers, pollMs: number | undefined) {
  for (const name of query.keys()) {
    if (!known.has(name)) throw invalidField(name, `Cannot use ${name} here: wanted one of ${[...known].join(", ")}`);
  }
  const key = utf8.encode(query.get("key") ?? "");
  const range = query.get("prefix") === "true"
    ? prefixRange(key)
    : { key, end: utf8.encode(query.get("range_end") ?? "") };
  const after = headers.get("last-event-id");
  if (after !== null && !/^\d{1,15}$/.test(after)) {
    throw invalidField("last-event-id", "Cannot go on after what is no revision");
  }
  const from = after === null ? number(query, "start_revision", 0) : Number(after) + 1;
  return create(WatchRequestSchema, {
    watches: [create(WatchCreateSchema, {
      key: range.key as Uint8Array<ArrayBuffer>,
      rangeEnd: range.end as Uint8Array<ArrayBuffer>,
      startRevision: BigInt(from),
      prevKv: query.get("prev_kv") === "true",
    })],
    // The note of progress ends a poll.
    progressIntervalMs: pollMs === undefined ? 0 : Math.max(1, pollMs),
  });
}

const known = new Set(["key", "range_end", "prefix", "start_revision", "prev_kv", "poll_ms"]);

function number(query: URLSearchParams, name: string, otherwise: number): number {
  const text = query.get(name);
  if (text === null) return otherwise;
  if (/^\d{1,15}$/.test(text)) return Number(text);
  throw invalidField(name, `Cannot use ${JSON.stringify(text.slice(0, 40))} as ${name}: wanted a whole number`);
}

function jsonOf(message: WatchResponse): string {
  return JSON.stringify(toJson(WatchResponseSchema, message));
}

/** The id is the last revision that is told in full: whoever comes back with it misses nothing. */
function eventText(message: WatchResponse): string {
  const last = message.events.at(-1)?.kv?.modRevision;
  const id = last === undefined || message.fragment ? "" : `id: ${last}\n`;
  return `${id}data: ${jsonOf(message)}\n\n`;
}

const statuses: Partial<Record<FaultKind, number>> = {
  invalid_argument: 400,
  failed_precondition: 400,
  out_of_range: 400,
  unauthenticated: 401,
  permission_denied: 403,
  not_found: 404,
  already_exists: 409,
  aborted: 409,
  resource_exhausted: 429,
  unimplemented: 501,
  unavailable: 503,
  deadline_exceeded: 504,
};

function failure(status: number, code: string, message: string): Response {
  return Response.json({ code, message }, { status });
}
