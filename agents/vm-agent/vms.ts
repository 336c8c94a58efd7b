import { type Clock, Fault, fault } from "@ultracloud/base";
import type { Logger, Registry } from "@ultracloud/observe";
import type { Host } from "./domain/argv.ts";
import { checkSpec, checkVmId, type VmSpec } from "./domain/spec.ts";
import type { VmView } from "./domain/state.ts";
import { removeAll } from "./files.ts";
import { ImageCache, type ImageReader } from "./images.ts";
import { Lock } from "./lock.ts";
import { Machine, type MachineDeps } from "./machine.ts";
import { adoptQemu } from "./qemu.ts";
import { RecordStore } from "./records.ts";
import { slotCount, slotFiles, Slots } from "./slots.ts";

/** VMs one worker keeps records of, running or not: four for each slot. */
const vmsMax = 4 * slotCount;
const graceMsDefault = 30_000;
const graceMsMax = 600_000;
const consolePollMs = 50;

export interface VmsOptions {
  readonly stateDir: string;
  /** Short: its sockets' paths have at most 107 bytes. */
  readonly runDir: string;
  readonly host: Host;
  readonly consoleBytesMax: number;
  readonly imageCacheBytesMax: number;
  /** How often consoles are trimmed and silent QEMUs are asked again. */
  readonly tickMs: number;
}

export interface VmsDeps {
  readonly clock: Clock;
  readonly log: Logger;
  readonly registry: Registry;
  readonly readImage: ImageReader;
  readonly signal: AbortSignal;
}

interface Entry {
  readonly machine: Machine;
  readonly lock: Lock;
}

/** All VMs of this worker. Calls for one VM are served one after the other, those for different VMs side by side. */
export class Vms implements AsyncDisposable {
  readonly #options: VmsOptions;
  readonly #deps: VmsDeps;
  readonly #records: RecordStore;
  readonly #images: ImageCache;
  readonly #slots = new Slots();
  readonly #machineDeps: MachineDeps;
  readonly #entries = new Map<string, Entry>();
  readonly #stop = new AbortController();
  #ticking: Promise<void> = Promise.resolve();

  constructor(options: VmsOptions, deps: VmsDeps) {
    this.#options = options;
    this.#deps = deps;
    this.#records = new RecordStore({ dir: `${options.stateDir}/vms` });
    this.#images = new ImageCache(
      { dir: `${options.stateDir}/images`, bytesMax: options.imageCacheBytesMax },
      { read: deps.readImage, clock: deps.clock, signal: AbortSignal.any([deps.signal, this.#stop.signal]) },
    );
    this.#machineDeps = {
      host: options.host,
      runDir: options.runDir,
      consoleBytesMax: options.consoleBytesMax,
      clock: deps.clock,
      log: deps.log,
      records: this.#records,
      images: this.#images,
      slots: this.#slots,
    };
  }

  /** Reads the records and finds the QEMUs that run; call once, before anything else. */
  async open(): Promise<void> {
    const records = await this.#records.load();
    for (const record of records) {
      if (record.run) this.#slots.claim(record.run.slot);
      this.#entries.set(record.spec.vmId, { machine: new Machine(record, this.#machineDeps), lock: new Lock() });
    }
    await this.#endUnowned();
    await Promise.all([...this.#entries.values()].map(({ machine }) => machine.adopt()));
    for (const { machine } of this.#entries.values()) {
      const { vmId, state, reason } = machine.view();
      this.#deps.log.info("VM found", { vm: vmId, state, reason });
    }
    this.#ticking = this.#tick();
  }

  async ensure(spec: VmSpec): Promise<VmView> {
    checkSpec(spec);
    let entry = this.#entries.get(spec.vmId);
    if (!entry) {
      if (this.#entries.size >= vmsMax) {
        throw fault("resource_exhausted", "too_many_vms", `Cannot keep more than ${vmsMax} VMs on this worker`);
      }
      const record = { version: 1, spec, desired: "running", run: undefined, end: undefined } as const;
      entry = { machine: new Machine(record, this.#machineDeps), lock: new Lock() };
      this.#entries.set(spec.vmId, entry);
    }
    return await this.#alone(entry, spec.vmId, (machine) => machine.ensure(spec));
  }

  async stop(vmId: string, options: { readonly force: boolean; readonly graceMs: number }): Promise<VmView> {
    const graceMs = options.graceMs <= 0 ? graceMsDefault : Math.min(options.graceMs, graceMsMax);
    return await this.#alone(this.#entry(vmId), vmId, (machine) => machine.stop({ force: options.force, graceMs }));
  }

  async reboot(vmId: string): Promise<VmView> {
    return await this.#alone(this.#entry(vmId), vmId, (machine) => machine.reboot());
  }

  /** Ends and forgets the VM; one that is not here is gone already. */
  async remove(vmId: string): Promise<void> {
    checkVmId(vmId);
    const entry = this.#entries.get(vmId);
    if (!entry) return;
    await entry.lock.run(async () => {
      if (this.#entries.get(vmId) !== entry) return;
      await entry.machine.remove();
      this.#entries.delete(vmId);
    });
    await this.#images.evict(new Set([...this.#entries.values()].map(({ machine }) => machine.spec.image.sha256)))
      .catch((error) => this.#deps.log.warn("image cache not trimmed", { error }));
  }

  get(vmId: string): VmView {
    return this.#entry(vmId).machine.view();
  }

  list(): VmView[] {
    return [...this.#entries.values()].map(({ machine }) => machine.view())
      .sort((a, b) => (a.vmId < b.vmId ? -1 : 1));
  }

  /** Console bytes from `offset`; waits up to `waitMs` when there are none yet. */
  async readConsole(
    vmId: string,
    options: { readonly offset: number; readonly limit: number; readonly waitMs: number; readonly signal: AbortSignal },
  ): Promise<{ readonly offset: number; readonly data: Uint8Array; readonly nextOffset: number }> {
    const { machine } = this.#entry(vmId);
    const deadline = this.#deps.clock.monotonicMs() + options.waitMs;
    for (;;) {
      const slice = await machine.console.read(options.offset, options.limit);
      if (slice.data.length > 0 || this.#deps.clock.monotonicMs() >= deadline) return slice;
      await this.#deps.clock.sleep(consolePollMs, options.signal);
    }
  }

  /** Lets go of all QEMUs and leaves them running. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort(fault("unavailable", "agent_stopping", "Cannot go on as the agent stops"));
    await this.#ticking;
    await Promise.all([...this.#entries.values()].map(({ machine }) => machine.release()));
  }

  async #alone(entry: Entry, vmId: string, work: (machine: Machine) => Promise<void>): Promise<VmView> {
    return await entry.lock.run(async () => {
      if (this.#entries.get(vmId) !== entry) throw notFound(vmId);
      await work(entry.machine);
      return entry.machine.view();
    });
  }

  #entry(vmId: string): Entry {
    checkVmId(vmId);
    const entry = this.#entries.get(vmId);
    if (!entry) throw notFound(vmId);
    return entry;
  }

  /** Ends QEMUs in slots that no record names: their VM's directory is gone, so nobody could ever use them. */
  async #endUnowned(): Promise<void> {
    await Deno.mkdir(this.#options.runDir, { recursive: true, mode: 0o700 });
    for (let slot = 0; slot < slotCount; slot++) {
      if (this.#slots.has(slot)) continue;
      const files = slotFiles(this.#options.runDir, slot);
      if (!await Deno.stat(files.dir).catch(() => undefined)) continue;
      try {
        const qemu = await adoptQemu(files.qmpSocket, files.pidFile, this.#deps);
        await qemu.monitor.execute("quit").catch(() => {});
        await qemu.release();
        this.#deps.log.warn("ended a QEMU without a record", { slot, pid: qemu.pid });
      } catch (error) {
        if (!(error instanceof Fault && error.code === "qmp_absent")) {
          // Something lives there and does not answer: the slot stays out of use until the next start.
          this.#slots.claim(slot);
          this.#deps.log.warn("a QEMU without a record does not answer", { slot, error });
          continue;
        }
      }
      await removeAll(files.dir);
    }
  }

  async #tick(): Promise<void> {
    const states = this.#deps.registry.gauge("vm_agent_vms", "VMs on this worker by state", ["state"]);
    const seen = new Set<string>();
    const { signal } = this.#stop;
    while (!signal.aborted) {
      const counts = new Map([...seen].map((state) => [state, 0]));
      for (const { machine, lock } of [...this.#entries.values()]) {
        const { state } = machine.view();
        counts.set(state, (counts.get(state) ?? 0) + 1);
        seen.add(state);
        try {
          if (state === "unknown") await lock.run(() => machine.adopt());
          if (machine.isOn) await machine.console.trim();
        } catch (error) {
          this.#deps.log.warn("VM not looked after", { vm: machine.spec.vmId, error });
        }
      }
      for (const [state, count] of counts) states.set(count, { state });
      await this.#deps.clock.sleep(this.#options.tickMs, signal).catch(() => {});
    }
  }
}

function notFound(vmId: string): Error {
  return fault("not_found", "vm_not_found", `Cannot find VM ${vmId} on this worker`);
}
