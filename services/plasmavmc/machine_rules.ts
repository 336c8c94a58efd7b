import { fault, invalidField } from "@ultracloud/base";
import type { StoredRecord } from "@ultracloud/platform";
import type { Image, Vm } from "./domain/types.ts";

/** Places of a microvm for its root disk, NICs and volumes: QEMU's eight virtio-mmio devices but the seed and the rng. */
export const microvmDevicesMax = 6;

type Machine = Pick<Vm, "machineType" | "diskBytes">;

/** Refuses what the machine could not boot, or has no place for. */
export function checkMachine(
  { machineType, diskBytes }: Machine,
  image: Pick<Image, "format">,
  devices: { readonly nics: number; readonly volumes: number },
): void {
  if (machineType !== "microvm") return;
  if (image.format !== "kernel_bundle") {
    throw fault(
      "failed_precondition",
      "machine_cannot_boot",
      "Cannot boot a disk on a microvm, which has no firmware that finds one: wanted an image that is a kernel bundle",
      { field: "image" },
    );
  }
  const wanted = (diskBytes > 0 ? 1 : 0) + devices.nics + devices.volumes;
  if (wanted <= microvmDevicesMax) return;
  throw invalidField(
    "machineType",
    `Cannot give a microvm ${wanted} disks and NICs: wanted at most ${microvmDevicesMax}, its root disk included`,
  );
}

/** A microvm that is on keeps its devices; one that is off has a place for one more, or not. */
export function checkPluggable(vm: StoredRecord<Vm>, doing: string, more: 0 | 1): void {
  const { value } = vm;
  if (value.state !== "stopped") refuseMicrovm(vm, doing, "it stopped");
  const devices = { nics: value.nicWishes.length + more, volumes: value.volumes.length };
  checkMachine(value, { format: value.imageFormat }, devices);
}

/** What takes PCI, ACPI, a screen, or hardware that is the same on each worker. */
export function refuseMicrovm(vm: StoredRecord<Vm>, doing: string, wanted: string): void {
  if (vm.value.machineType !== "microvm") return;
  throw fault(
    "failed_precondition",
    "machine_is_microvm",
    `Cannot ${doing} VM ${vm.name} as its machine is a microvm: wanted ${wanted}`,
  );
}
