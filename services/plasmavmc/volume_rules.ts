import { fault } from "@ultracloud/base";
import type { StoredRecord } from "@ultracloud/platform";
import type { Volume } from "./domain/types.ts";

/** Operations have a volume one at a time. */
export function checkVolumeIdle(volume: StoredRecord<Volume>, doing: string): void {
  if (volume.value.operation === "") return;
  throw fault(
    "failed_precondition",
    "volume_busy",
    `Cannot ${doing} volume ${volume.name} as operation ${volume.value.operation} has it: wanted that to be over`,
    { metadata: { operation: volume.value.operation }, retryAfterMs: 1000 },
  );
}

/** A volume is written by one VM, and a VM has it once. */
export function checkFree(
  volume: StoredRecord<Volume>,
  vmName: string,
  field: string,
  alreadyIds: readonly string[] = [],
): void {
  checkVolumeIdle(volume, "attach");
  const { vmId, vmName: holder, state } = volume.value;
  if (alreadyIds.includes(volume.id)) {
    throw fault("failed_precondition", "volume_in_use", `Cannot attach volume ${volume.name} to VM ${vmName} twice`, {
      field,
    });
  }
  if (vmId !== "") {
    throw fault(
      "failed_precondition",
      "volume_in_use",
      `Cannot attach volume ${volume.name} to VM ${vmName} as it is attached to ${holder}: wanted it detached`,
      { field },
    );
  }
  if (state !== "available") {
    throw fault(
      "failed_precondition",
      "volume_not_available",
      `Cannot attach volume ${volume.name} as it is ${state}: wanted it available`,
      { field },
    );
  }
}
