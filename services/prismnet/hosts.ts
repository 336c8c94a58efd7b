import { checkName, fault, invalidField } from "@ultracloud/base";
import type { Platform } from "@ultracloud/platform";
import { HostService } from "@ultracloud/proto/prismnet/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import type { NetHost } from "./domain/types.ts";
import { hostKind } from "./kinds.ts";
import type { NetworkRecords } from "./network_records.ts";

const uplinksMax = 16;
const portsMax = 4_096;
const urlCharsMax = 200;
const errorCharsMax = 200;
/** Below the time most callers give a call. */
const waitMsMax = 20_000;
/** A replica that has not seen what another one told is waited for this long. */
const behindMsMax = 2_000;
/** Changes this close to the first are told with it. */
const gatherMs = 20;
/** A host's record is written again when it is this old, so that one that is gone can be told. */
const seenMs = 60_000;

/** A host is the cluster's; only net-agents call. */
const cluster = () => "";

/** What ails ports on their hosts, as their agents last told this replica; by port id. */
export class PortTroubles {
  readonly #hosts = new Map<string, ReadonlyMap<string, string>>();

  report(host: string, ports: readonly { readonly portId: string; readonly error: string }[]): void {
    this.#hosts.set(host, new Map(ports.map(({ portId, error }) => [portId, error.slice(0, errorCharsMax)])));
  }

  of(host: string, portId: string): string {
    return this.#hosts.get(host)?.get(portId) ?? "";
  }
}

/** "<epoch>.<version>" as an agent was told it; undefined for anything else. */
function parseFingerprint(text: string): { epoch: string; version: number } | undefined {
  const match = /^([0-9a-f]{12})\.(\d{1,16})$/.exec(text);
  return match ? { epoch: match[1]!, version: Number(match[2]) } : undefined;
}

export function hostService(platform: Platform, records: NetworkRecords, troubles: PortTroubles): BoundService {
  /** Keeps the host's record; a read of the store in any case, so that a replica cut off from it does not answer. */
  async function seen(name: string, fresh: Omit<NetHost, "seenMs">): Promise<void> {
    const isDue = (present: NetHost | undefined) =>
      !present || platform.clock.nowMs() - present.seenMs > seenMs || differs(present, fresh);
    if (!isDue((await platform.find(hostKind, "", name))?.value)) return;
    await platform.transact(async (tx) => {
      const present = await tx.find(hostKind, "", name);
      if (!isDue(present?.value)) return;
      const value = { ...fresh, seenMs: tx.nowMs };
      if (present) tx.update(hostKind, present, { value });
      else await tx.create(hostKind, { project: "", name, value });
    }, { serialize: `host/${name}` });
  }

  return bind(HostService, {
    async syncHost(request, context) {
      const name = checkName(request.host, "host");
      if (request.agentUrl.length > urlCharsMax) {
        throw invalidField("agentUrl", `Cannot keep ${request.agentUrl.length} characters: wanted ${urlCharsMax}`);
      }
      if (request.uplinks.length > uplinksMax || request.ports.length > portsMax) {
        throw invalidField(
          "ports",
          `Cannot take ${request.uplinks.length} uplinks and ${request.ports.length} ports: wanted at most ${uplinksMax} and ${portsMax}`,
        );
      }
      request.uplinks.forEach((uplink, i) => checkName(uplink, `uplinks.${i}`));
      await seen(name, { agentUrl: request.agentUrl, uplinks: request.uplinks });
      troubles.report(name, request.ports.filter(({ error }) => error !== ""));

      const known = parseFingerprint(request.fingerprint);
      const { signal } = context;
      // Never older than what another replica has told: a port would go and come back.
      const reached = await records.until(() => records.reaches(known?.version ?? 0), behindMsMax, signal);
      if (!reached) {
        throw fault("unavailable", "records_behind", `Cannot tell ${name} its ports as the records are not yet read`);
      }
      const isNew = () => known?.epoch !== records.epoch || records.hostPorts!.hasChanged(name, known.version);
      const waitMs = Math.min(Math.max(0, request.waitMs), waitMsMax);
      const waited = !isNew() && await records.until(isNew, waitMs, signal);
      if (waited) await platform.clock.sleep(gatherMs, signal);
      const { epoch, version } = records;
      const changes = records.hostPorts!.since(name, known?.epoch === epoch ? known.version : undefined);
      return {
        ports: [...changes.ports],
        partial: changes.partial,
        removedPortIds: [...changes.removed],
        fingerprint: `${epoch}.${version}`,
      };
    },
  }, { syncHost: { resource: "host", action: "sync", scope: cluster } });
}

function differs(a: Omit<NetHost, "seenMs">, b: Omit<NetHost, "seenMs">): boolean {
  return a.agentUrl !== b.agentUrl || a.uplinks.join() !== b.uplinks.join();
}
