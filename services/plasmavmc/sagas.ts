import type { Platform, Saga } from "@ultracloud/platform";
import type { Control } from "./control.ts";
import { type DeviceSagas, deviceSagas } from "./device_sagas.ts";
import { type EvacuateData, evacuateSaga } from "./evacuate_saga.ts";
import { type FetchData, type Fetcher, fetchSaga } from "./fetch_saga.ts";
import type { ImageEngine } from "./image_engine.ts";
import type { ImageOptions } from "./image_store.ts";
import { type MigrateData, migrateSaga } from "./migrate_saga.ts";
import { type NodeSagas, nodeSagas } from "./node_sagas.ts";
import { type PublishData, publishSaga } from "./publish_saga.ts";
import { type SnapshotSagas, snapshotSagas } from "./snapshot_sagas.ts";
import { type VmSagas, vmSagas } from "./vm_sagas.ts";
import { type VolumeSagas, volumeSagas } from "./volume_sagas.ts";

/** Every kind of long work. */
export interface Sagas {
  readonly vm: VmSagas;
  readonly device: DeviceSagas;
  readonly migrate: Saga<MigrateData>;
  readonly evacuate: Saga<EvacuateData>;
  readonly volume: VolumeSagas;
  readonly snapshot: SnapshotSagas;
  readonly node: NodeSagas;
  readonly publish: Saga<PublishData>;
  readonly fetch: Saga<FetchData>;
}

/** Makes all sagas and tells the platform's runner about them; do it once, before it runs. */
export function defineSagas(
  platform: Platform,
  control: Control,
  o: { readonly images: ImageOptions; readonly fenceGraceMs: number },
  deps: { readonly images: ImageEngine; readonly fetcher?: Fetcher | undefined },
): Sagas {
  const all: Sagas = {
    vm: vmSagas(control),
    device: deviceSagas(control),
    migrate: migrateSaga(control),
    evacuate: evacuateSaga(control, o),
    volume: volumeSagas(control),
    snapshot: snapshotSagas(control),
    node: nodeSagas(control, o, () => all),
    publish: publishSaga(control, o.images, deps.images),
    fetch: fetchSaga(control, o.images, deps.images, deps.fetcher),
  };
  const kinds = [all.vm, all.device, all.volume, all.snapshot, all.node].flatMap((group) => Object.values(group));
  for (const saga of [...kinds, all.migrate, all.evacuate, all.publish, all.fetch]) platform.sagas.define(saga);
  return all;
}
