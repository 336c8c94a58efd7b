import { invalidField } from "@ultracloud/base";
import { TrustService } from "@ultracloud/proto/deployer/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import type { Core } from "./core.ts";
import type { Identities } from "./identities.ts";

const waitMsMax = 60_000;
const lookMs = 500;

/** The trust file of the cluster for the agents that renew it on their nodes. */
export function trustService(core: Core, identities: Identities): BoundService {
  const { clock } = core.platform;
  return bind(TrustService, {
    async getTrust(request, { signal }) {
      if (request.waitMs < 0 || request.waitMs > waitMsMax) {
        throw invalidField("waitMs", `Cannot wait ${request.waitMs} ms: wanted 0 to ${waitMsMax}`);
      }
      const endMs = clock.monotonicMs() + (request.knownVersion === "" ? 0 : request.waitMs);
      for (;;) {
        await core.writer.expectWriting();
        const { version, document } = await identities.signed();
        if (version !== request.knownVersion) return { version, document };
        if (clock.monotonicMs() >= endMs) return { version, document: "" };
        await clock.sleep(lookMs, signal);
      }
    },
  }, {
    // Public keys and grants, for whoever is a component: what it says is in every node's file.
    getTrust: { resource: "trust", action: "get", scope: () => "" },
  });
}
