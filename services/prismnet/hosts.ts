import { checkName, invalidField, toHex, utf8 } from "@ultracloud/base";
import type { Platform } from "@ultracloud/platform";
import { HostService } from "@ultracloud/proto/prismnet/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import { hostKind, portKind } from "./kinds.ts";

const uplinksMax = 16;
const portsMax = 4_096;
const urlCharsMax = 200;
/** Below the time most callers give a call. */
const waitMsMax = 20_000;
/** How often a waiting call looks; a change is seen by its host within this. */
const lookMs = 150;
/** A host's record is written again when it is this old, so that one that is gone can be told. */
const seenMs = 60_000;

/** A host is the cluster's; only net-agents call. */
const cluster = () => "";

export function hostService(platform: Platform): BoundService {
  async function wantedPorts(host: string) {
    const ports = (await platform.list(portKind)).filter((port) => port.value.host === host);
    return ports.flatMap(({ id, value: { binding } }) =>
      binding?.engine === "tap" ? [{ portId: id, device: binding.device, mtu: binding.mtu }] : []
    );
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
      await platform.transact(async (tx) => {
        const value = { agentUrl: request.agentUrl, uplinks: request.uplinks, seenMs: tx.nowMs };
        const present = await tx.find(hostKind, "", name);
        if (!present) await tx.create(hostKind, { project: "", name, value });
        else if (tx.nowMs - present.value.seenMs > seenMs || differs(present.value, value)) {
          tx.update(hostKind, present, { value });
        }
      }, { serialize: `host/${name}` });
      const deadline = platform.clock.monotonicMs() + Math.min(Math.max(0, request.waitMs), waitMsMax);
      for (;;) {
        const ports = await wantedPorts(name);
        const fingerprint = await fingerprintOf(ports);
        if (fingerprint !== request.fingerprint || platform.clock.monotonicMs() >= deadline) {
          return { ports, fingerprint };
        }
        await platform.clock.sleep(lookMs, context.signal);
      }
    },
  }, { syncHost: { resource: "host", action: "sync", scope: cluster } });
}

function differs(a: { agentUrl: string; uplinks: readonly string[] }, b: typeof a): boolean {
  return a.agentUrl !== b.agentUrl || a.uplinks.join() !== b.uplinks.join();
}

async function fingerprintOf(ports: readonly unknown[]): Promise<string> {
  return toHex(new Uint8Array(await crypto.subtle.digest("SHA-256", utf8.encode(JSON.stringify(ports))))).slice(0, 32);
}
