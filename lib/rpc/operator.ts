import type { Health, Registry } from "@ultracloud/observe";
import type { Routes } from "./routes.ts";

export interface OperatorDeps {
  readonly name: string;
  readonly version: string;
  readonly health: Health;
  readonly registry: Registry;
  readonly routes: Routes;
}

/** What operators and load balancers ask over plain HTTP: is it alive, should it get calls, how is it doing. */
export function operatorRoutes(deps: OperatorDeps): ReadonlyMap<string, () => Response> {
  const noStore = { "cache-control": "no-store" };
  return new Map([
    // Alive: the process answers. Its state is shown, yet a component that waits for a callee must not be restarted.
    ["/healthz", () => Response.json(deps.health.snapshot(), { headers: noStore })],
    [
      "/readyz",
      () => Response.json(deps.health.snapshot(), { status: deps.health.serving ? 200 : 503, headers: noStore }),
    ],
    ["/metrics", () =>
      new Response(deps.registry.expose(), {
        headers: { "content-type": "text/plain; version=0.0.4; charset=utf-8", ...noStore },
      })],
    // What each call asks for is no secret: it is documentation, and what docs/reference/authz-matrix.txt is made from.
    ["/authz", () => Response.json(authorisationRows(deps.routes), { headers: noStore })],
    ["/version", () => Response.json({ name: deps.name, version: deps.version, deno: Deno.version.deno })],
  ]);
}

/** What an RPC asks of its caller, as the page /authz tells it. */
export interface AuthorisationRow {
  readonly permission?: string;
  /** Why it asks for no credentials. */
  readonly public?: string;
  /** Why any caller with credentials may use it. */
  readonly authenticated?: string;
  readonly mutating: boolean;
}

function authorisationRows(routes: Routes): Record<string, AuthorisationRow> {
  const rows: Record<string, AuthorisationRow> = {};
  for (const [path, { row, permission, mutating }] of [...routes.byPath].sort(([a], [b]) => a < b ? -1 : 1)) {
    if (permission !== undefined) rows[path] = { permission, mutating };
    else if (row.public !== undefined) rows[path] = { public: row.public, mutating };
    else rows[path] = { authenticated: (row as { authenticated: string }).authenticated, mutating };
  }
  return rows;
}
