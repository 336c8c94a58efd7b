import type { BoundService } from "@ultracloud/rpc";
import { Control, type ControlDeps } from "./control.ts";
import type { Fetcher } from "./fetch_saga.ts";
import { flavorService } from "./flavors.ts";
import { placementGroupService } from "./groups.ts";
import { imageAliasService } from "./image_aliases.ts";
import type { ImageEngine } from "./image_engine.ts";
import { imageIntakeService } from "./image_intake.ts";
import { type ImageOptions, sweepContent } from "./image_store.ts";
import { imageService } from "./images.ts";
import { maintenanceService } from "./maintenance.ts";
import { nodeService } from "./nodes.ts";
import { placementService } from "./placement_service.ts";
import { reconcileOnce } from "./reconcile.ts";
import { defineSagas } from "./sagas.ts";
import { followSchedules, snapshotService } from "./snapshots.ts";
import { sshKeyService } from "./ssh_keys.ts";
import { vmService } from "./vms.ts";
import { volumeService } from "./volumes.ts";
import { views } from "./wire.ts";

export interface PlasmavmcOptions {
  readonly images: ImageOptions;
  /** How often the world is compared with the records. */
  readonly reconcileMs?: number;
  /** How long a written VM is left alone by observations that may be older. */
  readonly settleMs?: number;
  /** How long after its lease has ended a worker is held to have ended its guests. */
  readonly fenceGraceMs?: number;
  /** How often schedules are looked at. */
  readonly scheduleMs?: number;
}

export interface PlasmavmcDeps extends ControlDeps {
  readonly images: ImageEngine;
  /** Absent: images come from callers only. */
  readonly fetcher?: Fetcher | undefined;
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
  const settleMs = o.settleMs ?? 2_000;
  const reconcileMs = o.reconcileMs ?? 5_000;
  const fenceGraceMs = o.fenceGraceMs ?? 5_000;
  const scheduleMs = o.scheduleMs ?? 1_000;
  const sagas = defineSagas(platform, control, { images: o.images, fenceGraceMs }, deps);

  /** Repeats work until the signal aborts; a failure is told and tried again. */
  async function repeat(what: string, everyMs: number, signal: AbortSignal, work: () => Promise<void>): Promise<void> {
    while (!signal.aborted) {
      try {
        await work();
      } catch (error) {
        if (!signal.aborted) platform.log.warn(`cannot ${what}`, { error: String(error) });
      }
      await platform.clock.sleep(everyMs, signal).catch(() => {});
    }
  }

  return {
    services: [
      flavorService(platform),
      imageService(platform, deps.images, o.images),
      imageAliasService(platform),
      imageIntakeService(control, sagas, { canFetch: deps.fetcher !== undefined }),
      vmService(control, sagas),
      volumeService(control, sagas),
      snapshotService(control, sagas),
      sshKeyService(platform),
      placementGroupService(platform),
      placementService(control),
      nodeService(control, { settleMs }),
      maintenanceService(control, sagas),
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
      await Promise.all([
        repeat(
          "compare VMs with workers",
          reconcileMs,
          signal,
          () => reconcileOnce(control, sagas, { settleMs, fenceGraceMs }, signal),
        ),
        repeat("follow snapshot schedules", scheduleMs, signal, () => followSchedules(control, sagas, signal)),
      ]);
      await running;
    },
  };
}
