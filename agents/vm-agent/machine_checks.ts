import { Fault, fault } from "@ultracloud/base";
import type { QmpClient } from "@ultracloud/qmp";
import type { Host } from "./domain/argv.ts";
import { isMicrovm } from "./domain/hardware.ts";
import { isOver } from "./domain/migration.ts";
import { forwardChanges } from "./domain/nics.ts";
import type { VmSpec } from "./domain/spec.ts";
import { localVolumes, needsLease } from "./domain/spec_parts.ts";
import { losesWrites } from "./domain/written_pages.ts";
import type { VmRecord } from "./records.ts";
import { staleEpoch, type Volumes } from "./volumes.ts";

/** What a VM refuses; none of these changes anything. */

/** A VM that is moving, or has moved away, is its migration's alone. */
export function refuseMoving({ spec, migration }: VmRecord, action: string): void {
  if (!migration || (isOver(migration.phase) && !(migration.role === "source" && migration.phase === "completed"))) {
    return;
  }
  const over = migration.phase === "completed";
  throw fault(
    "failed_precondition",
    over ? "vm_moved" : "vm_migrating",
    over
      ? `Cannot ${action} ${spec.vmId} as it has moved to another worker: wanted it deleted here`
      : `Cannot ${action} ${spec.vmId} while it migrates: wanted migration ${migration.id} over`,
  );
}

/** Refuses a spec whose disks could not be opened. */
export function checkDisks(record: VmRecord, spec: VmSpec, isLive: boolean, volumes: Volumes): void {
  const known = record.writerEpoch ?? 0;
  if (!isLive && spec.writerEpoch < known) throw staleEpoch(`the disks of ${spec.vmId}`, spec.writerEpoch, known);
  if (isLive && spec.rootEpoch > (record.rootEpoch ?? 0)) {
    throw fault(
      "failed_precondition",
      "vm_running",
      `Cannot make the root disk of ${spec.vmId} anew while it is on: wanted it stopped`,
    );
  }
  for (const volume of localVolumes(spec)) volumes.check(spec.vmId, volume, Math.max(known, spec.writerEpoch));
}

/** Another worker may start a VM whose disks it reaches once this one's lease is over. */
export function requireLease(spec: VmSpec, leaseHeld: boolean): void {
  if (leaseHeld || !needsLease(spec)) return;
  throw fault(
    "unavailable",
    "lease_lost",
    `Cannot start ${spec.vmId} as this worker has lost its lease: wanted one that is renewed`,
    { retryAfterMs: 1_000 },
  );
}

/** What a machine without PCI and ACPI cannot do. */
export function refuseMicrovm(machineType: string | undefined, vmId: string, action: string, wanted: string): void {
  if (!isMicrovm(machineType)) return;
  throw fault(
    "failed_precondition",
    "microvm",
    `Cannot ${action} ${vmId} as its machine is a microvm: wanted ${wanted}`,
  );
}

/** Refuses a spec that would have something plugged or unplugged where that cannot be. */
export function checkHotPlug({ run }: VmRecord, spec: VmSpec): void {
  if (!run || !isMicrovm(run.hardware.machineType)) return;
  const disksOf = ({ volumes }: VmSpec) => volumes.map(({ volumeId, readOnly }) => `${volumeId} ${readOnly}`).sort();
  const { plugged } = run;
  const sameNics = plugged.nics.length === spec.nics.length && plugged.nics.every((nic) => {
    const now = spec.nics.find(({ portId }) => portId === nic.portId);
    return now !== undefined && (JSON.stringify(now) === JSON.stringify(nic) || forwardChanges(nic, now) !== undefined);
  });
  if (sameNics && disksOf(plugged).join() === disksOf(spec).join()) return;
  refuseMicrovm(run.hardware.machineType, spec.vmId, "change the devices of", "it stopped");
}

/**
 * Refuses to send a guest that would arrive with pages of an earlier moment. QEMU itself is asked what it is and has: the
 * guest may come from another host, or have been started by an older agent or QEMU.
 */
export async function refuseLostWrites(monitor: Pick<QmpClient, "execute" | "version">, vmId: string): Promise<void> {
  const { major, minor } = monitor.version;
  const [{ enabled: isKvm }, memory] = await Promise.all([
    monitor.execute<{ enabled: boolean }>("query-kvm"),
    monitor.execute<{ "base-memory": number }>("query-memory-size-summary"),
  ]);
  const host: Host = { accelerator: isKvm ? "kvm" : "tcg", qemuMajor: major, qemuMinor: minor };
  if (!losesWrites(host, memory["base-memory"])) return;
  throw fault(
    "failed_precondition",
    "writes_unnoticed",
    `Cannot move ${vmId} while it runs as QEMU ${major}.${minor} without KVM would lose what it writes ` +
      `meanwhile: wanted it stopped and started here once, which gives it memory that can be moved`,
  );
}

export function unresponsive(vmId: string, action: string): Fault {
  return fault("unavailable", "qemu_unresponsive", `Cannot ${action} ${vmId} as its QEMU does not answer`, {
    retryAfterMs: 5_000,
  });
}

export function reasonOf(error: unknown): string {
  return error instanceof Fault ? error.message : "an internal error, see the agent's log";
}
