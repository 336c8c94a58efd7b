import type { QmpClient } from "@ultracloud/qmp";
import { fault } from "@ultracloud/base";
import type { Disk } from "./domain/block.ts";
import type { VmSpec } from "./domain/spec.ts";
import { needsLease } from "./domain/spec_parts.ts";
import { unresponsive } from "./machine_checks.ts";
import type { Live, MachineDeps } from "./machine_deps.ts";
import { disksOf } from "./power_on.ts";
import type { VmRecord } from "./records.ts";
import { type SlotFiles, slotFiles } from "./slots.ts";

/** What a worker knows of one VM: its record, on disk and in memory, and the QEMU that runs, if one answers. */
export class MachineRecord {
  readonly deps: MachineDeps;
  /** The QEMU that runs and answers; undefined: none does. */
  live: Live | undefined;
  #now: VmRecord;
  #saving: Promise<void> = Promise.resolve();
  #kept: boolean;

  /** `kept`: it stands on disk already. */
  constructor(record: VmRecord, deps: MachineDeps, options: { readonly kept: boolean }) {
    this.#now = record;
    this.#kept = options.kept;
    this.deps = deps;
  }

  get now(): VmRecord {
    return this.#now;
  }

  get spec(): VmSpec {
    return this.#now.spec;
  }

  get dir(): string {
    return this.deps.records.dirOf(this.spec.vmId);
  }

  /** True once it stands on disk: the agent's death does not undo it. */
  get isKept(): boolean {
    return this.#kept;
  }

  /** Files of the power-on. */
  get at(): SlotFiles | undefined {
    const { run } = this.#now;
    return run && slotFiles(this.deps.runDir, run.slot);
  }

  /** The disks that are plugged, or would be at the next start. */
  disks(): Disk[] {
    return disksOf(this.#now.run?.plugged ?? this.spec, this.dir, (id) => this.deps.volumes.pathOf(id));
  }

  /** True when it is to be ended with the worker's lease: another worker can reach one of its disks. */
  get needsLease(): boolean {
    const { run } = this.#now;
    return needsLease(this.spec) || (run !== undefined && needsLease(run.plugged));
  }

  /** The monitor of the QEMU that runs; a fault when there is none. */
  monitor(action: string): QmpClient {
    if (this.live && this.live.runState.kind !== "off") return this.live.qemu.monitor;
    if (this.#now.run) throw unresponsive(this.spec.vmId, action);
    throw fault("failed_precondition", "vm_not_running", `Cannot ${action} ${this.spec.vmId} as it does not run`);
  }

  /** The record in memory changes at once; writes follow one another. */
  save(change: Partial<VmRecord>): Promise<void> {
    const record = { ...this.#now, ...change };
    this.#now = record;
    this.#kept = true;
    this.#saving = this.#saving.catch(() => {}).then(() => this.deps.records.put(record));
    return this.#saving;
  }

  /** Waits until what was to be saved is. */
  async saved(): Promise<void> {
    await this.#saving;
  }
}
