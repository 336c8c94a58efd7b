import { type Clock, fault, invalidField } from "@ultracloud/base";
import { NodeAgentService } from "@ultracloud/proto/nodeagent/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import type { HostConfinement } from "./confinement.ts";
import type { Instances } from "./instances.ts";
import { logEnd, readLog } from "./logs.ts";
import { phases } from "./scheduler_link.ts";

const limitDefault = 64 * 1024;
const limitMax = 1024 * 1024;
const waitMsMax = 20_000;
/** What runs here belongs to no tenant. */
const host = () => "";

/** The RPCs of the agent, for fleet-scheduler and operators. */
export function nodeAgentService(
  o: { readonly node: string; readonly version: string; readonly host: HostConfinement },
  { instances, clock }: { readonly instances: Instances; readonly clock: Clock },
): BoundService {
  const logDir = (id: string) => `${instances.store.instanceDir(id)}/log`;
  return bind(NodeAgentService, {
    getStatus: () => ({
      node: o.node,
      version: o.version,
      confinement: { kind: o.host.kind, limits: [...o.host.holds], reason: o.host.reason },
      instancesCount: instances.views.length,
    }),
    listInstances: () => ({
      instances: instances.views.map(({ id, service, phase, reason, restarts, pid, confinement }) => ({
        id,
        service,
        status: { id, phase: phases[phase], reason, restarts, pid },
        logBytes: BigInt(logEnd(logDir(id))),
        confinement,
      })),
    }),
    async readLog(request, { signal }) {
      if (!instances.views.some(({ id }) => id === request.instance)) {
        throw fault(
          "not_found",
          "instance_not_found",
          `Cannot find instance ${JSON.stringify(request.instance.slice(0, 80))} on this node`,
        );
      }
      if (request.limit < 0 || request.limit > limitMax) {
        throw invalidField("limit", `Cannot read ${request.limit} bytes at a time: wanted 0 to ${limitMax}`);
      }
      if (request.waitMs < 0 || request.waitMs > waitMsMax) {
        throw invalidField("waitMs", `Cannot wait ${request.waitMs} ms: wanted 0 to ${waitMsMax}`);
      }
      const slice = await readLog(
        logDir(request.instance),
        {
          offset: Number(request.offset),
          limit: request.limit || limitDefault,
          waitMs: request.waitMs,
        },
        clock,
        signal,
      );
      return { offset: BigInt(slice.offset), data: slice.data, nextOffset: BigInt(slice.nextOffset) };
    },
  }, {
    getStatus: { resource: "agent", action: "get", scope: host },
    listInstances: { resource: "instance", action: "list", scope: host },
    readLog: { resource: "instance", action: "log", scope: host },
  });
}
