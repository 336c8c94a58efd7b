import { fault } from "@ultracloud/base";
import type { QmpClient } from "@ultracloud/qmp";
import { ConsoleLog } from "./console_log.ts";
import { attachedNode, type Devices, plugDevices, readPlugged, resize } from "./devices.ts";
import { qemuArgs } from "./domain/argv.ts";
import type { Disk } from "./domain/block.ts";
import { isMicrovm } from "./domain/hardware.ts";
import type { Layout } from "./domain/layout.ts";
import type { MigrationRecord } from "./domain/migration.ts";
import { checkGeneration, type VmSpec } from "./domain/spec.ts";
import { localVolumes, needsLease, runnable, union } from "./domain/spec_parts.ts";
import type { VmView } from "./domain/state.ts";
import { removeAll } from "./files.ts";
import {
  checkDisks,
  checkHotPlug,
  reasonOf,
  refuseMicrovm,
  refuseMoving,
  requireLease,
  unresponsive,
} from "./machine_checks.ts";
import type { Live, MachineDeps } from "./machine_deps.ts";
import { MachineRecord } from "./machine_record.ts";
import { viewOf } from "./machine_view.ts";
import { disksOf, filesOf, layoutFor, provision, rootPath } from "./power_on.ts";
import { startEngine } from "./qemu.ts";
import { QemuLife } from "./qemu_life.ts";
import type { VmRecord } from "./records.ts";
import { SerialWriter } from "./serial_writer.ts";
import { type SlotFiles, slotFiles } from "./slots.ts";
import { awaitTaps } from "./taps.ts";

const rebootGraceMs = 20_000;

/**
 * One VM on this worker: what may be asked of it. Its methods but `view` are for one caller at a time: see `Lock`. What
 * is known of it is `MachineRecord`'s, its QEMU `QemuLife`'s.
 */
export class Machine {
  readonly console: ConsoleLog;
  readonly serial: SerialWriter;
  readonly #deps: MachineDeps;
  readonly #vm: MachineRecord;
  readonly #life: QemuLife;
  #phase: "starting" | "stopping" | undefined;

  constructor(record: VmRecord, deps: MachineDeps, options: { readonly kept: boolean } = { kept: false }) {
    this.#deps = deps;
    this.#vm = new MachineRecord(record, deps, options);
    this.console = new ConsoleLog({ dir: this.dir, bytesMax: deps.consoleBytesMax });
    this.serial = new SerialWriter(() => this.at?.serialSocket, deps);
    this.#life = new QemuLife(this.#vm, { serial: this.serial });
  }

  get record(): VmRecord {
    return this.#vm.now;
  }

  /** The QEMU that runs and answers; undefined: none does. */
  get live(): Live | undefined {
    return this.#vm.live;
  }

  /** Files of the power-on. */
  get at(): SlotFiles | undefined {
    return this.#vm.at;
  }

  get dir(): string {
    return this.#vm.dir;
  }

  get spec(): VmSpec {
    return this.#vm.spec;
  }

  /** True once it stands on disk: the agent's death does not undo it. */
  get isKept(): boolean {
    return this.#vm.isKept;
  }

  /** True while a QEMU runs or may run. */
  get isOn(): boolean {
    return this.record.run !== undefined;
  }

  /** True when it is to be ended with the worker's lease: another worker can reach one of its disks. */
  get needsLease(): boolean {
    return this.#vm.needsLease;
  }

  /** The disks that are plugged, or would be at the next start. */
  disks(): Disk[] {
    return this.#vm.disks();
  }

  /** The monitor of the QEMU that runs; a fault when there is none. */
  monitor(action: string): QmpClient {
    return this.#vm.monitor(action);
  }

  view(): VmView {
    return viewOf({
      record: this.record,
      live: this.live,
      layout: this.layout(),
      phase: this.#phase,
      ending: this.#life.ending,
      unknown: this.#life.unknown,
      host: this.#deps.host,
    });
  }

  /** The hardware that runs; undefined while none is known. */
  layout(): Layout | undefined {
    const { run } = this.record;
    return this.live && run ? { ...run.hardware, ...this.live.plugged } : undefined;
  }

  /**
   * Makes the VM run with this spec. One that is on has its NICs and volumes plugged as the spec says, and keeps the
   * rest of its hardware until its next start. With `applyOnly` it is neither started nor resumed.
   */
  async ensure(spec: VmSpec, options: { readonly applyOnly: boolean } = { applyOnly: false }): Promise<void> {
    checkGeneration(this.spec.generation, spec.generation, spec.vmId);
    await this.#life.settle();
    if (this.isOn && !this.live) throw unresponsive(spec.vmId, "start");
    refuseMoving(this.record, "change");
    checkDisks(this.record, spec, this.live !== undefined, this.#deps.volumes);
    const live = this.live;
    if (live) checkHotPlug(this.record, spec);
    if (!live && !options.applyOnly) requireLease(spec, this.#deps.leaseHeld());
    const desired = options.applyOnly ? this.record.desired : "running";
    await this.save({ spec, desired });
    if (live) {
      await this.#apply(live, spec);
      if (live.runState.kind === "paused" && !options.applyOnly) await live.qemu.monitor.execute("cont");
      return;
    }
    if (options.applyOnly) return;
    this.#phase = "starting";
    try {
      await this.#start(spec);
    } catch (error) {
      await this.#life.ended({ state: "failed", reason: reasonOf(error) });
      throw error;
    } finally {
      this.#phase = undefined;
    }
  }

  /** Stops the guest's time; it goes on where it was at `resume`. */
  async pause(): Promise<void> {
    refuseMoving(this.record, "pause");
    const monitor = this.monitor("pause");
    await this.save({ desired: "paused" });
    await monitor.execute("stop");
    if (this.live) this.live.runState = { kind: "paused", reason: "" };
  }

  async resume(): Promise<void> {
    refuseMoving(this.record, "resume");
    const monitor = this.monitor("resume");
    await this.save({ desired: "running" });
    await monitor.execute("cont");
    if (this.live) this.live.runState = { kind: "running" };
  }

  async stop(options: { readonly force: boolean; readonly graceMs: number }): Promise<void> {
    await this.#life.settle();
    refuseMoving(this.record, "stop");
    await this.save({ desired: "stopped" });
    if (!this.isOn) {
      await this.save({ end: { state: "stopped", reason: "" } });
      return;
    }
    this.#phase = "stopping";
    try {
      // A microvm has no button.
      const deaf = isMicrovm(this.record.run?.hardware.machineType);
      if (!options.force && !deaf) await this.#life.pressPower(options.graceMs, (live) => live.over);
      await this.#life.quit("stop");
    } finally {
      this.#phase = undefined;
    }
  }

  /** Asks the guest to power off and resets it; one that does not listen is reset all the same. */
  async reboot(): Promise<void> {
    await this.#life.settle();
    refuseMoving(this.record, "reboot");
    refuseMicrovm(this.record.run?.hardware.machineType, this.spec.vmId, "reboot", "it stopped and started");
    const live = this.live;
    if (!live) {
      if (this.isOn) throw unresponsive(this.spec.vmId, "reboot");
      throw fault("failed_precondition", "vm_not_running", `Cannot reboot ${this.spec.vmId} as it does not run`);
    }
    const off = Promise.withResolvers<void>();
    live.rebooting = off.resolve;
    try {
      await this.#life.pressPower(rebootGraceMs, () => Promise.race([off.promise, live.over]));
      if (this.live !== live) throw unresponsive(this.spec.vmId, "reboot");
      await live.qemu.monitor.execute("system_reset");
      await live.qemu.monitor.execute("cont");
      live.runState = { kind: "running" };
    } finally {
      live.rebooting = undefined;
    }
    const { run } = this.record;
    if (run) await this.save({ run: { ...run, startedAtMs: this.#deps.clock.nowMs() } });
  }

  /** Ends it and removes everything it had here. */
  async remove(): Promise<void> {
    this.#phase = "stopping";
    try {
      await this.#life.quit("delete");
    } finally {
      this.#phase = undefined;
    }
    await this.#vm.saved();
    this.#deps.volumes.keepOnly(this.spec.vmId, []);
    await this.#deps.records.remove(this.spec.vmId);
  }

  /** Ends the QEMU at once, whatever else goes on: another worker may start this VM soon. */
  async fence(reason: string): Promise<void> {
    await this.#life.fence(reason);
  }

  /** Ends what waits for a guest, or has a guest that is another worker's by now; says so in the record. */
  async endAs(end: NonNullable<VmRecord["end"]>): Promise<void> {
    await this.#life.endAs(end);
  }

  /** Gives a plugged volume of this worker its new size. */
  async growPlugged(device: string, bytes: number): Promise<void> {
    const monitor = this.monitor("grow a disk of");
    const now = await attachedNode(monitor, device);
    if (now && now.bytes < bytes) await resize(monitor, now.node, bytes);
  }

  /** Finds the QEMU of a power-on that an earlier agent began; also tells whether one that was silent answers now. */
  async adopt(): Promise<void> {
    await this.#life.adopt();
  }

  /** Lets go of QEMU and leaves it running. */
  async release(): Promise<void> {
    await this.#life.release();
  }

  /** Starts QEMU, its guest not yet running. */
  async powerOn(
    spec: VmSpec,
    options: { readonly layout: Layout; readonly incoming: boolean; readonly blankRootBytes: number | undefined },
  ): Promise<void> {
    const deps = this.#deps;
    await Deno.mkdir(this.dir, { recursive: true, mode: 0o711 });
    await this.#claimVolumes(spec);
    // The stamp before the start: from here on nobody opens these disks with less.
    await this.save({
      writerEpoch: Math.max(this.record.writerEpoch ?? 0, spec.writerEpoch),
      rootEpoch: spec.rootEpoch,
    });
    const provisions = await provision(spec, this.dir, options, deps);
    const slot = deps.slots.take();
    const { machineType, vcpus, memoryBytes } = options.layout;
    const hardware = { machineType, vcpus, memoryBytes };
    // Before QEMU starts: whoever comes after a crash knows where to look.
    const run = { slot, startedAtMs: deps.clock.nowMs(), hardware, plugged: spec };
    await this.save({ run, end: undefined });
    const at = slotFiles(deps.runDir, slot);
    await removeAll(at.dir);
    // Others of the group reach its sockets, as a guest from another worker must.
    await Deno.mkdir(at.dir, { recursive: true, mode: 0o710 });
    const { kernel } = provisions;
    const own = await deps.user.forVm(
      slot,
      [at.dir, ...provisions.own],
      kernel ? [kernel.kernel, kernel.initrd] : [],
    );
    const taps = spec.nics.flatMap(({ binding }) => binding.kind === "tap" ? [binding.device] : []);
    await awaitTaps(taps, deps);
    // A tap is opened by whoever may change the host's network.
    const runAs = taps.length > 0 ? undefined : own;
    requireLease(spec, deps.leaseHeld());
    const args = qemuArgs(spec, options.layout, filesOf(at, this.dir, provisions), deps.host, options);
    const qemu = await startEngine("qemu-system-x86_64", args, { qmpSocket: at.qmpSocket, runAs }, deps);
    const plugged = await readPlugged(qemu.monitor);
    const live = this.#life.attach(qemu, { kind: "paused", reason: "starting" }, plugged);
    if (deps.leaseHeld() || !needsLease(spec)) return;
    live.failure = "ended as the worker lost its lease";
    await qemu.kill();
    requireLease(spec, false);
  }

  /** The record in memory changes at once; writes follow one another. */
  save(change: Partial<VmRecord>): Promise<void> {
    return this.#vm.save(change);
  }

  /** Where the migration it takes part in is. */
  async saveMigration(migration: MigrationRecord): Promise<void> {
    await this.save({ migration });
  }

  async #claimVolumes(spec: VmSpec): Promise<void> {
    const epoch = Math.max(this.record.writerEpoch ?? 0, spec.writerEpoch);
    for (const volume of localVolumes(spec)) await this.#deps.volumes.claim(spec.vmId, volume, epoch);
  }

  /** Plugs and unplugs what differs from the spec. */
  async #apply(live: Live, spec: VmSpec): Promise<void> {
    const { run } = this.record;
    if (!run) throw unresponsive(spec.vmId, "change");
    await this.#claimVolumes(spec);
    const devicesOf = (of: VmSpec): Devices => ({
      nics: of.nics,
      disks: disksOf(of, this.dir, (id) => this.#deps.volumes.pathOf(id)),
    });
    const wanted = runnable(spec, run.plugged);
    const to = devicesOf(wanted);
    for (const { source } of to.disks) {
      if (source.kind === "file") await this.#deps.user.forVm(run.slot, [source.path], []);
    }
    const from = devicesOf(run.plugged);
    // Until it is done, both what was there and what is to come may be plugged.
    await this.save({ run: { ...run, plugged: union(run.plugged, wanted) } });
    live.plugged = await plugDevices(live.qemu.monitor, from, to, this.#deps);
    await this.save({ run: { ...run, plugged: wanted } });
    this.#deps.volumes.keepOnly(spec.vmId, localVolumes(wanted).map((volume) => volume.volumeId));
  }

  async #start(spec: VmSpec): Promise<void> {
    if (this.record.restoring !== undefined) await this.#deps.finishRestore(this, this.record.restoring);
    const known = this.record.rootEpoch;
    if (known !== undefined && known < spec.rootEpoch) await removeAll(rootPath(this.dir));
    await this.powerOn(spec, { layout: layoutFor(spec, this.#deps.host), incoming: false, blankRootBytes: undefined });
    const { live } = this;
    if (!live) throw unresponsive(spec.vmId, "start");
    await live.qemu.monitor.execute("cont");
    live.runState = { kind: "running" };
  }
}
