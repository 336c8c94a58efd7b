import type { Health, Registry } from "@ultracloud/observe";

export interface OperatorDeps {
  readonly name: string;
  readonly version: string;
  readonly health: Health;
  readonly registry: Registry;
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
    ["/version", () => Response.json({ name: deps.name, version: deps.version, deno: Deno.version.deno })],
  ]);
}
