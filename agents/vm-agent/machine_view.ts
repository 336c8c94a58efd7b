import { type Host, vcpusOn } from "./domain/argv.ts";
import type { Layout } from "./domain/layout.ts";
import { isOver } from "./domain/migration.ts";
import type { VmView } from "./domain/state.ts";
import type { Live } from "./machine_deps.ts";
import type { VmRecord } from "./records.ts";

export interface MachineState {
  readonly record: VmRecord;
  readonly live: Live | undefined;
  readonly layout: Layout | undefined;
  readonly phase: "starting" | "stopping" | undefined;
  /** The end of a power-on is being recorded. */
  readonly ending: boolean;
  /** Why a QEMU that may run is not known to. */
  readonly unknown: string | undefined;
  readonly host: Host;
}

/** A VM as its worker tells of it. */
export function viewOf(state: MachineState): VmView {
  const { record, live } = state;
  const { spec, run, end, migration, desired } = record;
  const moving = migration !== undefined && !isOver(migration.phase);
  const base = {
    vmId: spec.vmId,
    generation: spec.generation,
    pid: live?.qemu.pid ?? 0,
    writerEpoch: record.writerEpoch ?? 0,
    rootEpoch: record.rootEpoch ?? 0,
    layout: state.layout,
    migrationId: moving ? migration.id : "",
    startedAtMs: run?.startedAtMs,
  };
  if (state.phase) return { ...base, state: state.phase, reason: "" };
  if (live) {
    const { runState } = live;
    if (moving) return { ...base, state: "migrating", reason: "" };
    if (runState.kind === "paused") {
      return { ...base, state: "paused", reason: desired === "paused" ? "" : runState.reason };
    }
    if (runState.kind === "off") return { ...base, state: "stopping", reason: "" };
    return { ...base, state: "running", reason: shortfall(state) };
  }
  if (run && state.ending) return { ...base, state: "stopping", reason: "" };
  if (run) return { ...base, state: "unknown", reason: state.unknown ?? "not yet looked at" };
  if (end) return { ...base, state: end.state, reason: end.reason, startedAtMs: undefined };
  return { ...base, state: "pending", reason: "", startedAtMs: undefined };
}

/** What the guest lacks of what its spec says. */
function shortfall({ record: { spec }, host }: MachineState): string {
  const given = vcpusOn(host, spec.vcpus);
  return given === spec.vcpus
    ? ""
    : `runs on ${given} of ${spec.vcpus} vCPUs, as QEMU ${host.qemuMajor} under TCG boots no more`;
}
