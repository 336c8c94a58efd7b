import type { VmSpec } from "./spec.ts";
import type { VolumeSpec } from "./volume_spec.ts";

/** Volumes of this worker that the spec has. */
export function localVolumes(spec: VmSpec): VolumeSpec[] {
  const all = [...spec.rootVolume ? [spec.rootVolume] : [], ...spec.volumes];
  return all.filter((volume) => volume.source.kind === "local");
}

/** True when the VM may run only while the worker has its lease. */
export function needsLease(spec: VmSpec): boolean {
  if (spec.onLeaseLoss !== "shared") return spec.onLeaseLoss === "stop";
  return spec.rootVolume?.source.kind === "nbd" || spec.volumes.some((volume) => volume.source.kind === "nbd");
}

/** What of a spec a VM that is on can take: another root disk has to wait for its next start. */
export function runnable(spec: VmSpec, plugged: VmSpec): VmSpec {
  const sameRoot = spec.rootVolume?.volumeId === plugged.rootVolume?.volumeId;
  return {
    ...spec,
    image: plugged.image,
    rootVolume: sameRoot ? spec.rootVolume : plugged.rootVolume,
    diskBytes: sameRoot && plugged.diskBytes > 0 ? Math.max(spec.diskBytes, plugged.diskBytes) : plugged.diskBytes,
  };
}

/**
 * Devices of both: volumes as they are to be, as what a disk is just now QEMU tells; NICs as they were, so that an agent
 * that finds this changes them once more.
 */
export function union(was: VmSpec, is: VmSpec): VmSpec {
  return {
    ...is,
    nics: [...was.nics, ...is.nics.filter((nic) => !was.nics.some((other) => other.portId === nic.portId))],
    volumes: [
      ...is.volumes,
      ...was.volumes.filter((volume) => !is.volumes.some((other) => other.volumeId === volume.volumeId)),
    ],
  };
}
