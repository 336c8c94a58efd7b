import { type Clock, Fault, fault, utf8 } from "@ultracloud/base";
import type { Logger } from "@ultracloud/observe";
import { ConsoleLog } from "./console_log.ts";
import { ensureDisk } from "./disks.ts";
import { type Host, qemuArgs, vcpusOn, type VmFiles } from "./domain/argv.ts";
import { writeIso } from "./domain/iso.ts";
import { seedFiles } from "./domain/seed.ts";
import { checkGeneration, type VmSpec } from "./domain/spec.ts";
import { type RunState, runStateOf, type VmView } from "./domain/state.ts";
import { removeAll } from "./files.ts";
import type { ImageCache } from "./images.ts";
import { adoptQemu, monitorTimeoutMs, type Qemu, startQemu } from "./qemu.ts";
import type { RecordStore, VmRecord } from "./records.ts";
import { slotFiles, type Slots } from "./slots.ts";

/** A guest that is still booting misses a press of the power button, so it is pressed again. */
const powerButtonEveryMs = 2_000;
const rebootGraceMs = 20_000;
/** QEMU's own way from `quit` to its end: it flushes its disks. */
const quitTimeoutMs = 15_000;

export interface MachineDeps {
  readonly host: Host;
  readonly runDir: string;
  readonly consoleBytesMax: number;
  readonly clock: Clock;
  readonly log: Logger;
  readonly records: RecordStore;
  readonly images: ImageCache;
  readonly slots: Slots;
}

interface Live {
  readonly qemu: Qemu;
  runState: RunState;
  /** Resolves once the end of the process stands in the record. */
  readonly over: Promise<void>;
  /** Said by whoever ends it, so that its end is no failure. */
  expected: string | undefined;
  rebooting: (() => void) | undefined;
}

/** One VM on this worker. Its methods but `view` are for one caller at a time: see `Lock`. */
export class Machine {
  readonly console: ConsoleLog;
  readonly #deps: MachineDeps;
  #record: VmRecord;
  #live: Live | undefined;
  #phase: "starting" | "stopping" | undefined;
  #unknown: string | undefined;
  /** Said when a QEMU turns out to be gone. */
  #goneReason = "QEMU ended while no agent watched it";
  #saving: Promise<void> = Promise.resolve();
  /** True while the end of a power-on is being recorded: whoever looks for a QEMU meanwhile finds none. */
  #ending = false;

  constructor(record: VmRecord, deps: MachineDeps) {
    this.#record = record;
    this.#deps = deps;
    this.console = new ConsoleLog({ dir: this.#dir, bytesMax: deps.consoleBytesMax });
  }

  get spec(): VmSpec {
    return this.#record.spec;
  }

  /** True while a QEMU runs or may run. */
  get isOn(): boolean {
    return this.#record.run !== undefined;
  }

  view(): VmView {
    const { spec, run, end } = this.#record;
    const base = { vmId: spec.vmId, generation: spec.generation, pid: this.#live?.qemu.pid ?? 0 };
    const startedAtMs = run?.startedAtMs;
    if (this.#phase) return { ...base, state: this.#phase, reason: "", startedAtMs };
    if (this.#live) {
      const { runState } = this.#live;
      if (runState.kind === "paused") return { ...base, state: "paused", reason: runState.reason, startedAtMs };
      if (runState.kind === "off") return { ...base, state: "stopping", reason: "", startedAtMs };
      return { ...base, state: "running", reason: this.#shortfall(), startedAtMs };
    }
    if (run && this.#ending) return { ...base, state: "stopping", reason: "", startedAtMs };
    if (run) return { ...base, state: "unknown", reason: this.#unknown ?? "not yet looked at", startedAtMs };
    if (end) return { ...base, state: end.state, reason: end.reason, startedAtMs: undefined };
    return { ...base, state: "pending", reason: "", startedAtMs: undefined };
  }

  /** Makes the VM run with this spec; one that runs keeps its hardware until its next start. */
  async ensure(spec: VmSpec): Promise<void> {
    checkGeneration(this.#record.spec.generation, spec.generation, spec.vmId);
    await this.#settle();
    if (this.#record.run && !this.#live) throw this.#unresponsive("start");
    await this.#save({ ...this.#record, spec, desired: "running" });
    if (this.#live) {
      if (this.#live.runState.kind === "paused") await this.#live.qemu.monitor.execute("cont");
      return;
    }
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

  async stop(options: { readonly force: boolean; readonly graceMs: number }): Promise<void> {
    await this.#settle();
    await this.#save({ ...this.#record, desired: "stopped" });
    if (this.#record.run === undefined) {
      await this.#save({ ...this.#record, end: { state: "stopped", reason: "" } });
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
    const live = this.#live;
    if (!live) {
      if (this.#record.run) throw this.#unresponsive("reboot");
      throw fault("failed_precondition", "vm_not_running", `Cannot reboot ${this.spec.vmId} as it does not run`);
    }
    const off = Promise.withResolvers<void>();
    live.rebooting = off.resolve;
    try {
      await this.#pressPower(rebootGraceMs, () => Promise.race([off.promise, live.over]));
      if (this.#live !== live) throw this.#unresponsive("reboot");
      await live.qemu.monitor.execute("system_reset");
      await live.qemu.monitor.execute("cont");
      live.runState = { kind: "running" };
    } finally {
      live.rebooting = undefined;
    }
    const run = this.#record.run;
    if (run) await this.#save({ ...this.#record, run: { ...run, startedAtMs: this.#deps.clock.nowMs() } });
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
    await this.#deps.records.remove(this.spec.vmId);
  }

  /** Finds the QEMU of a power-on that an earlier agent began; also tells whether one that was silent answers now. */
  async adopt(): Promise<void> {
    const { run, desired } = this.#record;
    if (run === undefined || this.#live || this.#ending) return;
    const files = slotFiles(this.#deps.runDir, run.slot);
    let qemu: Qemu | undefined;
    try {
      qemu = await adoptQemu(files.qmpSocket, files.pidFile, this.#deps);
      const { status } = await qemu.monitor.execute<{ status: string }>("query-status");
      // An agent that died between starting QEMU and the guest's first instruction.
      const held = status === "prelaunch" || status === "paused";
      if (held && desired === "running") await qemu.monitor.execute("cont");
      this.#attach(qemu, held && desired === "running" ? { kind: "running" } : runStateOf(status));
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
    await this.#saving;
  }

  get #dir(): string {
    return this.#deps.records.dirOf(this.#record.spec.vmId);
  }

  async #start(spec: VmSpec): Promise<void> {
    const deps = this.#deps;
    const image = await deps.images.ensure(spec.image);
    const diskPath = `${this.#dir}/disk.qcow2`;
    const bundle = image.kind === "bundle" ? image : undefined;
    const hasDisk = bundle === undefined || spec.diskBytes > 0;
    if (hasDisk) {
      const source = image.kind === "disk" && spec.image.format !== "kernel_bundle"
        ? { path: image.path, format: spec.image.format }
        : undefined;
      await ensureDisk(diskPath, { bytes: spec.diskBytes, image: source });
    }
    const seed = `${this.#dir}/seed.iso`;
    const seedParts = seedFiles(spec).map((file) => ({ name: file.name, data: utf8.encode(file.text) }));
    await Deno.writeFile(seed, writeIso("cidata", seedParts), { mode: 0o600 });
    const slot = deps.slots.take();
    // Before QEMU starts: whoever comes after a crash knows where to look.
    await this.#save({ ...this.#record, run: { slot, startedAtMs: deps.clock.nowMs() }, end: undefined });
    const at = slotFiles(deps.runDir, slot);
    await Deno.mkdir(at.dir, { recursive: true, mode: 0o700 });
    const files: VmFiles = {
      qmpSocket: at.qmpSocket,
      serialSocket: at.serialSocket,
      pidFile: at.pidFile,
      consoleLog: this.console.path,
      seed,
      disk: hasDisk ? diskPath : undefined,
      kernel: bundle,
    };
    const qemu = await startQemu(qemuArgs(spec, files, deps.host), at.qmpSocket, deps);
    const live = this.#attach(qemu, { kind: "paused", reason: "starting" });
    await qemu.monitor.execute("cont");
    live.runState = { kind: "running" };
  }

  #attach(qemu: Qemu, runState: RunState): Live {
    const over = Promise.withResolvers<void>();
    const live: Live = { qemu, runState, over: over.promise, expected: undefined, rebooting: undefined };
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
    const how = live.qemu.exited && await this.#first(live.qemu.exited, quitTimeoutMs);
    await live.qemu.release();
    if (this.#live !== live) return;
    this.#live = undefined;
    if (how === undefined && live.expected === undefined) {
      // A lost connection is no proof of its end.
      this.#goneReason = "QEMU ended unexpectedly";
      await this.adopt();
      return;
    }
    const end = live.expected === undefined
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
    await this.#save({ ...this.#record, run: undefined, end });
  }

  /** Waits for a power-off that is under way. */
  async #settle(): Promise<void> {
    if (this.#live?.runState.kind === "off") await this.#within(this.#live.over, quitTimeoutMs);
  }

  async #pressPower(graceMs: number, done: (live: Live) => Promise<void>): Promise<void> {
    const live = this.#live;
    if (!live) return;
    const deadline = this.#deps.clock.monotonicMs() + graceMs;
    const finished = done(live);
    for (let left = graceMs; left > 0; left = deadline - this.#deps.clock.monotonicMs()) {
      await live.qemu.monitor.execute("system_powerdown", undefined, { timeoutMs: monitorTimeoutMs }).catch(() => {});
      if (await this.#within(finished, Math.min(left, powerButtonEveryMs))) return;
    }
  }

  /** Pulls the plug and waits until the record says so. */
  async #quit(action: string): Promise<void> {
    if (!this.#live && this.#record.run) await this.adopt();
    const live = this.#live;
    if (!live) {
      if (this.#record.run) throw this.#unresponsive(action);
      return;
    }
    live.expected ??= "";
    await live.qemu.monitor.execute("quit").catch(() => {});
    if (await this.#within(live.over, quitTimeoutMs)) return;
    if (!live.qemu.kill() || !(await this.#within(live.over, quitTimeoutMs))) throw this.#unresponsive(action);
  }

  /** True when `work` ends within the time. */
  async #within(work: Promise<unknown>, ms: number): Promise<boolean> {
    return await this.#first(work.then(() => true as const), ms) ?? false;
  }

  /** What `work` answers; undefined when it takes longer. */
  async #first<T>(work: Promise<T>, ms: number): Promise<T | undefined> {
    const stop = new AbortController();
    const late = this.#deps.clock.sleep(ms, stop.signal).then(() => undefined, () => undefined);
    try {
      return await Promise.race([work, late]);
    } finally {
      stop.abort();
    }
  }

  #unresponsive(action: string): Fault {
    return fault(
      "unavailable",
      "qemu_unresponsive",
      `Cannot ${action} ${this.spec.vmId} as its QEMU does not answer`,
      { retryAfterMs: 5_000 },
    );
  }

  #shortfall(): string {
    const given = vcpusOn(this.#deps.host, this.spec.vcpus);
    return given === this.spec.vcpus
      ? ""
      : `runs on ${given} of ${this.spec.vcpus} vCPUs, as QEMU ${this.#deps.host.qemuMajor} under TCG boots no more`;
  }

  /** The record in memory changes at once; writes follow one another. */
  #save(record: VmRecord): Promise<void> {
    this.#record = record;
    this.#saving = this.#saving.catch(() => {}).then(() => this.#deps.records.put(record));
    return this.#saving;
  }
}

function reasonOf(error: unknown): string {
  return error instanceof Fault ? error.message : "an internal error, see the agent's log";
}
