import type { Calls, HttpHandler } from "@ultracloud/rpc";
import { clusterPaths } from "./cluster.ts";
import type { HeaderInit } from "./encode.ts";
import { kvPaths } from "./kv.ts";
import { leasePaths, leaseUnaryPaths } from "./leases.ts";
import { lockPaths, lockUnaryPaths } from "./locks.ts";
import { maintenancePaths, maintenanceUnaryPaths } from "./maintenance.ts";
import type { Path } from "./paths.ts";
import { watchPath } from "./watch.ts";
import type { UnaryPath } from "./wire.ts";

const prefix = "/v3/";

/**
 * etcd's JSON paths on the listener of the RPCs: `POST /v3/kv/put` and so on, in the words of etcd 3.4's gateway. Every
 * path is RPCs of this member in other words, with their credentials, rows and limits. `present` is the header of an
 * answer that no RPC gave.
 */
export function etcdGateway(deps: { readonly present: () => HeaderInit }): HttpHandler {
  const { present } = deps;
  const unary = new Map<string, UnaryPath>(Object.entries({
    ...kvPaths,
    ...leaseUnaryPaths,
    ...lockUnaryPaths,
    ...clusterPaths,
    ...maintenanceUnaryPaths,
  }));
  const others = new Map<string, Path>(Object.entries({
    ...leasePaths(present),
    "/v3/watch": watchPath(present),
    ...lockPaths,
    ...maintenancePaths,
  }));
  for (const paths of [unary, others] as Map<string, unknown>[]) {
    // Some of the leases' paths have an older name too.
    for (const name of ["revoke", "timetolive", "leases"]) {
      const found = paths.get(`/v3/lease/${name}`);
      if (found !== undefined) paths.set(`/v3/kv/lease/${name}`, found);
    }
  }
  return (request, peer, calls: Calls) => {
    const { url } = request;
    const start = url.indexOf("/", url.indexOf("://") + 3);
    if (!url.startsWith(prefix, start)) return undefined;
    const query = url.indexOf("?", start);
    const path = query < 0 ? url.slice(start) : url.slice(start, query);
    const found = unary.get(path);
    if (found !== undefined && request.method === "POST") {
      return calls.serve(found.method, found.wire, request, peer);
    }
    const other = others.get(path);
    if (found === undefined && other === undefined) return plain(404, "Not Found");
    if (request.method !== "POST") return plain(405, "Method Not Allowed");
    return other!(request, peer, calls);
  };
}

function plain(status: number, text: string): Response {
  const headers = { "content-type": "text/plain; charset=utf-8", "x-content-type-options": "nosniff" };
  return new Response(`${text}\n`, { status, headers });
}
