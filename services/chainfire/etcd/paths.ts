import type { Fault } from "@ultracloud/base";
import { type Caller, type Calls, type HttpHandler, streamedResponse } from "@ultracloud/rpc";
import { failureLine, failureResponse, type Numbering } from "./errors.ts";
import { type Json, readObject } from "./json_read.ts";

/** A path of etcd that takes more than one of our RPCs. */
export type Path = (request: Request, peer: Parameters<HttpHandler>[1], calls: Calls) => Promise<Response>;

/** What such a path calls with, on behalf of its caller. */
export interface Several {
  readonly calls: Calls;
  readonly caller: Caller;
  /** The request as one object; to be read once. */
  read(): Promise<Json>;
}

/** etcd's paths wait as long as the caller does; the longest deadline a call may have here comes close. */
const waitMsMax = 600_000;

const json = { "content-type": "application/json" };

/** A path that answers once. */
export function singlePath(answer: (several: Several) => Promise<string>, numbering?: Numbering): Path {
  return async (request, peer, calls) => {
    const caller = { headers: headersOf(request), signal: request.signal, peer };
    try {
      const read = async () => readObject(await calls.body(request));
      return new Response(await answer({ calls, caller, read }), { headers: json });
    } catch (error) {
      return failureResponse(error as Fault, numbering);
    }
  };
}

const encoder = new TextEncoder();

/**
 * A path that answers with lines of `{"result":...}`. A failure before the first line is an error with its status, one
 * behind it a line `{"error":...}`.
 */
export function streamPath(
  answer: (several: Several, request: Request) => AsyncGenerator<string, void, undefined>,
  numbering?: Numbering,
): Path {
  return async (request, peer, calls) => {
    const left = new AbortController();
    const signal = AbortSignal.any([request.signal, left.signal]);
    const read = async () => readObject(await calls.body(request));
    const lines = answer({ calls, caller: { headers: headersOf(request), signal, peer }, read }, request);
    let first: IteratorResult<string, void>;
    try {
      first = await lines.next();
    } catch (error) {
      return failureResponse(error as Fault, numbering);
    }
    const parts = async function* () {
      try {
        for (let item = first; item.done !== true; item = await lines.next()) {
          yield encoder.encode(`{"result":${item.value}}\n`);
        }
      } catch (error) {
        if (!signal.aborted) yield encoder.encode(`${failureLine(error as Fault, numbering)}\n`);
      } finally {
        await lines.return();
      }
    };
    return streamedResponse(parts(), { headers: json }, () => left.abort());
  };
}

/** A key for one call must not stand for several. */
function headersOf(request: Request): Headers {
  const headers = new Headers(request.headers);
  headers.delete("idempotency-key");
  return headers;
}

/** The caller of something that may take long, when it named no deadline of its own. */
export function patient(caller: Caller): Caller {
  if (caller.headers.has("connect-timeout-ms")) return caller;
  const headers = new Headers(caller.headers);
  headers.set("connect-timeout-ms", String(waitMsMax));
  return { ...caller, headers };
}
