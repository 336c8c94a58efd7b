import { Fault, fault } from "@ultracloud/base";
import type { QmpClient } from "@ultracloud/qmp";
import { ConsoleLog } from "./console_log.ts";
import { attachedNode, type Devices, plugDevices, type Plugged, readPlugged, resize } from "./devices.ts";
import { qemuArgs } from "./domain/argv.ts";
import type { Disk } from "./domain/block.ts";
import type { Layout } from "./domain/layout.ts";
import { isOver, type MigrationRecord } from "./domain/migration.ts";
import { checkGeneration, type VmSpec } from "./domain/spec.ts";
import { localVolumes, needsLease, runnable, union } from "./domain/spec_parts.ts";
import { type RunState, runStateOf, type VmView } from "./domain/state.ts";
import { removeAll } from "./files.ts";
import type { Live, MachineDeps } from "./machine_deps.ts";
import { viewOf } from "./machine_view.ts";
import { disksOf, filesOf, layoutFor, provision, rootPath } from "./power_on.ts";
import { adoptEngine, type Engine, killByPidFile, monitorTimeoutMs, startEngine } from "./qemu.ts";
import type { VmRecord } from "./records.ts";
import { SerialWriter } from "./serial_writer.ts";
import { type SlotFiles, slotFiles } from "./slots.ts";
import { staleEpoch } from "./volumes.ts";

/** A guest that is still booting misses a press of the power button, so it is pressed again. */
const powerButtonEveryMs = 2_000;
const rebootGraceMs = 20_000;
/** QEMU's own way from `quit` to its end: it flushes its disks. */
const quitTimeoutMs = 15_000;

/** One VM on this worker. Its methods but `view` are for one caller at a time: see `Lock`. */
export class Machine {
  readonly console: ConsoleLog;
  readonly serial: SerialWriter;
  readonly #deps: MachineDeps;
  #record: VmRecord;
  #live: Live | undefined;
  #phase: "starting" | "stopping" | undefined;
  #unknown: string | undefined;
  /** Said when a QEMU turns out to be gone. */
  #goneReason = "QEMU ended while no agent watched it";
  #saving: Promise<void> = Promise.resolve();
  #kept = false;
  /** True while the end of a power-on is being recorded: whoever looks for a QEMU meanwhile finds none. */
  #ending = false;

  constructor(record: VmRecord, deps: MachineDeps, options: { readonly kept: boolean } = { kept: false }) {
    this.#kept = options.kept;
    this.#record = record;
    this.#deps = deps;
    this.console = new ConsoleLog({ dir: this.dir, bytesMax: deps.consoleBytesMax });
    this.serial = new SerialWriter(() => this.at?.serialSocket, deps);
  }

  get record(): VmRecord {
    return this.#record;
  }

  /** The QEMU that runs and answers; undefined: none does. */
  get live(): Live | undefined {
    return this.#live;
  }

  /** Files of the power-on. */
  get at(): SlotFiles | undefined {
    const run = this.#record.run;
    return run && slotFiles(this.#deps.runDir, run.slot);
  }

  get dir(): string {
    return this.#deps.records.dirOf(this.#record.spec.vmId);
  }

  /** The disks that are plugged, or would be at the next start. */
  disks(): Disk[] {
    return disksOf(this.#record.run?.plugged ?? this.#record.spec, this.dir, (id) => this.#deps.volumes.pathOf(id));
  }

  /** The monitor of the QEMU that runs; a fault when there is none. */
  monitor(action: string): QmpClient {
    if (this.#live && this.#live.runState.kind !== "off") return this.#live.qemu.monitor;
    if (this.#record.run) throw this.unresponsive(action);
    throw fault("failed_precondition", "vm_not_running", `Cannot ${action} ${this.spec.vmId} as it does not run`);
  }

  get spec(): VmSpec {
    return this.#record.spec;
  }

  /** True once it stands on disk: the agent's death does not undo it. */
  get isKept(): boolean {
    return this.#kept;
  }

  /** True while a QEMU runs or may run. */
  get isOn(): boolean {
    return this.#record.run !== undefined;
  }

  view(): VmView {
    return viewOf({
      record: this.#record,
      live: this.#live,
      layout: this.layout(),
      phase: this.#phase,
      ending: this.#ending,
      unknown: this.#unknown,
      host: this.#deps.host,
    });
  }

  /** The hardware that runs; undefined while none is known. */
  layout(): Layout | undefined {
    const { run } = this.#record;
    return this.#live && run ? { ...run.hardware, ...this.#live.plugged } : undefined;
  }

  /**
   * Makes the VM run with this spec. One that is on has its NICs and volumes plugged as the spec says, and keeps the
   * rest of its hardware until its next start. With `applyOnly` it is neither started nor resumed.
   */
  async ensure(spec: VmSpec, options: { readonly applyOnly: boolean } = { applyOnly: false }): Promise<void> {
    checkGeneration(this.#record.spec.generation, spec.generation, spec.vmId);
    await this.#settle();
    if (this.#record.run && !this.#live) throw this.unresponsive("start");
    this.#refuseMoving("change");
    this.#checkDisks(spec);
    const live = this.#live;
    if (!live && !options.applyOnly) this.#requireLease(spec);
    const desired = options.applyOnly ? this.#record.desired : "running";
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
      await this.#ended({ state: "failed", reason: reasonOf(error) });
      throw error;
    } finally {
      this.#phase = undefined;
    }
  }

  /** Stops the guest's time; it goes on where it was at `resume`. */
  async pause(): Promise<void> {
    this.#refuseMoving("pause");
    const monitor = this.monitor("pause");
    await this.save({ desired: "paused" });
    await monitor.execute("stop");
    if (this.#live) this.#live.runState = { kind: "paused", reason: "" };
  }

  async resume(): Promise<void> {
    this.#refuseMoving("resume");
    const monitor = this.monitor("resume");
    await this.save({ desired: "running" });
    await monitor.execute("cont");
    if (this.#live) this.#live.runState = { kind: "running" };
  }

  async stop(options: { readonly force: boolean; readonly graceMs: number }): Promise<void> {
    await this.#settle();
    this.#refuseMoving("stop");
    await this.save({ desired: "stopped" });
    if (this.#record.run === undefined) {
      await this.save({ end: { state: "stopped", reason: "" } });
      return;
    }
    this.#phase = "stopping";
    try {
      if (!options.force) await this.#pressPower(options.graceMs, (live) => live.over);
      await this.#quit("stop");
    } finally {
      this.#phase = undefined;
    }
  }

  /** Asks the guest to power off and resets it; one that does not listen is reset all the same. */
  async reboot(): Promise<void> {
    await this.#settle();
    this.#refuseMoving("reboot");
    const live = this.#live;
    if (!live) {
      if (this.#record.run) throw this.unresponsive("reboot");
      throw fault("failed_precondition", "vm_not_running", `Cannot reboot ${this.spec.vmId} as it does not run`);
    }
    const off = Promise.withResolvers<void>();
    live.rebooting = off.resolve;
    try {
      await this.#pressPower(rebootGraceMs, () => Promise.race([off.promise, live.over]));
      if (this.#live !== live) throw this.unresponsive("reboot");
      await live.qemu.monitor.execute("system_reset");
      await live.qemu.monitor.execute("cont");
      live.runState = { kind: "running" };
    } finally {
      live.rebooting = undefined;
    }
    const run = this.#record.run;
    if (run) await this.save({ run: { ...run, startedAtMs: this.#deps.clock.nowMs() } });
  }

  /** Ends it and removes everything it had here. */
  async remove(): Promise<void> {
    this.#phase = "stopping";
    try {
      await this.#quit("delete");
    } finally {
      this.#phase = undefined;
    }
    await this.#saving;
    this.#deps.volumes.keepOnly(this.spec.vmId, []);
    await this.#deps.records.remove(this.spec.vmId);
  }

  /** Ends the QEMU at once, whatever else goes on: another worker may start this VM soon. */
  async fence(reason: string): Promise<void> {
    const live = this.#live;
    const at = this.at;
    if (live) {
      live.failure ??= reason;
      await live.qemu.kill();
    } else if (at) {
      this.#goneReason = reason;
      await killByPidFile(at.pidFile);
    }
  }

  /** True when it is to be ended with the worker's lease: another worker can reach one of its disks. */
  get needsLease(): boolean {
    return needsLease(this.#record.spec) || (this.#record.run !== undefined && needsLease(this.#record.run.plugged));
  }

  /** Ends what waits for a guest, or has a guest that is another worker's by now; says so in the record. */
  async endAs(end: NonNullable<VmRecord["end"]>): Promise<void> {
    const live = this.#live;
    if (!live) return;
    live.expected = end.reason;
    if (end.state === "failed") live.failure = end.reason;
    await live.qemu.monitor.execute("quit").catch(() => {});
    if (!await this.within(live.over, quitTimeoutMs)) {
      await live.qemu.kill();
      await live.over;
    }
  }

  /** Gives a plugged volume of this worker its new size. */
  async growPlugged(device: string, bytes: number): Promise<void> {
    const monitor = this.monitor("grow a disk of");
    const now = await attachedNode(monitor, device);
    if (now && now.bytes < bytes) await resize(monitor, now.node, bytes);
  }

  /** Finds the QEMU of a power-on that an earlier agent began; also tells whether one that was silent answers now. */
  async adopt(): Promise<void> {
    const { run, desired } = this.#record;
    if (run === undefined || this.#live || this.#ending) return;
    const files = slotFiles(this.#deps.runDir, run.slot);
    let qemu: Engine | undefined;
    try {
      qemu = await adoptEngine(files.qmpSocket, files.pidFile, this.#deps);
      const { status } = await qemu.monitor.execute<{ status: string }>("query-status");
      const plugged = await readPlugged(qemu.monitor);
      for (const { volumeId } of localVolumes(run.plugged)) this.#deps.volumes.adopted(this.spec.vmId, volumeId);
      // An agent that died between starting QEMU and the guest's first instruction. One that moves is left to its migration.
      const moving = this.#record.migration !== undefined && !isOver(this.#record.migration.phase);
      const held = (status === "prelaunch" || status === "paused") && desired === "running" && !moving;
      if (held) await qemu.monitor.execute("cont");
      this.#attach(qemu, held ? { kind: "running" } : runStateOf(status), plugged);
      this.#unknown = undefined;
    } catch (error) {
      await qemu?.release();
      // Nothing less proves that it is gone: a second QEMU on the same disk must never be.
      if (error instanceof Fault && error.code === "qmp_absent") {
        await this.#ended(
          desired === "stopped" ? { state: "stopped", reason: "" } : { state: "failed", reason: this.#goneReason },
        );
      } else {
        this.#unknown = `QEMU's monitor does not answer: ${reasonOf(error)}`;
      }
    }
  }

  /** Lets go of QEMU and leaves it running. */
  async release(): Promise<void> {
    const live = this.#live;
    this.#live = undefined;
    await live?.qemu.release();
    await this.serial.close();
    await this.#saving;
  }

  /** Refuses a spec whose disks could not be opened; changes nothing. */
  #checkDisks(spec: VmSpec): void {
    const known = this.#record.writerEpoch ?? 0;
    if (!this.#live && spec.writerEpoch < known) throw staleEpoch(`the disks of ${spec.vmId}`, spec.writerEpoch, known);
    if (this.#live && spec.rootEpoch > (this.#record.rootEpoch ?? 0)) {
      throw fault(
        "failed_precondition",
        "vm_running",
        `Cannot make the root disk of ${spec.vmId} anew while it is on: wanted it stopped`,
      );
    }
    for (const volume of localVolumes(spec)) {
      this.#deps.volumes.check(spec.vmId, volume, Math.max(known, spec.writerEpoch));
    }
  }

  #requireLease(spec: VmSpec): void {
    if (this.#deps.leaseHeld() || !needsLease(spec)) return;
    throw fault(
      "unavailable",
      "lease_lost",
      `Cannot start ${spec.vmId} as this worker has lost its lease: wanted one that is renewed`,
      { retryAfterMs: 1_000 },
    );
  }

  #refuseMoving(action: string): void {
    const { migration } = this.#record;
    if (!migration || (isOver(migration.phase) && !(migration.role === "source" && migration.phase === "completed"))) {
      return;
    }
    const over = migration.phase === "completed";
    throw fault(
      "failed_precondition",
      over ? "vm_moved" : "vm_migrating",
      over
        ? `Cannot ${action} ${this.spec.vmId} as it has moved to another worker: wanted it deleted here`
        : `Cannot ${action} ${this.spec.vmId} while it migrates: wanted migration ${migration.id} over`,
    );
  }

  async #claimVolumes(spec: VmSpec): Promise<void> {
    const epoch = Math.max(this.#record.writerEpoch ?? 0, spec.writerEpoch);
    for (const volume of localVolumes(spec)) await this.#deps.volumes.claim(spec.vmId, volume, epoch);
  }

  async #apply(live: Live, spec: VmSpec): Promise<void> {
    const { run } = this.#record;
    if (!run) throw this.unresponsive("change");
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
    if (this.#record.restoring !== undefined) await this.#deps.finishRestore(this, this.#record.restoring);
    const known = this.#record.rootEpoch;
    if (known !== undefined && known < spec.rootEpoch) await removeAll(rootPath(this.dir));
    await this.powerOn(spec, { layout: layoutFor(spec, this.#deps.host), incoming: false, blankRootBytes: undefined });
    const live = this.#live;
    if (!live) throw this.unresponsive("start");
    await live.qemu.monitor.execute("cont");
    live.runState = { kind: "running" };
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
      writerEpoch: Math.max(this.#record.writerEpoch ?? 0, spec.writerEpoch),
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
    const runAs = await deps.user.forVm(
      slot,
      [at.dir, ...provisions.own],
      kernel ? [kernel.kernel, kernel.initrd] : [],
    );
    this.#requireLease(spec);
    const args = qemuArgs(spec, options.layout, filesOf(at, this.dir, provisions), deps.host, options);
    const qemu = await startEngine("qemu-system-x86_64", args, { qmpSocket: at.qmpSocket, runAs }, deps);
    const live = this.#attach(qemu, { kind: "paused", reason: "starting" }, await readPlugged(qemu.monitor));
    if (deps.leaseHeld() || !needsLease(spec)) return;
    live.failure = "ended as the worker lost its lease";
    await qemu.kill();
    this.#requireLease(spec);
  }

  #attach(qemu: Engine, runState: RunState, plugged: Plugged): Live {
    const over = Promise.withResolvers<void>();
    const live: Live = {
      qemu,
      runState,
      plugged,
      over: over.promise,
      expected: undefined,
      failure: undefined,
      rebooting: undefined,
    };
    this.#live = live;
    qemu.monitor.onEvent((event) => {
      if (event.name === "RESUME") live.runState = { kind: "running" };
      // A signal to QEMU is no power-off of the guest: its end is a failure like any other.
      if (event.name === "SHUTDOWN" && event.data.guest === true) this.#onOff(live);
      if (event.name === "STOP" && live.runState.kind === "running") {
        live.runState = { kind: "paused", reason: "QEMU stopped the guest" };
        this.#lookAt(live);
      }
    });
    qemu.monitor.closed.then(() => this.#onGone(live)).catch((error) => {
      this.#deps.log.error("end of a VM not recorded", { vm: this.spec.vmId, error });
    }).finally(over.resolve);
    if (runState.kind === "off") this.#onOff(live);
    return live;
  }

  /** The guest has powered off; QEMU stays until told, so that nobody misses it. */
  #onOff(live: Live): void {
    live.runState = { kind: "off" };
    if (live.rebooting) return live.rebooting();
    live.expected ??= this.#record.desired === "stopped" ? "" : "the guest powered off";
    live.qemu.monitor.execute("quit").catch(() => {});
  }

  #lookAt(live: Live): void {
    live.qemu.monitor.execute<{ status: string }>("query-status").then(({ status }) => {
      if (live.runState.kind === "paused") live.runState = runStateOf(status);
    }).catch(() => {});
  }

  async #onGone(live: Live): Promise<void> {
    if (this.#live !== live) return;
    const how = live.qemu.exited && await this.first(live.qemu.exited, quitTimeoutMs);
    await live.qemu.release();
    if (this.#live !== live) return;
    this.#live = undefined;
    if (how === undefined && live.expected === undefined) {
      // A lost connection is no proof of its end.
      this.#goneReason = live.failure ?? "QEMU ended unexpectedly";
      await this.adopt();
      return;
    }
    const end = live.failure !== undefined
      ? { state: "failed" as const, reason: live.failure }
      : live.expected === undefined
      ? { state: "failed" as const, reason: `QEMU ended with ${how}` }
      : { state: "stopped" as const, reason: live.expected };
    await this.#ended(end);
  }

  /** Records the end of a power-on, or of the attempt at one. */
  async #ended(end: NonNullable<VmRecord["end"]>): Promise<void> {
    const live = this.#live;
    this.#live = undefined;
    this.#ending = true;
    try {
      if (live) {
        live.expected ??= end.reason;
        await live.qemu.monitor.execute("quit").catch(() => {});
        await live.qemu.release();
      }
      await this.#forget(end);
    } finally {
      this.#ending = false;
    }
    this.#deps.log.info("VM ended", { vm: this.spec.vmId, state: end.state, reason: end.reason });
  }

  async #forget(end: NonNullable<VmRecord["end"]>): Promise<void> {
    const slot = this.#record.run?.slot;
    if (slot !== undefined) {
      await removeAll(slotFiles(this.#deps.runDir, slot).dir);
      this.#deps.slots.release(slot);
    }
    await this.serial.close();
    this.#deps.volumes.keepOnly(this.spec.vmId, []);
    const { migration } = this.#record;
    const cut = migration && !isOver(migration.phase) && migration.phase !== "completed";
    await this.save({
      run: undefined,
      end,
      ...(cut ? { migration: { ...migration, phase: "failed", reason: end.reason } } : {}),
    });
  }

  /** Waits for a power-off that is under way. */
  async #settle(): Promise<void> {
    if (this.#live?.runState.kind === "off") await this.within(this.#live.over, quitTimeoutMs);
  }

  async #pressPower(graceMs: number, done: (live: Live) => Promise<void>): Promise<void> {
    const live = this.#live;
    if (!live) return;
    const deadline = this.#deps.clock.monotonicMs() + graceMs;
    const finished = done(live);
    for (let left = graceMs; left > 0; left = deadline - this.#deps.clock.monotonicMs()) {
      await live.qemu.monitor.execute("system_powerdown", undefined, { timeoutMs: monitorTimeoutMs }).catch(() => {});
      if (await this.within(finished, Math.min(left, powerButtonEveryMs))) return;
    }
  }

  /** Pulls the plug and waits until the record says so. */
  async #quit(action: string): Promise<void> {
    if (!this.#live && this.#record.run) await this.adopt();
    const live = this.#live;
    if (!live) {
      if (this.#record.run) throw this.unresponsive(action);
      return;
    }
    live.expected ??= "";
    await live.qemu.monitor.execute("quit").catch(() => {});
    if (await this.within(live.over, quitTimeoutMs)) return;
    await live.qemu.kill();
    if (!(await this.within(live.over, quitTimeoutMs))) throw this.unresponsive(action);
  }

  /** True when `work` ends within the time. */
  async within(work: Promise<unknown>, ms: number): Promise<boolean> {
    return await this.first(work.then(() => true as const), ms) ?? false;
  }

  /** What `work` answers; undefined when it takes longer. */
  async first<T>(work: Promise<T>, ms: number): Promise<T | undefined> {
    const stop = new AbortController();
    const late = this.#deps.clock.sleep(ms, stop.signal).then(() => undefined, () => undefined);
    try {
      return await Promise.race([work, late]);
    } finally {
      stop.abort();
    }
  }

  unresponsive(action: string): Fault {
    return fault(
      "unavailable",
      "qemu_unresponsive",
      `Cannot ${action} ${this.spec.vmId} as its QEMU does not answer`,
      { retryAfterMs: 5_000 },
    );
  }

  /** The record in memory changes at once; writes follow one another. */
  save(change: Partial<VmRecord>): Promise<void> {
    const record = { ...this.#record, ...change };
    this.#record = record;
    this.#kept = true;
    this.#saving = this.#saving.catch(() => {}).then(() => this.#deps.records.put(record));
    return this.#saving;
  }

  /** Where the migration it takes part in is. */
  async saveMigration(migration: MigrationRecord): Promise<void> {
    await this.save({ migration });
  }
}

export function reasonOf(error: unknown): string {
  return error instanceof Fault ? error.message : "an internal error, see the agent's log";
}
