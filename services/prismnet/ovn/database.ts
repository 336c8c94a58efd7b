import type { TlsFiles } from "@ultracloud/config";
import type { Health } from "@ultracloud/observe";
import { openOvsdb, type OvsdbClient, type OvsdbDeps, parseEndpoint } from "@ultracloud/ovsdb";
import { northboundTables } from "./northbound.ts";

/** The northbound database as this engine uses it; health's part `northbound` says whether it is connected. */
export function openNorthbound(
  o: { readonly northbound: string; readonly runDir: string; readonly rpc: { readonly tls?: TlsFiles | undefined } },
  deps: OvsdbDeps & { readonly health: Health },
): OvsdbClient {
  // The run directories of a host lie side by side.
  const own = `unix:${o.runDir.slice(0, o.runDir.lastIndexOf("/"))}/net-agent/nb.sock`;
  const db = openOvsdb({
    endpoint: parseEndpoint(o.northbound === "" ? own : o.northbound, o.rpc.tls),
    database: "OVN_Northbound",
    tables: northboundTables,
  }, deps);
  // Records are served without it: what they say is written once it is there.
  const tell = () => deps.health.set("northbound", db.connected ? "ready" : "degraded", db.connected ? "" : db.reason);
  db.onChange(tell);
  tell();
  return db;
}
