import { Fault } from "@ultracloud/base";
import { isResource, linkOf, type Redfish, type Resource, textOf } from "./client.ts";
import { type DiscoveredSystem, members } from "./discover.ts";

/** Newest entries kept of each log; a BMC keeps thousands. */
const entriesMax = 200;

export interface BmcLog {
  readonly path: string;
  readonly entries: readonly Resource[];
  /** Set when the log could not be read. */
  readonly error?: string;
}

/** What the system and its managers have written down: the side of the story that no serial line tells. */
export async function readLogs(redfish: Redfish, found: DiscoveredSystem): Promise<BmcLog[]> {
  const logs: BmcLog[] = [];
  for (const owner of [found.path, ...found.managerPaths]) {
    const services = await members(redfish, linkOf(await redfish.get(owner), "LogServices"));
    for (const service of services) logs.push(await readLog(redfish, service));
  }
  return logs;
}

async function readLog(redfish: Redfish, service: string): Promise<BmcLog> {
  try {
    const path = linkOf(await redfish.get(service), "Entries");
    if (path === undefined) return { path: service, entries: [] };
    const entries = (await redfish.get(path))["Members"];
    const kept = (Array.isArray(entries) ? entries.filter(isResource) : []).slice(-entriesMax);
    return {
      path,
      entries: kept.map((entry) =>
        Object.fromEntries(
          ["Id", "Created", "Severity", "MessageId", "Message"].map((name) => [name, textOf(entry, name) ?? ""]),
        )
      ),
    };
  } catch (error) {
    if (error instanceof Fault && redfish.signal?.aborted !== true) {
      return { path: service, entries: [], error: error.message };
    }
    throw error;
  }
}
