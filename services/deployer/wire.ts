import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import {
  type DesiredSystem,
  type InstallPlan,
  type MachineFacts,
  type SystemState,
  systemStates,
} from "@ultracloud/cluster-state";
import { invalidField } from "@ultracloud/base";
import {
  type DesiredSystemSchema,
  type HardwareFactsSchema,
  type InstallPlanSchema,
  type ObservedSystem,
  type ObservedSystemSchema,
  type PendingMachineSchema,
  SystemState as WireState,
} from "@ultracloud/proto/deployer/v1";
import type { MachineRow, ObservedRow } from "./kinds.ts";

const wireStates: Readonly<Record<SystemState, WireState>> = {
  "idle": WireState.IDLE,
  "preflight": WireState.PREFLIGHT,
  "copying": WireState.COPYING,
  "activating": WireState.ACTIVATING,
  "verifying": WireState.VERIFYING,
  "active": WireState.ACTIVE,
  "rolled-back": WireState.ROLLED_BACK,
  "failed": WireState.FAILED,
};

export function toPlan(plan: InstallPlan): MessageInitShape<typeof InstallPlanSchema> {
  return {
    nixosConfiguration: plan.nixos_configuration,
    diskoConfigPath: plan.disko_config_path,
    targetDiskById: plan.target_disk_by_id,
    expectedDiskSerial: plan.expected_disk_serial ?? "",
    expectedDiskBytesMin: BigInt(plan.expected_disk_bytes_min ?? 0),
    expectedDiskBytesMax: BigInt(plan.expected_disk_bytes_max ?? 0),
    wipeExistingData: plan.wipe_existing_data,
    targetSystem: plan.target_system ?? "",
  };
}

export function toDesired(system: DesiredSystem): MessageInitShape<typeof DesiredSystemSchema> {
  return {
    targetSystem: system.target_system,
    activation: system.activation,
    preSwitchChecks: system.pre_switch_checks.map((argv) => ({ argv })),
    ...(system.health_check_command === undefined ? {} : { healthCheckCommand: { argv: system.health_check_command } }),
    healthCheckGraceMs: BigInt(system.health_check_grace_ms),
    healthCheckTimeoutMs: BigInt(system.health_check_timeout_ms),
    healthCheckAttempts: system.health_check_attempts,
    healthCheckIntervalMs: BigInt(system.health_check_interval_ms),
    contactTimeoutMs: BigInt(system.contact_timeout_ms),
    freeBytesMin: BigInt(system.free_bytes_min),
    drain: system.drain,
    drainTimeoutMs: BigInt(system.drain_timeout_ms),
  };
}

export function toFacts(facts: MachineFacts): MessageInitShape<typeof HardwareFactsSchema> {
  return {
    serial: facts.serial,
    machineId: facts.machine_id,
    vendor: facts.vendor,
    product: facts.product,
    architecture: facts.architecture,
    cpus: facts.cpus,
    memoryBytes: BigInt(facts.memory_bytes),
    macAddresses: [...facts.mac_addresses],
    uefi: facts.uefi,
    installerVersion: facts.installer_version,
    disks: facts.disks.map((disk) => ({
      byId: [...disk.by_id],
      serial: disk.serial,
      bytesCount: BigInt(disk.bytes_count),
      wwn: disk.wwn,
      model: disk.model,
      bootMedium: disk.boot_medium,
      signatures: [...disk.signatures],
      ownerNode: disk.owner_node,
    })),
  };
}

export function toPending(row: MachineRow): MessageInitShape<typeof PendingMachineSchema> {
  return {
    id: row.id,
    facts: toFacts(row.facts),
    address: row.address,
    firstSeenTime: timestampFromMs(row.firstSeenMs),
    lastSeenTime: timestampFromMs(row.lastSeenMs),
    attempts: row.attempts,
    wantedNode: row.wantedNode,
    reason: row.reason,
  };
}

export function toObserved(row: ObservedRow): MessageInitShape<typeof ObservedSystemSchema> {
  return {
    state: wireStates[row.state as SystemState] ?? WireState.UNSPECIFIED,
    currentSystem: row.currentSystem,
    targetSystem: row.targetSystem,
    intentId: row.intentId,
    reason: row.reason,
    generation: row.generation,
    bootId: row.bootId,
    agentVersion: row.agentVersion,
    reportedTime: timestampFromMs(row.reportedMs),
  };
}

const reasonCharsMax = 2_048;
const pathCharsMax = 512;

/** What an agent reports, checked; the times are set by whoever keeps it. */
export function fromObserved(observed: ObservedSystem | undefined): Omit<ObservedRow, "reportedMs" | "sinceMs"> {
  if (observed === undefined) throw invalidField("observed", "Cannot keep a report without observed");
  const state = systemStates.find((name) => wireStates[name] === observed.state);
  if (state === undefined) throw invalidField("observed.state", "Cannot keep a report without a state");
  const bounded = (field: "currentSystem" | "targetSystem" | "intentId" | "bootId" | "agentVersion") => {
    if (observed[field].length <= pathCharsMax) return observed[field];
    throw invalidField(
      `observed.${field}`,
      `Cannot keep ${observed[field].length} characters: wanted at most ${pathCharsMax}`,
    );
  };
  return {
    state,
    currentSystem: bounded("currentSystem"),
    targetSystem: bounded("targetSystem"),
    intentId: bounded("intentId"),
    reason: observed.reason.slice(0, reasonCharsMax),
    generation: observed.generation,
    bootId: bounded("bootId"),
    agentVersion: bounded("agentVersion"),
  };
}
