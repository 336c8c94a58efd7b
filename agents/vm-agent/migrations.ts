import { type Clock, fault } from "@ultracloud/base";
import type { Logger } from "@ultracloud/observe";
import {
  checkEndpoints,
  type Endpoints,
  isOver,
  type MigrationOptions,
  type MigrationProgress,
  type MigrationRecord,
  type MigrationStorage,
  type MigrationView,
  noProgress,
} from "./domain/migration.ts";
import { nodeOf } from "./domain/block.ts";
import type { Layout } from "./domain/layout.ts";
import type { VmSpec } from "./domain/spec.ts";
import { nbdTcpUri, nbdUri } from "./domain/volume_spec.ts";
import type { HostUser } from "./host_user.ts";
import { localVolumes } from "./domain/spec_parts.ts";
import type { Machine } from "./machine.ts";
import { reasonOf, refuseLostWrites } from "./machine_checks.ts";
import { addTlsKey, freshPsk, type MigrationListen, tlsCreds } from "./migration_tls.ts";
import { movedAway, setCapabilities, stepSource } from "./migration_source.ts";
import { stepTarget } from "./migration_target.ts";
import { checkLayout } from "./power_on.ts";
import type { SlotFiles } from "./slots.ts";
import type { Volumes } from "./volumes.ts";
import { within } from "./waiting.ts";

/** How long a step may wait for an event before QEMU is asked anyway. */
const pollMs = 100;
/** How long a target is given to see that its guest has arrived. */
const arrivalMsMax = 2_000;
const deadlineMsDefault = 600_000;
const deadlineMsMax = 24 * 3_600_000;

export interface MigrationsDeps {
  readonly clock: Clock;
  readonly log: Logger;
  readonly volumes: Volumes;
  readonly user: HostUser;
  /** Where guests from other hosts arrive; undefined: only those of workers on this host do. */
  readonly listen: MigrationListen | undefined;
  readonly signal: AbortSignal;
}

/**
 * Migrations of this worker's VMs, from and to it. What a migration is doing stands in its VM's record and in QEMU;
 * here is one loop for each, which looks at both and does what comes next. An agent that adopts the VM starts the
 * same loop and goes on from there.
 */
export class Migrations {
  readonly #deps: MigrationsDeps;
  readonly #loops = new Map<string, Promise<void>>();
  readonly #progress = new Map<string, MigrationProgress>();
  readonly #wake = new Map<string, () => void>();

  constructor(deps: MigrationsDeps) {
    this.#deps = deps;
  }

  /** Carries on with what the VM's record says; does nothing for a VM that does not move. */
  adopt(machine: Machine): void {
    const { migration } = machine.record;
    if (!migration) return;
    if (!isOver(migration.phase)) return this.#begin(machine);
    // An agent that died between the record and the end of the QEMU whose guest has left.
    if (migration.role === "source" && migration.phase === "completed" && machine.live) {
      machine.endAs(movedAway).catch((error) => {
        this.#deps.log.error("a QEMU whose guest has left does not end", { vm: machine.spec.vmId, error });
      });
    }
  }

  /** Starts a QEMU that waits for the guest. The same migration again answers the same endpoints. */
  async prepare(
    machine: Machine,
    spec: VmSpec,
    options: { id: string; storage: MigrationStorage; layout: Layout; deadlineMs: number },
  ): Promise<Endpoints> {
    const { migration: known, run } = machine.record;
    if (known?.id === options.id && known.role === "target" && run && !isOver(known.phase)) return known.endpoints;
    if (run || known) {
      throw fault("already_exists", "vm_exists", `Cannot take in ${spec.vmId} as this worker has it already`);
    }
    checkLayout(options.layout, spec);
    const locals = localVolumes(spec);
    const localRoot = spec.rootVolume === undefined && options.layout.ports.root !== undefined;
    if (options.storage === "shared" && (locals.length > 0 || localRoot)) {
      throw fault(
        "failed_precondition",
        "storage_not_shared",
        `Cannot take in ${spec.vmId} by shared storage as it has a disk of this worker: wanted all by NBD, or MIRROR`,
      );
    }
    const rootBytes = options.layout.sizes.root;
    if (localRoot && !rootBytes) {
      throw fault("failed_precondition", "layout_differs", "Cannot make a root disk as the layout has no size for it");
    }
    const { clock, volumes } = this.#deps;
    const madeVolumes = locals.map((volume) => volume.volumeId).filter((id) => !volumes.has(id));
    const startedAtMs = clock.nowMs();
    const record: MigrationRecord = {
      id: options.id,
      role: "target",
      storage: options.storage,
      phase: "prepared",
      reason: "",
      startedAtMs,
      deadlineAtMs: startedAtMs + deadlineOf(options.deadlineMs),
      endpoints: { stateUri: "", mirrors: [] },
      madeVolumes,
      downtimeMs: 0,
      totalMs: 0,
    };
    // Before anything is made: whoever comes after a crash knows what to remove.
    await machine.save({ spec, desired: "running", migration: record });
    try {
      for (const { volumeId, sizeBytes } of locals) {
        await volumes.create(volumeId, options.layout.sizes[volumeId] ?? sizeBytes, undefined);
      }
      const shape = { layout: options.layout, incoming: true, blankRootBytes: localRoot ? rootBytes : undefined };
      await machine.powerOn(spec, shape);
      const endpoints = await this.#listen(machine, options.storage);
      await machine.saveMigration({ ...machine.record.migration!, endpoints });
      this.#begin(machine);
      return endpoints;
    } catch (error) {
      await machine.endAs({ state: "failed", reason: reasonOf(error) });
      await machine.saveMigration({ ...record, phase: "failed", reason: reasonOf(error) });
      throw error;
    }
  }

  /** Sends the guest; answers at once. The same migration again is no change. */
  async start(
    machine: Machine,
    options: MigrationOptions & {
      id: string;
      storage: MigrationStorage;
      endpoints: Endpoints;
      targetWriterEpoch: number;
      deadlineMs: number;
    },
  ): Promise<MigrationView> {
    const known = machine.record.migration;
    if (known?.id === options.id && known.role === "source") return this.view(machine, options.id);
    if (known && !isOver(known.phase)) {
      throw fault(
        "failed_precondition",
        "vm_migrating",
        `Cannot move ${machine.spec.vmId} as ${known.id} is moving it`,
      );
    }
    await refuseLostWrites(machine.monitor("move"), machine.spec.vmId);
    const mirrored = machine.disks().filter((disk) => disk.source.kind === "file").map((disk) => disk.device);
    checkEndpoints(options.endpoints, options.storage, mirrored);
    const epoch = machine.record.writerEpoch ?? 0;
    if (options.targetWriterEpoch <= epoch) {
      throw fault(
        "failed_precondition",
        "writer_epoch_not_higher",
        `Cannot hand the disks of ${machine.spec.vmId} on in epoch ${options.targetWriterEpoch}: wanted above ${epoch}`,
      );
    }
    const startedAtMs = this.#deps.clock.nowMs();
    const migration: MigrationRecord = {
      id: options.id,
      role: "source",
      storage: options.storage,
      phase: options.storage === "mirror" && mirrored.length > 0 ? "mirroring" : "prepared",
      reason: "",
      startedAtMs,
      deadlineAtMs: startedAtMs + deadlineOf(options.deadlineMs),
      endpoints: options.endpoints,
      options: {
        autoConverge: options.autoConverge,
        bandwidthBytesPerSecond: options.bandwidthBytesPerSecond,
        maxDowntimeMs: options.maxDowntimeMs,
        hold: options.hold,
      },
      targetWriterEpoch: options.targetWriterEpoch,
      downtimeMs: 0,
      totalMs: 0,
    };
    // The epoch with it: nobody starts this VM here with its old one again, and the pause has nothing to write.
    await machine.save({ writerEpoch: options.targetWriterEpoch, migration });
    this.#begin(machine);
    return this.view(machine, options.id);
  }

  view(machine: Machine, id: string): MigrationView {
    const { migration, spec } = machine.record;
    if (migration?.id !== id) throw notFound(id);
    return { vmId: spec.vmId, record: migration, progress: this.#progress.get(spec.vmId) ?? noProgress };
  }

  /** Lets the source keep its guest; answers when it has it for certain. */
  async cancel(machine: Machine, id: string): Promise<MigrationView> {
    const record = this.#source(machine, id, "cancel");
    if (record.phase === "completed" || record.continued) {
      throw fault("failed_precondition", "migration_decided", `Cannot cancel ${id} as the guest is the target's`);
    }
    if (!isOver(record.phase)) {
      await machine.saveMigration({ ...record, cancelled: true });
      await this.#over(machine);
    }
    return this.view(machine, id);
  }

  /** Source: lets a held switchover happen. Target: makes sure that the guest is here. */
  async finish(machine: Machine, id: string): Promise<MigrationView> {
    const { migration } = machine.record;
    if (migration?.id !== id) throw notFound(id);
    if (migration.role === "source" && !isOver(migration.phase)) {
      await machine.saveMigration({ ...migration, released: true });
      await this.#over(machine);
    }
    if (migration.role === "target" && !isOver(migration.phase)) {
      // Its source may know before this side has looked.
      this.#wake.get(machine.spec.vmId)?.();
      await within(this.#deps.clock, this.#loops.get(machine.spec.vmId) ?? Promise.resolve(), arrivalMsMax);
    }
    const view = this.view(machine, id);
    if (view.record.phase === "completed") return view;
    throw fault(
      migration.role === "target" && !isOver(view.record.phase) ? "unavailable" : "failed_precondition",
      "migration_not_completed",
      `Cannot finish ${id} as it is ${view.record.phase}${view.record.reason === "" ? "" : `: ${view.record.reason}`}`,
    );
  }

  /** Ends what `prepare` made; the machine is to be forgotten then. */
  async abort(machine: Machine, id: string): Promise<void> {
    const { migration } = machine.record;
    if (migration?.id !== id || migration.role !== "target") throw notFound(id);
    if (migration.phase === "completed") {
      throw fault("failed_precondition", "migration_decided", `Cannot abort ${id} as the guest runs here`);
    }
    await machine.endAs({ state: "failed", reason: "the migration was aborted" });
    await this.#loops.get(machine.spec.vmId);
    await machine.remove();
    for (const volumeId of migration.madeVolumes ?? []) await this.#deps.volumes.remove(volumeId);
  }

  /** Waits until no loop runs; call after the signal. */
  async release(): Promise<void> {
    for (const wake of this.#wake.values()) wake();
    await Promise.all(this.#loops.values());
  }

  /** Opens the sockets of a QEMU that waits for a guest. */
  async #listen(machine: Machine, storage: MigrationStorage): Promise<Endpoints> {
    const monitor = machine.monitor("take in a guest for");
    const { user } = this.#deps;
    const { slot } = machine.record.run!;
    const at = machine.at!;
    const ways = waysTo(at, slot, this.#deps.listen);
    if (ways.psk !== undefined) await addTlsKey(monitor, at, slot, { psk: ways.psk, endpoint: "server" }, user);
    const tls = ways.psk === undefined ? {} : { "tls-creds": tlsCreds };
    await setCapabilities(monitor, { events: true });
    const mirrors: { device: string; uri: string }[] = [];
    const files = machine.disks().filter((disk) => disk.source.kind === "file");
    if (storage === "mirror" && files.length > 0) {
      await monitor.execute("nbd-server-start", { addr: ways.mirrorAddress, ...tls });
      for (const { device } of files) {
        const name = `mirror-${device}`;
        await monitor.execute("block-export-add", {
          type: "nbd",
          id: name,
          "node-name": nodeOf(device),
          name,
          writable: true,
        });
        mirrors.push({ device, uri: ways.mirrorUri(name) });
      }
      if (ways.psk === undefined) await user.giveGroup(at.mirrorSocket);
    }
    if (ways.psk !== undefined) await monitor.execute("migrate-set-parameters", tls);
    await monitor.execute("migrate-incoming", { uri: ways.stateUri });
    if (ways.psk === undefined) await user.giveGroup(at.migrationSocket);
    return { stateUri: ways.stateUri, mirrors, ...(ways.psk === undefined ? {} : { psk: ways.psk }) };
  }

  #source(machine: Machine, id: string, action: string): MigrationRecord {
    const { migration } = machine.record;
    if (migration?.id !== id) throw notFound(id);
    if (migration.role === "source") return migration;
    throw fault("failed_precondition", "not_the_source", `Cannot ${action} ${id} on its target: wanted its source`);
  }

  /** Waits for the end of the migration, whatever it is. */
  async #over(machine: Machine): Promise<void> {
    this.#wake.get(machine.spec.vmId)?.();
    await this.#loops.get(machine.spec.vmId);
    if (!isOver(machine.record.migration!.phase)) {
      throw fault("unavailable", "agent_stopping", "Cannot wait for the migration as the agent stops");
    }
  }

  #begin(machine: Machine): void {
    const { vmId } = machine.spec;
    if (this.#loops.has(vmId)) return;
    this.#progress.set(vmId, noProgress);
    const loop = this.#run(machine).catch((error) => {
      this.#deps.log.error("a migration is not looked after", { vm: vmId, error });
    }).finally(() => this.#loops.delete(vmId));
    this.#loops.set(vmId, loop);
  }

  async #run(machine: Machine): Promise<void> {
    const { clock, log, signal, user, volumes } = this.#deps;
    const { vmId } = machine.spec;
    const progress = (value: MigrationProgress) => void this.#progress.set(vmId, value);
    const later = (work: Promise<void>) =>
      void work.catch((error) => log.warn("a migration's record or job is left behind", { vm: vmId, error }));
    let paused = false;
    for (let failures = 0; !signal.aborted;) {
      const { migration } = machine.record;
      if (!migration || isOver(migration.phase)) break;
      const event = this.#nextEvent(machine);
      try {
        const step = migration.role === "source" ? stepSource : stepTarget;
        if (machine.live) await step(machine, migration, { clock, volumes, user, progress, paused, later });
        failures = 0;
      } catch (error) {
        // A monitor that is silent for a moment, or gone: the record tells when the VM's end is known.
        if (++failures === 1) log.warn("a step of a migration failed", { vm: vmId, error });
      }
      if (machine.record.migration === migration || failures > 0) {
        const pause = new AbortController();
        const sleep = clock.sleep(pollMs, AbortSignal.any([pause.signal, signal])).catch(() => {});
        await Promise.race([event.happened, sleep]);
        pause.abort();
      }
      event.stop();
      paused = event.status() === undefined ? paused : event.status() === "pre-switchover";
    }
    const { migration } = machine.record;
    if (migration && isOver(migration.phase)) {
      const { id, role, phase, reason, downtimeMs, totalMs } = migration;
      log.info("migration over", { vm: vmId, migration: id, role, phase, reason, downtimeMs, totalMs });
    }
  }

  /** Waits for QEMU to say something of a migration; `status` is the newest it said meanwhile. */
  #nextEvent(machine: Machine): { happened: Promise<void>; status: () => string | undefined; stop: () => void } {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#wake.set(machine.spec.vmId, resolve);
    let status: string | undefined;
    const stop = machine.live?.qemu.monitor.onEvent(({ name, data }) => {
      if (name === "MIGRATION") status = String(data.status);
      const over = name === "JOB_STATUS_CHANGE" && data.status === "concluded";
      if (over || name === "MIGRATION" || name === "BLOCK_JOB_READY") resolve();
    });
    return { happened: promise, status: () => status, stop: () => stop?.() };
  }
}

/** Where a QEMU of the slot listens: on unix sockets, or for other hosts by TCP and TLS. */
function waysTo(at: SlotFiles, slot: number, listen: MigrationListen | undefined) {
  if (listen === undefined) {
    return {
      psk: undefined,
      stateUri: `unix:${at.migrationSocket}`,
      mirrorAddress: { type: "unix", data: { path: at.mirrorSocket } },
      mirrorUri: (name: string) => nbdUri(at.mirrorSocket, name),
    };
  }
  const { address, portFirst } = listen;
  const port = portFirst + 2 * slot;
  return {
    psk: freshPsk(),
    stateUri: `tcp:${address}:${port}`,
    mirrorAddress: { type: "inet", data: { host: address, port: String(port + 1) } },
    mirrorUri: (name: string) => nbdTcpUri(address, port + 1, name),
  };
}

function deadlineOf(ms: number): number {
  return ms <= 0 ? deadlineMsDefault : Math.min(ms, deadlineMsMax);
}

function notFound(id: string): Error {
  return fault("not_found", "migration_not_found", `Cannot find migration ${id} on this worker`);
}
