import type { BoundService } from "@ultracloud/rpc";
import { Control, type ControlDeps } from "./control.ts";
import { flavorService } from "./flavors.ts";
import type { ImageEngine } from "./image_engine.ts";
import { type ImageOptions, imageService, sweepContent } from "./images.ts";
import { nodeService } from "./nodes.ts";
import { reconcileOnce } from "./reconcile.ts";
import { vmSagas } from "./vm_sagas.ts";
import { vmService } from "./vms.ts";
import { views } from "./wire.ts";

export interface PlasmavmcOptions {
  readonly images: ImageOptions;
  /** How often the world is compared with the records. */
  readonly reconcileMs?: number;
  /** How long a written VM is left alone by observations that may be older. */
  readonly settleMs?: number;
}

export interface PlasmavmcDeps extends ControlDeps {
  readonly images: ImageEngine;
}

export interface Plasmavmc {
  /** Everything plasmavmc answers. */
  readonly services: readonly BoundService[];
  /** Runs operations and compares until the signal aborts; run it where this replica leads. */
  reconcile(signal: AbortSignal): Promise<void>;
}

/** The VM control plane. Nothing starts by itself. */
export function createPlasmavmc(o: PlasmavmcOptions, deps: PlasmavmcDeps): Plasmavmc {
  const { platform } = deps;
  const control = new Control(deps);
  const sagas = vmSagas(control);
  platform.sagas.define(sagas.create);
  platform.sagas.define(sagas.start);
  platform.sagas.define(sagas.stop);
  platform.sagas.define(sagas.reboot);
  platform.sagas.define(sagas.delete);
  const settleMs = o.settleMs ?? 2_000;
  const reconcileMs = o.reconcileMs ?? 5_000;

  return {
    services: [
      flavorService(),
      imageService(platform, deps.images, o.images),
      vmService(control, sagas),
      nodeService(control, { settleMs }),
      platform.operationService(),
      platform.eventService(views),
    ],
    async reconcile(signal) {
      const running = platform.sagas.run(signal);
      try {
        const dropped = await sweepContent(platform, deps.images);
        if (dropped > 0) platform.log.info("image content without an image dropped", { count: dropped });
      } catch (error) {
        if (!signal.aborted) platform.log.warn("cannot sweep image content", { error: String(error) });
      }
      while (!signal.aborted) {
        try {
          await reconcileOnce(control, { settleMs }, signal);
        } catch (error) {
          if (!signal.aborted) platform.log.warn("cannot compare VMs with workers", { error: String(error) });
        }
        await platform.clock.sleep(reconcileMs, signal).catch(() => {});
      }
      await running;
    },
  };
}
