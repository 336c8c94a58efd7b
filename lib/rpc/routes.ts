import { createRegistry, type DescMethod, type Registry } from "@bufbuild/protobuf";
import { MethodOptions_IdempotencyLevel } from "@bufbuild/protobuf/wkt";
import type { Histogram, HistogramSeries } from "@ultracloud/observe";
import type { AuthzRow, BoundService, Codec } from "./types.ts";

/** Everything about one RPC that can be known before a call. */
export interface Route {
  /** "/ultracloud.iam.v1.OrgService/CreateOrg". */
  readonly path: string;
  readonly method: DescMethod;
  // deno-lint-ignore no-explicit-any -- erased by `bind`, which checked it
  readonly row: AuthzRow<any>;
  // deno-lint-ignore no-explicit-any -- erased by `bind`, which checked it
  readonly handler: (request: any, context: any) => any;
  // deno-lint-ignore no-explicit-any -- erased by `bind`, which checked it
  readonly codec: Codec<any> | undefined;
  /** "plasmavmc.vm.create"; undefined on public and authenticated rows. */
  readonly permission: string | undefined;
  readonly isPublic: boolean;
  readonly mutating: boolean;
  readonly unary: boolean;
  /** Types of every service beside it: what an Any in an answer may hold. */
  readonly registry: Registry;
  /** Latency by outcome, looked up once per outcome. */
  readonly latency: (code: string) => HistogramSeries;
}

export interface Routes {
  readonly byPath: ReadonlyMap<string, Route>;
  /** Type names of the services, to tell an unknown method from an unknown service. */
  readonly services: ReadonlySet<string>;
  readonly registry: Registry;
}

/** Routes of all services. `component` is the first part of every permission, without hyphens: "vmagent.vm.create". */
export function buildRoutes(component: string, services: readonly BoundService[], latency: Histogram): Routes {
  const byPath = new Map<string, Route>();
  const names = new Set<string>();
  const registry = createRegistry(...services.map(({ service }) => service.file));
  const owner = component.replaceAll("-", "");
  for (const bound of services) {
    if (names.has(bound.service.typeName)) throw new Error(`Cannot serve ${bound.service.typeName} twice`);
    names.add(bound.service.typeName);
    for (const method of bound.service.methods) {
      const row = bound.authz[method.localName];
      const handler = bound.handlers[method.localName];
      const path = `/${bound.service.typeName}/${method.name}`;
      if (row === undefined || typeof handler !== "function") {
        throw new Error(`Cannot serve ${path}: it has no ${row === undefined ? "authorisation row" : "handler"}`);
      }
      const series = new Map<string, HistogramSeries>();
      byPath.set(path, {
        path,
        method,
        row,
        handler: handler.bind(bound.handlers),
        codec: bound.codecs[method.localName],
        permission: row.resource === undefined ? undefined : `${owner}.${row.resource}.${row.action}`,
        isPublic: row.public !== undefined,
        mutating: method.idempotency !== MethodOptions_IdempotencyLevel.NO_SIDE_EFFECTS,
        unary: method.methodKind === "unary",
        registry,
        latency: (code) => {
          let found = series.get(code);
          if (found === undefined) series.set(code, found = latency.with({ method: path, code }));
          return found;
        },
      });
    }
  }
  return { byPath, services: names, registry };
}

/** Every permission the services ask for, sorted; feeds role definitions and their tests. */
export function permissionsAsked(component: string, services: readonly BoundService[]): string[] {
  const owner = component.replaceAll("-", "");
  const all = new Set<string>();
  for (const { authz } of services) {
    for (const row of Object.values(authz)) {
      if (row.resource !== undefined) all.add(`${owner}.${row.resource}.${row.action}`);
    }
  }
  return [...all].sort();
}
