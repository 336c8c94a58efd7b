import { fault, utf8 } from "@ultracloud/base";
import { VmState } from "@ultracloud/proto/plasmavmc/v1";
import { MigrationPhase, SnapshotState, VmAgentService, type VmSpec } from "@ultracloud/proto/vmagent/v1";
import { bind } from "@ultracloud/rpc";
import { inProcessClient } from "@ultracloud/testing";
import type { AgentClient } from "./workers.ts";

interface AgentVm {
  state: VmState;
  generation: bigint;
  spec: VmSpec;
  /** Set while a migration's target waits for the guest. */
  incoming?: string;
}

interface AgentVolume {
  sizeBytes: bigint;
  epoch: bigint;
  readonly exports: Map<bigint, string>;
}

interface AgentMigration {
  readonly vmId: string;
  readonly peer: FakeAgent | undefined;
  readonly incoming: boolean;
  phase: MigrationPhase;
  progress: number;
}

/** How far a migration gets with every look at it. */
export const progressPerLook = 40;

/**
 * A worker's agent that runs nothing but keeps the contract: generations, writer epochs, exports, snapshots, and
 * migrations to others of its kind. State outlives the control plane's restarts.
 */
export class FakeAgent {
  readonly name: string;
  readonly vms = new Map<string, AgentVm>();
  readonly volumes = new Map<string, AgentVolume>();
  readonly snapshots = new Map<string, { readonly vmId: string; readonly devices: readonly string[] }>();
  readonly migrations = new Map<string, AgentMigration>();
  readonly calls: string[] = [];
  /** Runs before a call is served; throw to fail it. */
  hook: (call: string, signal: AbortSignal) => Promise<void> | void = () => {};
  readonly client: AgentClient;
  readonly #peer: (name: string) => FakeAgent | undefined;

  constructor(name: string, peer: (name: string) => FakeAgent | undefined) {
    this.name = name;
    this.#peer = peer;
    this.client = inProcessClient(VmAgentService, [this.#service()]);
  }

  /** Guests whose processors run here. */
  running(): string[] {
    return [...this.vms].filter(([, vm]) => vm.state === VmState.RUNNING && vm.incoming === undefined).map(([id]) =>
      id
    );
  }

  #vm(vmId: string): AgentVm {
    const vm = this.vms.get(vmId);
    if (!vm) throw fault("not_found", "vm_not_found", `Cannot find VM ${vmId} on this worker`);
    return vm;
  }

  #volume(volumeId: string): AgentVolume {
    const volume = this.volumes.get(volumeId);
    if (!volume) throw fault("not_found", "volume_not_found", `Cannot find volume ${volumeId} on this worker`);
    return volume;
  }

  #view(vmId: string) {
    const vm = this.#vm(vmId);
    return {
      vmId,
      state: vm.incoming === undefined ? vm.state : VmState.MIGRATING,
      generation: vm.generation,
      startedTime: { seconds: 1n, nanos: 0 },
      writerEpoch: vm.spec.writerEpoch,
      attached: vm.spec.volumes.map((v) => v.volumeId),
      ...(vm.state === VmState.RUNNING ? { layout: { machineType: "q35", vcpus: vm.spec.vcpus } } : {}),
    };
  }

  #stamp(volumeId: string, epoch: bigint): void {
    const volume = this.#volume(volumeId);
    if (epoch < volume.epoch) {
      throw fault("aborted", "stale_writer_epoch", `Cannot write ${volumeId} under ${epoch}: it has ${volume.epoch}`);
    }
    volume.epoch = epoch;
  }

  #take(spec: VmSpec): void {
    const present = this.vms.get(spec.vmId);
    if (present && present.generation > spec.generation) throw fault("aborted", "stale_spec", "Cannot go back");
    for (const { volumeId, source } of spec.volumes) {
      if (source.case === "local") this.#stamp(volumeId, spec.writerEpoch);
    }
  }

  #migration(migrationId: string): AgentMigration {
    const found = this.migrations.get(migrationId);
    if (!found) throw fault("not_found", "migration_not_found", `Cannot find migration ${migrationId}`);
    return found;
  }

  #seen(migrationId: string) {
    const { vmId, incoming, phase, progress } = this.#migration(migrationId);
    const times = phase === MigrationPhase.COMPLETED ? { downtimeMs: 1, totalMs: 660n } : {};
    return { migrationId, vmId, incoming, phase, progressPercent: Math.min(100, progress), ...times };
  }

  /** Time passes for a migration: its guest is moved once it has got far enough. */
  #advance(migrationId: string): void {
    const migration = this.#migration(migrationId);
    if (migration.incoming || migration.phase !== MigrationPhase.MEMORY) return;
    migration.progress += progressPerLook;
    if (migration.progress < 100) return;
    const there = migration.peer?.vms.get(migration.vmId);
    const theirs = migration.peer?.migrations.get(migrationId);
    if (there?.incoming !== migrationId || !theirs) {
      migration.phase = MigrationPhase.FAILED;
      return;
    }
    this.#vm(migration.vmId).state = VmState.STOPPED;
    there.state = VmState.RUNNING;
    delete there.incoming;
    migration.phase = MigrationPhase.COMPLETED;
    theirs.phase = MigrationPhase.COMPLETED;
  }

  #service() {
    const enter = async (call: string, signal: AbortSignal) => {
      this.calls.push(call);
      await this.hook(call, signal);
    };
    const open = { public: "a test's agent" };
    const rows = Object.fromEntries(VmAgentService.methods.map((m) => [m.localName, open])) as Record<
      keyof typeof VmAgentService.method,
      typeof open
    >;
    return bind(VmAgentService, {
      ensureVm: async ({ spec, applyOnly }, { signal }) => {
        await enter("ensure", signal);
        this.#take(spec!);
        const present = this.vms.get(spec!.vmId);
        if (applyOnly && !present) throw fault("not_found", "vm_not_found", "Cannot change a VM that is not here");
        const state = applyOnly ? present!.state : VmState.RUNNING;
        this.vms.set(spec!.vmId, { state, generation: spec!.generation, spec: spec! });
        return this.#view(spec!.vmId);
      },
      stopVm: async ({ vmId }, { signal }) => {
        await enter("stop", signal);
        this.#vm(vmId).state = VmState.STOPPED;
        return this.#view(vmId);
      },
      rebootVm: async ({ vmId }, { signal }) => {
        await enter("reboot", signal);
        return this.#view(vmId);
      },
      pauseVm: async ({ vmId }, { signal }) => {
        await enter("pause", signal);
        this.#vm(vmId).state = VmState.PAUSED;
        return this.#view(vmId);
      },
      resumeVm: async ({ vmId }, { signal }) => {
        await enter("resume", signal);
        this.#vm(vmId).state = VmState.RUNNING;
        return this.#view(vmId);
      },
      deleteVm: async ({ vmId }, { signal }) => {
        await enter("delete", signal);
        this.vms.delete(vmId);
        return {};
      },
      getVm: ({ vmId }) => this.#view(vmId),
      listVms: () => ({ vms: [...this.vms.keys()].map((id) => this.#view(id)) }),
      readConsole: async ({ vmId, offset }, { signal }) => {
        await enter("console", signal);
        this.#vm(vmId);
        const all = utf8.encode("hello from the guest\n");
        const data = all.subarray(Number(offset));
        return { offset, data, nextOffset: BigInt(all.length) };
      },
      writeConsole: async ({ vmId }, { signal }) => {
        await enter("type", signal);
        this.#vm(vmId);
        return {};
      },
      screenshot: ({ vmId }) => {
        this.#vm(vmId);
        return { png: new Uint8Array([0x89, 0x50, 0x4e, 0x47]) };
      },
      getVmStats: ({ vmId }) => {
        const { spec } = this.#vm(vmId);
        const nics = spec.nics.map((nic) => ({ portId: nic.portId, counted: false }));
        return { vmId, cpuTimeMs: 5n, memoryBytes: spec.memoryBytes, memoryResidentBytes: 1n, nics };
      },
      createVolume: async ({ volumeId, sizeBytes }, { signal }) => {
        await enter("createVolume", signal);
        if (!this.volumes.has(volumeId)) this.volumes.set(volumeId, { sizeBytes, epoch: 0n, exports: new Map() });
        return { volumeId, sizeBytes };
      },
      growVolume: async ({ volumeId, sizeBytes }, { signal }) => {
        await enter("growVolume", signal);
        const volume = this.#volume(volumeId);
        if (sizeBytes > volume.sizeBytes) volume.sizeBytes = sizeBytes;
        return { volumeId, sizeBytes: volume.sizeBytes };
      },
      deleteVolume: async ({ volumeId }, { signal }) => {
        await enter("deleteVolume", signal);
        if ((this.volumes.get(volumeId)?.exports.size ?? 0) > 0) {
          throw fault("failed_precondition", "volume_exported", "Cannot delete it while it is exported");
        }
        this.volumes.delete(volumeId);
        return {};
      },
      listVolumes: () => ({
        volumes: [...this.volumes].map(([volumeId, v]) => ({ volumeId, sizeBytes: v.sizeBytes })),
      }),
      exportVolume: async ({ volumeId, writerEpoch, keepOlder }, { signal }) => {
        await enter("export", signal);
        this.#stamp(volumeId, writerEpoch);
        const { exports } = this.#volume(volumeId);
        if (!keepOlder) { for (const epoch of [...exports.keys()]) if (epoch < writerEpoch) exports.delete(epoch); }
        const nbdUri = exports.get(writerEpoch) ?? `nbd+unix:///${volumeId}-${writerEpoch}?socket=/${this.name}`;
        exports.set(writerEpoch, nbdUri);
        return { nbdUri, writerEpoch };
      },
      unexportVolume: async ({ volumeId, writerEpoch, only }, { signal }) => {
        await enter("unexport", signal);
        const { exports } = this.#volume(volumeId);
        const ends = (epoch: bigint) => only ? epoch === writerEpoch : writerEpoch === 0n || epoch <= writerEpoch;
        for (const epoch of [...exports.keys()]) if (ends(epoch)) exports.delete(epoch);
        return {};
      },
      createSnapshot: async ({ vmId, snapshotId, devices }, { signal }) => {
        await enter("snapshot", signal);
        this.#vm(vmId);
        this.snapshots.set(snapshotId, { vmId, devices });
        return {
          snapshotId,
          vmId,
          state: SnapshotState.READY,
          disks: [{ device: "root", sizeBytes: 1n, bytes: 512n }],
        };
      },
      deleteSnapshot: async ({ snapshotId }, { signal }) => {
        await enter("deleteSnapshot", signal);
        this.snapshots.delete(snapshotId);
        return {};
      },
      restoreSnapshot: async ({ vmId, snapshotId }, { signal }) => {
        await enter("restore", signal);
        if (!this.snapshots.has(snapshotId)) throw fault("not_found", "snapshot_not_found", "Cannot find it");
        return this.#view(vmId);
      },
      listSnapshots: () => ({ snapshots: [...this.snapshots].map(([snapshotId, { vmId }]) => ({ snapshotId, vmId })) }),
      async *readSnapshot() {
        yield await Promise.resolve({ chunk: new Uint8Array(1024) });
      },
      prepareIncoming: async ({ spec, migrationId }, { signal }) => {
        await enter("prepare", signal);
        for (const { volumeId, sizeBytes, source } of spec!.volumes) {
          if (source.case !== "local" || this.volumes.has(volumeId)) continue;
          this.volumes.set(volumeId, { sizeBytes, epoch: spec!.writerEpoch, exports: new Map() });
        }
        const { vmId, generation } = spec!;
        this.vms.set(vmId, { state: VmState.PAUSED, generation, spec: spec!, incoming: migrationId });
        const phase = MigrationPhase.PREPARED;
        this.migrations.set(migrationId, { vmId, peer: undefined, incoming: true, phase, progress: 0 });
        return { endpoints: { stateUri: this.name, mirrors: [] } };
      },
      startMigration: async ({ vmId, migrationId, endpoints }, { signal }) => {
        await enter("migrate", signal);
        this.#vm(vmId);
        if (!this.migrations.has(migrationId)) {
          const peer = this.#peer(endpoints!.stateUri);
          const phase = MigrationPhase.MEMORY;
          this.migrations.set(migrationId, { vmId, peer, incoming: false, phase, progress: 0 });
        }
        return this.#seen(migrationId);
      },
      getMigration: async ({ migrationId }, { signal }) => {
        await enter("getMigration", signal);
        this.#advance(migrationId);
        return this.#seen(migrationId);
      },
      cancelMigration: async ({ migrationId }, { signal }) => {
        await enter("cancelMigration", signal);
        const migration = this.#migration(migrationId);
        if (migration.phase === MigrationPhase.COMPLETED) {
          throw fault("failed_precondition", "migration_over", "Cannot cancel it as the guest is the target's");
        }
        migration.phase = MigrationPhase.CANCELLED;
        return this.#seen(migrationId);
      },
      finishMigration: async ({ migrationId }, { signal }) => {
        await enter("finishMigration", signal);
        return this.#seen(migrationId);
      },
      abortIncoming: async ({ vmId }, { signal }) => {
        await enter("abortIncoming", signal);
        const vm = this.vms.get(vmId);
        if (vm && vm.incoming === undefined) {
          throw fault("failed_precondition", "guest_runs", "Cannot abort as the guest runs here");
        }
        this.vms.delete(vmId);
        return {};
      },
    }, rows);
  }
}
