import { type Clock, Fault, fault } from "@ultracloud/base";
import type { Logger, Registry } from "@ultracloud/observe";
import type { Host } from "./domain/argv.ts";
import type { Endpoints, MigrationView } from "./domain/migration.ts";
import { checkSpec, checkVmId, type VmSpec } from "./domain/spec.ts";
import type { VmView } from "./domain/state.ts";
import { Disks } from "./disks.ts";
import { removeAll } from "./files.ts";
import { ImageCache, type ImageReader } from "./images.ts";
import type { HostUser } from "./host_user.ts";
import type { WorkerLease } from "./lease.ts";
import { Lock } from "./lock.ts";
import { Machine } from "./machine.ts";
import type { MachineDeps } from "./machine_deps.ts";
import type { MigrationListen } from "./migration_tls.ts";
import { Migrations } from "./migrations.ts";
import { adoptEngine } from "./qemu.ts";
import { RecordStore } from "./records.ts";
import { slotCount, slotFiles, Slots } from "./slots.ts";
import { Snapshots, type SnapshotView } from "./snapshots.ts";
import { Volumes } from "./volumes.ts";

/** VMs one worker keeps records of, running or not: four for each slot. */
const vmsMax = 4 * slotCount;
const graceMsDefault = 30_000;
const graceMsMax = 600_000;
const consolePollMs = 50;
/** A lease that is lost is looked at this often, as starts may have been under way. */
const leaseLookMsMin = 200;
const leaseLookMs = 5_000;

export interface VmsOptions {
  readonly stateDir: string;
  /** Short: its sockets' paths have at most 107 bytes. */
  readonly runDir: string;
  readonly host: Host;
  readonly consoleBytesMax: number;
  readonly imageCacheBytesMax: number;
  /** How often consoles are trimmed and silent QEMUs are asked again. */
  readonly tickMs: number;
  /** Where guests from other hosts arrive; undefined: only those of workers on this host do. */
  readonly migration?: MigrationListen | undefined;
}

export interface VmsDeps {
  readonly clock: Clock;
  readonly log: Logger;
  readonly registry: Registry;
  readonly readImage: ImageReader;
  readonly user: HostUser;
  readonly lease: WorkerLease;
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
  readonly volumes: Volumes;
  readonly snapshots: Snapshots;
  readonly #migrations: Migrations;
  readonly #slots = new Slots();
  readonly #machineDeps: MachineDeps;
  readonly #entries = new Map<string, Entry>();
  readonly #stop = new AbortController();
  #ticking: Promise<void> = Promise.resolve();
  #fencing: Promise<void> = Promise.resolve();

  constructor(options: VmsOptions, deps: VmsDeps) {
    this.#options = options;
    this.#deps = deps;
    this.#records = new RecordStore({ dir: `${options.stateDir}/vms` });
    this.#images = new ImageCache(
      { dir: `${options.stateDir}/images`, bytesMax: options.imageCacheBytesMax },
      { read: deps.readImage, clock: deps.clock, signal: AbortSignal.any([deps.signal, this.#stop.signal]) },
    );
    const signal = AbortSignal.any([deps.signal, this.#stop.signal]);
    const disks = new Disks(deps);
    this.volumes = new Volumes({ dir: `${options.stateDir}/volumes`, runDir: options.runDir }, {
      ...deps,
      disks,
      images: this.#images,
      growPlugged: async (vmId, volumeId, bytes) => {
        const machine = this.#entries.get(vmId)?.machine;
        const isRoot = machine?.record.run?.plugged.rootVolume?.volumeId === volumeId;
        await machine?.growPlugged(isRoot ? "root" : volumeId, bytes);
      },
    });
    this.snapshots = new Snapshots({ dir: `${options.stateDir}/snapshots` }, { ...deps, disks });
    this.#migrations = new Migrations({ ...deps, volumes: this.volumes, listen: options.migration, signal });
    this.#machineDeps = {
      volumes: this.volumes,
      disks,
      user: deps.user,
      leaseHeld: () => deps.lease.held,
      finishRestore: (machine, snapshotId) => this.snapshots.finishRestore(machine, snapshotId),
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
      this.#entries.set(record.spec.vmId, {
        machine: new Machine(record, this.#machineDeps, { kept: true }),
        lock: new Lock(),
      });
    }
    await this.#endUnowned();
    await this.volumes.open();
    await this.fenceIfLost();
    await Promise.all([...this.#entries.values()].map(({ machine }) => machine.adopt()));
    await this.snapshots.open((vmId) => this.#entries.get(vmId)?.machine);
    for (const { machine } of this.#entries.values()) {
      const { vmId, state, reason } = machine.view();
      this.#deps.log.info("VM found", { vm: vmId, state, reason });
    }
    for (const { machine } of this.#entries.values()) this.#migrations.adopt(machine);
    this.#ticking = this.#tick();
    this.#fencing = this.#watchLease();
  }

  async ensure(spec: VmSpec, options: { readonly applyOnly: boolean } = { applyOnly: false }): Promise<VmView> {
    checkSpec(spec);
    return await this.#made(spec, (machine) => machine.ensure(spec, options));
  }

  async stop(vmId: string, options: { readonly force: boolean; readonly graceMs: number }): Promise<VmView> {
    const graceMs = options.graceMs <= 0 ? graceMsDefault : Math.min(options.graceMs, graceMsMax);
    return await this.#alone(this.#entry(vmId), vmId, (machine) => machine.stop({ force: options.force, graceMs }));
  }

  async reboot(vmId: string): Promise<VmView> {
    return await this.#alone(this.#entry(vmId), vmId, (machine) => machine.reboot());
  }

  async pause(vmId: string): Promise<VmView> {
    return await this.#alone(this.#entry(vmId), vmId, (machine) => machine.pause());
  }

  async resume(vmId: string): Promise<VmView> {
    return await this.#alone(this.#entry(vmId), vmId, (machine) => machine.resume());
  }

  /** The VM itself, for what only reads. */
  machine(vmId: string): Machine {
    return this.#entry(vmId).machine;
  }

  /** Of these devices, or of every disk when there are none named. */
  async createSnapshot(vmId: string, snapshotId: string, devices: readonly string[] = []): Promise<SnapshotView> {
    return await this.#with(vmId, (machine) => this.snapshots.create(machine, snapshotId, devices));
  }

  async restoreSnapshot(vmId: string, snapshotId: string): Promise<VmView> {
    return await this.#alone(this.#entry(vmId), vmId, (machine) => this.snapshots.restore(machine, snapshotId));
  }

  async removeSnapshot(snapshotId: string): Promise<void> {
    await this.snapshots.remove(snapshotId, [...this.#entries.values()].map(({ machine }) => machine));
  }

  async prepareIncoming(spec: VmSpec, options: Parameters<Migrations["prepare"]>[2]): Promise<Endpoints> {
    checkSpec(spec);
    let endpoints: Endpoints | undefined;
    await this.#made(spec, async (machine) => {
      endpoints = await this.#migrations.prepare(machine, spec, options);
    });
    return endpoints!;
  }

  async startMigration(vmId: string, options: Parameters<Migrations["start"]>[1]): Promise<MigrationView> {
    return await this.#with(vmId, (machine) => this.#migrations.start(machine, options));
  }

  migration(vmId: string, id: string): MigrationView {
    return this.#migrations.view(this.#entry(vmId).machine, id);
  }

  /** Not behind the VM's other calls: they are what waits for this. */
  async cancelMigration(vmId: string, id: string): Promise<MigrationView> {
    return await this.#migrations.cancel(this.#entry(vmId).machine, id);
  }

  async finishMigration(vmId: string, id: string): Promise<MigrationView> {
    return await this.#migrations.finish(this.#entry(vmId).machine, id);
  }

  async abortIncoming(vmId: string, id: string): Promise<void> {
    checkVmId(vmId);
    const entry = this.#entries.get(vmId);
    if (!entry) return;
    await entry.lock.run(async () => {
      if (this.#entries.get(vmId) !== entry) return;
      await this.#migrations.abort(entry.machine, id);
      this.#entries.delete(vmId);
    });
  }

  /** Ends the VMs that another worker may start once the lease is over. Answers how many. */
  async fenceIfLost(): Promise<number> {
    const { lease, clock, log } = this.#deps;
    if (lease.held) return 0;
    const began = clock.monotonicMs();
    const lost = [...this.#entries.values()].filter(({ machine }) => machine.isOn && machine.needsLease);
    await Promise.all(lost.map(({ machine }) => machine.fence("ended as the worker lost its lease")));
    if (lost.length > 0) {
      const tookMs = Math.round(clock.monotonicMs() - began);
      log.warn("the lease is lost: VMs ended", { vms: lost.map(({ machine }) => machine.spec.vmId), tookMs });
    }
    return lost.length;
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
    await this.#fencing;
    await this.#migrations.release();
    await this.volumes.release();
    await Promise.all([...this.#entries.values()].map(({ machine }) => machine.release()));
  }

  /** The VM of the spec, made known when it is not; forgotten again when nothing came of it. */
  async #made(spec: VmSpec, work: (machine: Machine) => Promise<void>): Promise<VmView> {
    let entry = this.#entries.get(spec.vmId);
    if (!entry) {
      if (this.#entries.size >= vmsMax) {
        throw fault("resource_exhausted", "too_many_vms", `Cannot keep more than ${vmsMax} VMs on this worker`);
      }
      const record = { version: 1, spec, desired: "running", run: undefined, end: undefined } as const;
      entry = { machine: new Machine(record, this.#machineDeps), lock: new Lock() };
      this.#entries.set(spec.vmId, entry);
    }
    const made = entry;
    try {
      return await this.#alone(made, spec.vmId, work);
    } catch (error) {
      const nothing = !made.machine.isKept && this.#entries.get(spec.vmId) === made;
      if (nothing) this.#entries.delete(spec.vmId);
      throw error;
    }
  }

  async #with<T>(vmId: string, work: (machine: Machine) => Promise<T>): Promise<T> {
    let answer: { readonly value: T } | undefined;
    await this.#alone(this.#entry(vmId), vmId, async (machine) => {
      answer = { value: await work(machine) };
    });
    return answer!.value;
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
        const qemu = await adoptEngine(files.qmpSocket, files.pidFile, this.#deps);
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

  /** Sleeps until the lease would be lost, again and again. */
  async #watchLease(): Promise<void> {
    const { lease, clock } = this.#deps;
    const { signal } = this.#stop;
    while (!signal.aborted) {
      const at = lease.fenceAtMs;
      const pause = new AbortController();
      const stopped = AbortSignal.any([pause.signal, signal]);
      const left = at === undefined ? leaseLookMs : Math.max(at - clock.monotonicMs(), leaseLookMsMin);
      const sleep = clock.sleep(left, stopped).catch(() => {});
      await Promise.race([sleep, lease.change]);
      pause.abort();
      if (!signal.aborted) await this.fenceIfLost();
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
          if (machine.live) this.#migrations.adopt(machine);
        } catch (error) {
          this.#deps.log.warn("VM not looked after", { vm: machine.spec.vmId, error });
        }
      }
      await this.volumes.look().catch((error) => this.#deps.log.warn("volumes not looked after", { error }));
      for (const [state, count] of counts) states.set(count, { state });
      await this.#deps.clock.sleep(this.#options.tickMs, signal).catch(() => {});
    }
  }
}

function notFound(vmId: string): Error {
  return fault("not_found", "vm_not_found", `Cannot find VM ${vmId} on this worker`);
}
