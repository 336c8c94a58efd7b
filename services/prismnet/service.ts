import type { Platform } from "@ultracloud/platform";
import { EngineService } from "@ultracloud/proto/prismnet/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import type { Engine } from "./engine.ts";
import { groupService } from "./groups.ts";
import { reconcilePorts } from "./ports_core.ts";
import { portService } from "./ports.ts";
import { subnetService } from "./subnets.ts";
import { vpcService } from "./vpcs.ts";
import { toFeature, views } from "./wire.ts";

/** How often bindings are compared with rules, for changes whose process died before their effect. */
const reconcileMs = 30_000;

export interface Prismnet {
  /** Everything prismnet answers. */
  readonly services: readonly BoundService[];
  /** Works until the signal aborts; run it where this replica leads. */
  reconcile(signal: AbortSignal): Promise<void>;
}

/** Tenant networking over a platform and an engine. Nothing starts by itself. */
export function createPrismnet(deps: { readonly platform: Platform; readonly engine: Engine }): Prismnet {
  const { platform, engine } = deps;
  const engines = bind(EngineService, {
    getEngine: () => ({ name: engine.name, features: engine.features.map(toFeature) }),
  }, {
    getEngine: { authenticated: "what the engine enforces holds for all tenants and names none" },
  });
  return {
    services: [
      vpcService(platform),
      subnetService(platform),
      groupService(platform, engine),
      portService(platform, engine),
      engines,
      platform.operationService(),
      platform.eventService(views),
    ],
    async reconcile(signal) {
      const sagas = platform.sagas.run(signal);
      while (!signal.aborted) {
        try {
          const changed = await reconcilePorts(platform, engine, signal);
          if (changed > 0) platform.log.info("bindings brought up to their rules", { ports: changed });
        } catch (error) {
          if (!signal.aborted) platform.log.warn("cannot compare bindings with rules", { error: String(error) });
        }
        await platform.clock.sleep(reconcileMs, signal).catch(() => {});
      }
      await sagas;
    },
  };
}
