import { Fault } from "@ultracloud/base";
import { type Plugged, readPlugged } from "./devices.ts";
import { isOver } from "./domain/migration.ts";
import { localVolumes } from "./domain/spec_parts.ts";
import { type RunState, runStateOf } from "./domain/state.ts";
import { removeAll } from "./files.ts";
import { reasonOf, unresponsive } from "./machine_checks.ts";
import type { Live } from "./machine_deps.ts";
import type { MachineRecord } from "./machine_record.ts";
import { adoptEngine, type Engine, killByPidFile, monitorTimeoutMs } from "./qemu.ts";
import type { VmRecord } from "./records.ts";
import type { SerialWriter } from "./serial_writer.ts";
import { slotFiles } from "./slots.ts";
import { first, within } from "./waiting.ts";

/** A guest that is still booting misses a press of the power button, so it is pressed again. */
const powerButtonEveryMs = 2_000;
/** QEMU's own way from `quit` to its end: it flushes its disks. */
export const quitTimeoutMs = 15_000;

/** The QEMU of one VM, from its start or adoption to its end: what it tells is noted, how it ended stands in the record. */
export class QemuLife {
  readonly #vm: MachineRecord;
  readonly #serial: SerialWriter;
  #unknown: string | undefined;
  /** Said when a QEMU turns out to be gone. */
  #goneReason = "QEMU ended while no agent watched it";
  /** True while the end of a power-on is being recorded: whoever looks for a QEMU meanwhile finds none. */
  #ending = false;

  constructor(vm: MachineRecord, deps: { readonly serial: SerialWriter }) {
    this.#vm = vm;
    this.#serial = deps.serial;
  }

  /** Why a QEMU that may run is not known to. */
  get unknown(): string | undefined {
    return this.#unknown;
  }

  /** True while the end of a power-on is being recorded. */
  get ending(): boolean {
    return this.#ending;
  }

  /** Looks after a QEMU from now on. */
  attach(qemu: Engine, runState: RunState, plugged: Plugged): Live {
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
    this.#vm.live = live;
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
      this.#vm.deps.log.error("end of a VM not recorded", { vm: this.#vm.spec.vmId, error });
    }).finally(over.resolve);
    if (runState.kind === "off") this.#onOff(live);
    return live;
  }

  /** Finds the QEMU of a power-on that an earlier agent began; also tells whether one that was silent answers now. */
  async adopt(): Promise<void> {
    const vm = this.#vm;
    const { run, desired, migration } = vm.now;
    if (run === undefined || vm.live || this.#ending) return;
    const files = slotFiles(vm.deps.runDir, run.slot);
    let qemu: Engine | undefined;
    try {
      qemu = await adoptEngine(files.qmpSocket, files.pidFile, vm.deps);
      const { status } = await qemu.monitor.execute<{ status: string }>("query-status");
      const plugged = await readPlugged(qemu.monitor);
      for (const { volumeId } of localVolumes(run.plugged)) vm.deps.volumes.adopted(vm.spec.vmId, volumeId);
      // An agent that died between starting QEMU and the guest's first instruction. One that moves is left to its migration.
      const moving = migration !== undefined && !isOver(migration.phase);
      const held = (status === "prelaunch" || status === "paused") && desired === "running" && !moving;
      if (held) await qemu.monitor.execute("cont");
      this.attach(qemu, held ? { kind: "running" } : runStateOf(status), plugged);
      this.#unknown = undefined;
    } catch (error) {
      await qemu?.release();
      // Nothing less proves that it is gone: a second QEMU on the same disk must never be.
      if (error instanceof Fault && error.code === "qmp_absent") {
        await this.ended(
          desired === "stopped" ? { state: "stopped", reason: "" } : { state: "failed", reason: this.#goneReason },
        );
      } else {
        this.#unknown = `QEMU's monitor does not answer: ${reasonOf(error)}`;
      }
    }
  }

  /** Ends the QEMU at once, whatever else goes on: another worker may start this VM soon. */
  async fence(reason: string): Promise<void> {
    const { live, at, deps } = this.#vm;
    if (live) {
      live.failure ??= reason;
      await live.qemu.kill();
    } else if (at) {
      this.#goneReason = reason;
      await killByPidFile(at.pidFile, deps);
    }
  }

  /** Ends what waits for a guest, or has a guest that is another worker's by now; says so in the record. */
  async endAs(end: NonNullable<VmRecord["end"]>): Promise<void> {
    const { live } = this.#vm;
    if (!live) return;
    live.expected = end.reason;
    if (end.state === "failed") live.failure = end.reason;
    await live.qemu.monitor.execute("quit").catch(() => {});
    if (!await this.#within(live.over, quitTimeoutMs)) {
      await live.qemu.kill();
      await live.over;
    }
  }

  /** Waits for a power-off that is under way. */
  async settle(): Promise<void> {
    const { live } = this.#vm;
    if (live?.runState.kind === "off") await this.#within(live.over, quitTimeoutMs);
  }

  /** Asks the guest to power off until `done` or the time is over. */
  async pressPower(graceMs: number, done: (live: Live) => Promise<void>): Promise<void> {
    const { live, deps } = this.#vm;
    if (!live) return;
    const deadline = deps.clock.monotonicMs() + graceMs;
    const finished = done(live);
    for (let left = graceMs; left > 0; left = deadline - deps.clock.monotonicMs()) {
      await live.qemu.monitor.execute("system_powerdown", undefined, { timeoutMs: monitorTimeoutMs }).catch(() => {});
      if (await this.#within(finished, Math.min(left, powerButtonEveryMs))) return;
    }
  }

  /** Pulls the plug and waits until the record says so. */
  async quit(action: string): Promise<void> {
    const vm = this.#vm;
    if (!vm.live && vm.now.run) await this.adopt();
    const { live } = vm;
    if (!live) {
      if (vm.now.run) throw unresponsive(vm.spec.vmId, action);
      return;
    }
    live.expected ??= "";
    await live.qemu.monitor.execute("quit").catch(() => {});
    if (await this.#within(live.over, quitTimeoutMs)) return;
    await live.qemu.kill();
    if (!(await this.#within(live.over, quitTimeoutMs))) throw unresponsive(vm.spec.vmId, action);
  }

  /** Records the end of a power-on, or of the attempt at one. */
  async ended(end: NonNullable<VmRecord["end"]>): Promise<void> {
    const vm = this.#vm;
    const { live } = vm;
    vm.live = undefined;
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
    vm.deps.log.info("VM ended", { vm: vm.spec.vmId, state: end.state, reason: end.reason });
  }

  /** Lets go of QEMU and leaves it running. */
  async release(): Promise<void> {
    const { live } = this.#vm;
    this.#vm.live = undefined;
    await live?.qemu.release();
    await this.#serial.close();
    await this.#vm.saved();
  }

  /** The guest has powered off; QEMU stays until told, so that nobody misses it. */
  #onOff(live: Live): void {
    live.runState = { kind: "off" };
    if (live.rebooting) return live.rebooting();
    live.expected ??= this.#vm.now.desired === "stopped" ? "" : "the guest powered off";
    live.qemu.monitor.execute("quit").catch(() => {});
  }

  #lookAt(live: Live): void {
    live.qemu.monitor.execute<{ status: string }>("query-status").then(({ status }) => {
      if (live.runState.kind === "paused") live.runState = runStateOf(status);
    }).catch(() => {});
  }

  async #onGone(live: Live): Promise<void> {
    const vm = this.#vm;
    if (vm.live !== live) return;
    const how = live.qemu.exited && await first(vm.deps.clock, live.qemu.exited, quitTimeoutMs);
    await live.qemu.release();
    if (vm.live !== live) return;
    vm.live = undefined;
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
    await this.ended(end);
  }

  async #forget(end: NonNullable<VmRecord["end"]>): Promise<void> {
    const { now, deps, spec } = this.#vm;
    const slot = now.run?.slot;
    if (slot !== undefined) {
      await removeAll(slotFiles(deps.runDir, slot).dir);
      deps.slots.release(slot);
    }
    await this.#serial.close();
    deps.volumes.keepOnly(spec.vmId, []);
    const { migration } = this.#vm.now;
    const cut = migration && !isOver(migration.phase);
    await this.#vm.save({
      run: undefined,
      end,
      ...(cut ? { migration: { ...migration, phase: "failed", reason: end.reason } } : {}),
    });
  }

  #within(work: Promise<unknown>, ms: number): Promise<boolean> {
    return within(this.#vm.deps.clock, work, ms);
  }
}
