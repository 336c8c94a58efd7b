import { NetAgentService } from "@ultracloud/proto/netagent/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import { invalidField } from "@ultracloud/base";
import type { Insight } from "./insight.ts";

const portsMax = 4_096;

/** A host's network belongs to many projects, and only the control plane asks about it. */
const host = () => "";

/** The RPCs of the agent; what shall be on the host it asks prismnet for. */
export function netAgentService(insight: Insight): BoundService {
  return bind(NetAgentService, {
    async getCounters(request) {
      if (request.portIds.length > portsMax) {
        throw invalidField("portIds", `Cannot count ${request.portIds.length} ports: wanted at most ${portsMax}`);
      }
      const wanted = new Set(request.portIds);
      const ports = insight.ports().filter(({ portId }) => wanted.has(portId));
      const acls = request.acls ? await insight.acls() : [];
      return {
        ports: ports.map(({ portId, counters }) => {
          const count = (...names: string[]) => BigInt(names.reduce((sum, name) => sum + (counters[name] ?? 0), 0));
          // What the switch receives at a port is what the guest has sent.
          return {
            portId,
            sentPackets: count("rx_packets"),
            sentBytes: count("rx_bytes"),
            receivedPackets: count("tx_packets"),
            receivedBytes: count("tx_bytes"),
            droppedPackets: count("rx_dropped", "tx_dropped"),
          };
        }),
        acls: acls.map(({ acl, packets, bytes }) => ({ acl, packets: BigInt(packets), bytes: BigInt(bytes) })),
      };
    },
    async tracePacket(request) {
      const { outputs, text } = await insight.trace(request);
      return { outputs: [...outputs], text };
    },
  }, {
    getCounters: { resource: "network", action: "count", scope: host },
    tracePacket: { resource: "network", action: "trace", scope: host },
  });
}
