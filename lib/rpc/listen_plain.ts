import { fault } from "@ultracloud/base";
import type { Logger } from "@ultracloud/observe";
import { type Address, hostPort, isLoopback } from "./address.ts";
import type { Peer } from "./types.ts";

/** Answers one request of a peer; never rejects for what the request holds. */
export type Serve = (request: Request, peer: Peer) => Response | Promise<Response>;

/** An open listener. */
export interface Listener {
  /** "127.0.0.1:7100" or "unix:/path". */
  readonly address: string;
  readonly url: string;
  /** Takes no further connections; resolves when those that are open have ended. */
  stop(): Promise<void>;
  /** Cuts what is still open. */
  kill(): void;
}

const nobody: Peer = { certificateId: undefined };

/** Serves plain HTTP on loopback or a unix socket, and nowhere else. */
export function listenPlain(address: Address, deps: { readonly serve: Serve; readonly log: Logger }): Listener {
  if (!isLoopback(address)) {
    const { host, port } = address as { host: string; port: number };
    throw fault(
      "invalid_argument",
      "plain_listener_exposed",
      `Cannot listen on ${hostPort(host, port)} without TLS: wanted loopback, a unix socket, or rpc.tls`,
    );
  }
  const cut = new AbortController();
  const options = {
    signal: cut.signal,
    onListen: () => {},
    onError: (error: unknown) => {
      deps.log.error("cannot answer", { error });
      return new Response(null, { status: 500 });
    },
  };
  const handler = (request: Request) => deps.serve(request, nobody);
  if (address.kind === "unix") {
    removeStale(address.path);
    const server = Deno.serve({ ...options, path: address.path }, handler);
    return {
      address: `unix:${address.path}`,
      url: `http+unix://${encodeURIComponent(address.path)}`,
      stop: () => server.shutdown(),
      kill: () => cut.abort(),
    };
  }
  const server = Deno.serve({ ...options, hostname: address.host, port: address.port }, handler);
  const bound = hostPort(address.host, (server.addr as Deno.NetAddr).port);
  return {
    address: bound,
    url: `http://${bound}`,
    stop: () => server.shutdown(),
    kill: () => cut.abort(),
  };
}

/** A socket file that a killed process left behind; anything else in its place is kept, and listening fails. */
function removeStale(path: string): void {
  try {
    if (Deno.lstatSync(path).isSocket) Deno.removeSync(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}
