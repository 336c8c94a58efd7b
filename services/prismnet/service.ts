import type { OvsdbClient } from "@ultracloud/ovsdb";
import type { Platform } from "@ultracloud/platform";
import { EngineService } from "@ultracloud/proto/prismnet/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import { aclService } from "./acls.ts";
import type { Engine } from "./engine.ts";
import { floatingIpService } from "./floating_ips.ts";
import { gatewayService } from "./gateways.ts";
import { groupService } from "./groups.ts";
import { hostService, PortTroubles } from "./hosts.ts";
import { type AgentClients, insightService } from "./insight.ts";
import { NetworkRecords } from "./network_records.ts";
import { NorthboundReconciler } from "./ovn/reconciler.ts";
import { peeringService } from "./peerings.ts";
import { poolService } from "./pools.ts";
import { endRules, reconcilePorts } from "./ports_core.ts";
import { portService } from "./ports.ts";
import { addressGraceMsDefault, wakeRested } from "./resting.ts";
import { routerService } from "./routers.ts";
import { subnetService } from "./subnets.ts";
import { vpcService } from "./vpcs.ts";
import { toFeature, views } from "./wire.ts";

/** How often bindings are compared with rules, for changes whose process died before their effect. */
const reconcileMs = 30_000;

export interface Prismnet {
  /** Everything prismnet answers. */
  readonly services: readonly BoundService[];
  /** What the records say now, while `follow` runs. */
  readonly records: NetworkRecords;
  /** Keeps the records at hand until disposed of; run it in every replica. */
  follow(): AsyncDisposable;
  /** Works until the signal aborts; run it where this replica leads. */
  reconcile(signal: AbortSignal): Promise<void>;
}

/** Tenant networking over a platform and an engine. Nothing starts by itself. */
export function createPrismnet(deps: {
  readonly platform: Platform;
  readonly engine: Engine;
  /** Of the engine `ovn`: what carries the records out. */
  readonly northbound?: OvsdbClient;
  /** Of the engine `ovn`: the agents of hosts by the addresses they report. */
  readonly agents?: AgentClients;
  /** How long an address that was given back is not handed out again. */
  readonly addressGraceMs?: number;
}): Prismnet {
  const { platform, engine, northbound, agents, addressGraceMs = addressGraceMsDefault } = deps;
  const records = new NetworkRecords(platform);
  const troubles = new PortTroubles();
  const engines = bind(EngineService, {
    getEngine: () => ({ name: engine.name, features: engine.features.map(toFeature) }),
  }, {
    getEngine: { authenticated: "what the engine enforces holds for all tenants and names none" },
  });
  return {
    services: [
      vpcService(platform),
      subnetService(platform, engine),
      groupService(platform, engine),
      portService(platform, engine, { graceMs: addressGraceMs, troubles }),
      aclService(platform),
      routerService(platform, engine),
      poolService(platform),
      gatewayService(platform, engine, addressGraceMs),
      floatingIpService(platform, engine, addressGraceMs),
      peeringService(platform, engine),
      hostService(platform, records, troubles),
      insightService({ platform, engine, northbound, agents }),
      engines,
      platform.operationService(),
      platform.eventService(views),
    ],
    records,
    follow: () => records.follow(),
    async reconcile(signal) {
      const sagas = platform.sagas.run(signal);
      const carrying = northbound && new NorthboundReconciler({ platform, db: northbound, records }).run(signal);
      while (!signal.aborted) {
        try {
          const changed = await reconcilePorts(platform, engine, signal);
          await wakeRested(platform, addressGraceMs, signal);
          await endRules(platform, signal);
          if (changed > 0) platform.log.info("bindings brought up to their rules", { ports: changed });
        } catch (error) {
          if (!signal.aborted) platform.log.warn("cannot compare bindings with rules", { error: String(error) });
        }
        await platform.clock.sleep(reconcileMs, signal).catch(() => {});
      }
      await Promise.all([sagas, carrying]);
    },
  };
}
