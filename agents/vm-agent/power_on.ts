import { fault, utf8 } from "@ultracloud/base";
import { type Disks, virtualSizeOf } from "./disks.ts";
import { type Host, machineTypeOf, vcpusOn, type VmFiles } from "./domain/argv.ts";
import { type Disk, diskOf } from "./domain/block.ts";
import { devicesOf, type Layout, placed } from "./domain/layout.ts";
import { isMicrovm } from "./domain/hardware.ts";
import { writeIso } from "./domain/iso.ts";
import { seedFiles } from "./domain/seed.ts";
import type { VmSpec } from "./domain/spec.ts";
import { memoryOn } from "./domain/written_pages.ts";
import { removeAll } from "./files.ts";
import { refuseMicrovm } from "./machine_checks.ts";
import type { ImageCache } from "./images.ts";
import type { SlotFiles } from "./slots.ts";
import type { Volumes } from "./volumes.ts";

/** The seed's size is rounded up to this, so that it is the same on a host to which the guest moves. */
const seedBlockBytes = 2 ** 20;

/** What a VM needs on this host before QEMU can open it. */
export interface Provisions {
  readonly kernel: VmFiles["kernel"];
  readonly disks: readonly Disk[];
  /** Files of the VM alone. */
  readonly own: readonly string[];
}

export interface ProvisionDeps {
  readonly images: ImageCache;
  readonly volumes: Volumes;
  readonly disks: Disks;
}

/** Whether the VM has a root disk at all: one that boots a kernel of its own may do without. */
export function hasRoot(spec: VmSpec): boolean {
  return spec.rootVolume !== undefined || spec.image.format !== "kernel_bundle" || spec.diskBytes > 0;
}

/** The disks of a VM, the root disk first. */
export function disksOf(spec: VmSpec, dir: string, pathOf: (volumeId: string) => string): Disk[] {
  const root: Disk[] = spec.rootVolume
    ? [diskOf(spec.rootVolume, pathOf, "root")]
    : hasRoot(spec)
    ? [{ device: "root", source: { kind: "file", path: rootPath(dir) }, sizeBytes: spec.diskBytes, readOnly: false }]
    : [];
  return [...root, ...spec.volumes.map((volume) => diskOf(volume, pathOf))];
}

export function rootPath(dir: string): string {
  return `${dir}/disk.qcow2`;
}

/** Makes the root disk, unless it is there, and the seed. With `blank` the root disk is made empty, to be filled. */
export async function provision(
  spec: VmSpec,
  dir: string,
  options: { readonly blankRootBytes: number | undefined },
  deps: ProvisionDeps,
): Promise<Provisions> {
  // A root disk that is a volume has its content already.
  const image = spec.image.format === "kernel_bundle" || spec.rootVolume === undefined
    ? await deps.images.ensure(spec.image)
    : undefined;
  const bundle = image?.kind === "bundle" ? image : undefined;
  const own: string[] = [];
  if (hasRoot(spec) && spec.rootVolume === undefined) {
    const fromImage = image?.kind === "disk" && spec.image.format !== "kernel_bundle"
      ? { path: image.path, format: spec.image.format }
      : undefined;
    await deps.disks.create(
      rootPath(dir),
      options.blankRootBytes === undefined
        ? { bytes: spec.diskBytes, image: fromImage }
        : { bytes: options.blankRootBytes, image: undefined },
    );
    if (await virtualSizeOf(rootPath(dir)) < spec.diskBytes) await deps.disks.grow(rootPath(dir), spec.diskBytes);
    own.push(rootPath(dir));
  }
  const seed = `${dir}/seed.iso`;
  const parts = seedFiles(spec).map((file) => ({ name: file.name, data: utf8.encode(file.text) }));
  const iso = writeIso("cidata", parts);
  await removeAll(seed);
  await Deno.writeFile(seed, iso, { mode: 0o600 });
  await Deno.truncate(seed, Math.ceil(iso.length / seedBlockBytes) * seedBlockBytes);
  await Deno.open(`${dir}/console.log`, { create: true, append: true, mode: 0o600 }).then((file) => file.close());
  own.push(seed, `${dir}/console.log`);
  for (const volume of spec.volumes) {
    if (volume.source.kind === "local") own.push(deps.volumes.pathOf(volume.volumeId));
  }
  if (spec.rootVolume?.source.kind === "local") own.push(deps.volumes.pathOf(spec.rootVolume.volumeId));
  return { kernel: bundle, disks: disksOf(spec, dir, (id) => deps.volumes.pathOf(id)), own };
}

/** The hardware a spec asks for, as this host gives it. */
export function layoutFor(spec: VmSpec, host: Host): Layout {
  const machineType = machineTypeOf(host, spec.machineType);
  return {
    machineType,
    vcpus: vcpusOn(host, spec.vcpus),
    // A microvm does not move.
    memoryBytes: isMicrovm(machineType) ? spec.memoryBytes : memoryOn(host, spec.memoryBytes),
    ports: placed(machineType, {}, devicesOf(spec, hasRoot(spec))),
    sizes: {},
  };
}

/** A layout of another host, when this one can build it and it has a place for everything in the spec. */
export function checkLayout(layout: Layout, spec: VmSpec): Layout {
  // Its hardware has no versions: another QEMU's may differ and would not say so.
  refuseMicrovm(layout.machineType, spec.vmId, "take in", "it stopped and started here");
  const missing = devicesOf(spec, hasRoot(spec)).find((device) => layout.ports[device] === undefined);
  const devices = new Set(devicesOf(spec, hasRoot(spec)));
  const extra = Object.keys(layout.ports).find((device) => !devices.has(device));
  if (missing === undefined && extra === undefined) return layout;
  throw fault(
    "failed_precondition",
    "layout_differs",
    missing === undefined
      ? `Cannot take in a guest that has ${extra} plugged: wanted only what the spec names`
      : `Cannot take in a guest that has no ${missing} plugged: wanted what the spec names`,
  );
}

export function filesOf(slot: SlotFiles, dir: string, provisions: Provisions): VmFiles {
  return {
    qmpSocket: slot.qmpSocket,
    serialSocket: slot.serialSocket,
    pidFile: slot.pidFile,
    consoleLog: `${dir}/console.log`,
    seed: `${dir}/seed.iso`,
    disks: provisions.disks,
    kernel: provisions.kernel,
  };
}
