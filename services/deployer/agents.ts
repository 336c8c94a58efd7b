import type { MessageInitShape } from "@bufbuild/protobuf";
import { checkName, fault, invalidField } from "@ultracloud/base";
import { Tx } from "@ultracloud/platform";
import { AgentService, type DesiredSchema } from "@ultracloud/proto/deployer/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import { nodeScope } from "./auth.ts";
import type { Core } from "./core.ts";
import { type OfferRow, rowKeys } from "./kinds.ts";
import { holdReason } from "./node_view.ts";
import { keepReport } from "./reports.ts";
import { fromObserved, toDesired } from "./wire.ts";

const waitMsMax = 60_000;
/** How often a waiting call looks; an agent sees a change within this. */
const lookMs = 250;

/** What the agent of a node should make of it. */
export async function desiredFor(core: Core, name: string): Promise<MessageInitShape<typeof DesiredSchema>> {
  const tx = new Tx(core.platform.kv, core.platform);
  const node = await core.node(name, tx);
  if (node.record === undefined && node.spec === undefined) {
    throw fault("not_found", "node_not_found", `Cannot tell what ${name} should become: no node has that name`);
  }
  const offer = await tx.row<OfferRow>(rowKeys.offer(name));
  const hold = await holdReason(core, node, tx, offer);
  if (offer === undefined) return { holdReason: hold };
  const quarantine = await core.quarantineOf(node, offer.system, tx);
  return {
    intentId: offer.intentId,
    system: toDesired(offer.system),
    binaryCacheUrl: node.cluster?.deployer.binaryCacheUrl ?? "",
    trustedKeys: [...node.cluster?.deployer.trustedKeys ?? []],
    holdReason: hold,
    quarantineReason: quarantine === undefined ? "" : `it failed on ${quarantine.node}: ${quarantine.reason}`,
  };
}

export function agentService(core: Core): BoundService {
  const { clock } = core.platform;
  const scope = ({ node }: { readonly node: string }) => nodeScope(checkName(node, "node"));
  return bind(AgentService, {
    async getDesired(request, context) {
      if (request.waitMs < 0 || request.waitMs > waitMsMax) {
        throw invalidField("waitMs", `Cannot wait ${request.waitMs} ms: wanted 0 to ${waitMsMax}`);
      }
      const endMs = clock.monotonicMs() + (request.knownIntentId === "" ? 0 : request.waitMs);
      for (;;) {
        const desired = await desiredFor(core, request.node);
        if ((desired.intentId ?? "") !== request.knownIntentId || clock.monotonicMs() >= endMs) return desired;
        await clock.sleep(lookMs, context.signal);
      }
    },
    async reportObserved(request) {
      await keepReport(core, request.node, fromObserved(request.observed));
      return {};
    },
  }, {
    getDesired: { resource: "agent", action: "get", scope },
    reportObserved: { resource: "agent", action: "report", scope },
  });
}
