import type { Client } from "@connectrpc/connect";
import type { Platform } from "@ultracloud/platform";
import type { KvService } from "@ultracloud/proto/chainfire/v1";
import type { BoundService } from "@ultracloud/rpc";
import { agentService } from "./agents.ts";
import { BootstrapApi } from "./bootstrap_http.ts";
import { Bundles, type BundleSigner } from "./bundles.ts";
import { clusterService } from "./cluster_service.ts";
import { Coordination } from "./coordination.ts";
import { Core, type DeployerOptions } from "./core.ts";
import { Enrolment } from "./enrolment.ts";
import { Identities, type IdentityDeps } from "./identities.ts";
import { nodeService } from "./nodes.ts";
import { Rollouts, rolloutService } from "./rollouts.ts";
import { trustService } from "./trust_service.ts";

export interface Deployer {
  /** Everything the deployer answers to people and agents. */
  readonly services: readonly BoundService[];
  /** What machines talk to. */
  readonly api: BootstrapApi;
  /** Writes until the signal aborts; run it where this replica leads. */
  lead(signal: AbortSignal): Promise<void>;
}

/** Nothing starts by itself. */
export function createDeployer(
  options: DeployerOptions,
  deps: {
    readonly platform: Platform;
    readonly bundleSigner: BundleSigner;
    /** Absent: systems are told by RPC alone. */
    readonly coordination?: Client<typeof KvService>;
    readonly identities: IdentityDeps;
  },
): Deployer {
  const { platform } = deps;
  const core = new Core(options, platform);
  const bundles = new Bundles(core, deps.bundleSigner);
  const rollouts = new Rollouts(core);
  const enrolment = new Enrolment(core);
  const identities = new Identities(core, enrolment, deps.identities);
  return {
    services: [
      clusterService(core, bundles),
      nodeService(core),
      rolloutService(core, rollouts),
      agentService(core),
      trustService(core, identities),
    ],
    api: new BootstrapApi(core, enrolment, bundles, identities),
    async lead(signal) {
      await core.writer.take(signal);
      const coordination = deps.coordination && new Coordination(core, deps.coordination);
      try {
        while (!signal.aborted) {
          try {
            await rollouts.reconcile();
            await coordination?.reconcile(signal);
          } catch (error) {
            if (signal.aborted) break;
            // Somebody took over: this one stops at once and asks again.
            if ((error as { code?: string }).code === "not_leader") throw error;
            platform.log.warn("cannot look at rollouts", { error: String(error) });
          }
          await platform.clock.sleep(options.reconcileMs, signal).catch(() => {});
        }
      } finally {
        core.writer.release();
      }
    },
  };
}
