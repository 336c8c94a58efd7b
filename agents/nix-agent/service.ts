import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { invalidField } from "@ultracloud/base";
import { NixAgentService } from "@ultracloud/proto/nixagent/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import type { Agent } from "./agent.ts";
import type { Host } from "./host.ts";
import type { Nix } from "./nix.ts";

/** What the agent answers about its host. */
export function nixAgentService(
  o: { readonly node: string; readonly source: string; readonly host: Host },
  deps: { readonly agent: Agent; readonly nix: Nix },
): BoundService {
  const root = () => "";
  const status = () => {
    const { journal, currentSystem, generation, contactMs, bootId } = deps.agent.status;
    return {
      node: o.node,
      source: o.source,
      state: journal.state,
      reason: journal.reason,
      intentId: journal.intentId,
      targetSystem: journal.targetSystem,
      currentSystem,
      generation,
      previousGeneration: journal.trial?.previousGeneration ?? 0,
      bootId,
      launcher: o.host.launcher,
      launcherReason: o.host.reason,
      nix: o.host.nix,
      nixFound: o.host.nixFound,
      changedTime: timestampFromMs(journal.changedMs),
      ...(contactMs === 0 ? {} : { contactTime: timestampFromMs(contactMs) }),
      rejections: journal.rejections.map(({ timeMs, ...rejection }) => ({
        ...rejection,
        time: timestampFromMs(timeMs),
      })),
    };
  };
  return bind(NixAgentService, {
    getStatus: status,
    listGenerations: async () => ({ generations: await deps.nix.generations() }),
    async retry(request) {
      if (!/^[0-9a-f]{1,64}$/.test(request.intentId)) {
        throw invalidField("intentId", "Cannot read intentId: wanted that of a rejected intent");
      }
      await deps.agent.retry(request.intentId);
      return status();
    },
  }, {
    getStatus: { resource: "system", action: "get", scope: root },
    listGenerations: { resource: "system", action: "list", scope: root },
    retry: { resource: "system", action: "retry", scope: root },
  });
}
