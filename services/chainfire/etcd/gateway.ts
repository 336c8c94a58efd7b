import type { Calls, HttpHandler } from "@ultracloud/rpc";
import { kvPaths } from "./kv.ts";
import type { UnaryPath } from "./wire.ts";

const prefix = "/v3/";

/**
 * etcd's JSON paths on the listener of the RPCs: `POST /v3/kv/put` and so on, in the words of etcd 3.4's gateway. Every
 * path is RPCs of this member in other words, with their credentials, rows and limits.
 */
export function etcdGateway(): HttpHandler {
  const unary = new Map<string, UnaryPath>(Object.entries({ ...kvPaths }));
  return (request, peer, calls: Calls) => {
    const { url } = request;
    const start = url.indexOf("/", url.indexOf("://") + 3);
    if (!url.startsWith(prefix, start)) return undefined;
    const query = url.indexOf("?", start);
    const path = query < 0 ? url.slice(start) : url.slice(start, query);
    const found = unary.get(path);
    if (found === undefined) return plain(404, "Not Found");
    if (request.method !== "POST") return plain(405, "Method Not Allowed");
    return calls.serve(found.method, found.wire, request, peer);
  };
}

function plain(status: number, text: string): Response {
  const headers = { "content-type": "text/plain; charset=utf-8", "x-content-type-options": "nosniff" };
  return new Response(`${text}\n`, { status, headers });
}
