import { invalidField } from "@ultracloud/base";
import { VmAgentService } from "@ultracloud/proto/vmagent/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import { checkVmId } from "./domain/spec.ts";
import { checkId } from "./domain/volume_spec.ts";
import { takeScreenshot } from "./screenshot.ts";
import { consoleWriteBytesMax } from "./serial_writer.ts";
import { readStats } from "./stats.ts";
import type { Vms } from "./vms.ts";
import {
  contentOf,
  endpointsOf,
  instanceOf,
  layoutOf,
  migrationOf,
  specOf,
  storageOf,
  wireEndpoints,
  wireExport,
  wireSnapshot,
  wireStats,
  wireVolume,
} from "./wire.ts";

const consoleLimitDefault = 64 * 1024;
const consoleLimitMax = 1024 * 1024;
/** Below the time most callers give a call. */
const consoleWaitMsMax = 20_000;

/** A worker is one host: its VMs belong to many projects, and only the control plane speaks to it. */
const host = () => "";

/** What the last of the memory may take: a third of what a guest may stand still, which its devices and disks need too. */
const maxDowntimeMsDefault = 30;

function epochOf(epoch: bigint): number {
  if (epoch <= BigInt(Number.MAX_SAFE_INTEGER)) return Number(epoch);
  throw invalidField("writer_epoch", `Cannot use writer epoch ${epoch}: wanted at most ${Number.MAX_SAFE_INTEGER}`);
}

/** The RPCs of the worker. `vms` throws `unavailable` until the worker is ready. */
export function vmAgentService(vms: () => Vms): BoundService {
  return bind(VmAgentService, {
    async ensureVm(request) {
      return instanceOf(await vms().ensure(specOf(request.spec), { applyOnly: request.applyOnly }));
    },
    async stopVm(request) {
      return instanceOf(await vms().stop(request.vmId, { force: request.force, graceMs: request.graceMs }));
    },
    async rebootVm(request) {
      return instanceOf(await vms().reboot(request.vmId));
    },
    async deleteVm(request) {
      await vms().remove(request.vmId);
      return {};
    },
    getVm: (request) => instanceOf(vms().get(request.vmId)),
    listVms: () => ({ vms: vms().list().map(instanceOf) }),
    async readConsole(request, context) {
      if (request.limit < 0) throw invalidField("limit", `Cannot read ${request.limit} bytes: wanted 0 or more`);
      const slice = await vms().readConsole(request.vmId, {
        offset: Number(request.offset),
        limit: Math.min(request.limit || consoleLimitDefault, consoleLimitMax),
        waitMs: Math.min(Math.max(0, request.waitMs), consoleWaitMsMax),
        signal: context.signal,
      });
      return { offset: BigInt(slice.offset), data: slice.data, nextOffset: BigInt(slice.nextOffset) };
    },
    pauseVm: async (request) => instanceOf(await vms().pause(request.vmId)),
    resumeVm: async (request) => instanceOf(await vms().resume(request.vmId)),
    async writeConsole(request) {
      if (request.data.length === 0 || request.data.length > consoleWriteBytesMax) {
        throw invalidField("data", `Cannot type ${request.data.length} bytes: wanted 1 to ${consoleWriteBytesMax}`);
      }
      await vms().machine(request.vmId).serial.write(request.data);
      return {};
    },
    screenshot: async (request) => ({ png: await takeScreenshot(vms().machine(request.vmId)) }),
    getVmStats: async (request) => wireStats(await readStats(vms().machine(request.vmId)), Date.now()),

    async createVolume(request) {
      const { volumeId, sizeBytes } = request;
      return wireVolume(await vms().volumes.create(volumeId, Number(sizeBytes), contentOf(request)));
    },
    async growVolume(request) {
      return wireVolume(await vms().volumes.grow(request.volumeId, Number(request.sizeBytes)));
    },
    async deleteVolume(request) {
      await vms().volumes.remove(request.volumeId);
      return {};
    },
    listVolumes: async () => ({ volumes: (await vms().volumes.list()).map(wireVolume) }),
    async exportVolume(request) {
      const { volumeId, writerEpoch, keepOlder } = request;
      return wireExport(await vms().volumes.export(volumeId, epochOf(writerEpoch), keepOlder));
    },
    async unexportVolume(request) {
      const { volumeId, writerEpoch, only } = request;
      if (only && writerEpoch === 0n) {
        throw invalidField("writer_epoch", "Cannot end the export of no epoch alone: wanted one above 0");
      }
      await vms().volumes.unexport(volumeId, epochOf(writerEpoch), { only });
      return {};
    },

    async createSnapshot(request) {
      return wireSnapshot(await vms().createSnapshot(request.vmId, request.snapshotId, request.devices));
    },
    async deleteSnapshot(request) {
      await vms().removeSnapshot(request.snapshotId);
      return {};
    },
    async restoreSnapshot(request) {
      return instanceOf(await vms().restoreSnapshot(request.vmId, request.snapshotId));
    },
    async listSnapshots(request) {
      if (request.vmId !== "") checkVmId(request.vmId);
      return { snapshots: (await vms().snapshots.list(request.vmId)).map(wireSnapshot) };
    },
    async *readSnapshot(request) {
      const { snapshotId, device, offset } = request;
      if (offset < 0n) throw invalidField("offset", `Cannot read from byte ${offset}: wanted 0 or more`);
      for await (const chunk of vms().snapshots.read(snapshotId, device, Number(offset))) yield { chunk };
    },

    async prepareIncoming(request) {
      const spec = specOf(request.spec);
      const endpoints = await vms().prepareIncoming(spec, {
        id: checkId(request.migrationId, "migration_id"),
        storage: storageOf(request.storage),
        layout: layoutOf(request.layout),
        deadlineMs: request.deadlineMs,
      });
      return { endpoints: wireEndpoints(endpoints) };
    },
    async startMigration(request) {
      if (request.bandwidthBytesPerSecond < 0n) {
        throw invalidField("bandwidth_bytes_per_second", "Cannot send fewer than 0 bytes a second");
      }
      const { vmId } = request;
      checkVmId(vmId);
      return migrationOf(
        await vms().startMigration(vmId, {
          id: checkId(request.migrationId, "migration_id"),
          storage: storageOf(request.storage),
          endpoints: endpointsOf(request.endpoints),
          targetWriterEpoch: epochOf(request.targetWriterEpoch),
          autoConverge: !request.noAutoConverge,
          bandwidthBytesPerSecond: Number(request.bandwidthBytesPerSecond),
          maxDowntimeMs: request.maxDowntimeMs <= 0 ? maxDowntimeMsDefault : Math.min(request.maxDowntimeMs, 2_000_000),
          hold: request.holdSwitchover,
          deadlineMs: request.deadlineMs,
        }),
      );
    },
    getMigration: (request) => migrationOf(vms().migration(request.vmId, request.migrationId)),
    cancelMigration: async (request) => migrationOf(await vms().cancelMigration(request.vmId, request.migrationId)),
    finishMigration: async (request) => migrationOf(await vms().finishMigration(request.vmId, request.migrationId)),
    async abortIncoming(request) {
      await vms().abortIncoming(request.vmId, request.migrationId);
      return {};
    },
  }, {
    ensureVm: { resource: "vm", action: "update", scope: host },
    stopVm: { resource: "vm", action: "stop", scope: host },
    rebootVm: { resource: "vm", action: "reboot", scope: host },
    deleteVm: { resource: "vm", action: "delete", scope: host },
    getVm: { resource: "vm", action: "get", scope: host },
    listVms: { resource: "vm", action: "list", scope: host },
    readConsole: { resource: "vm", action: "console", scope: host },
    pauseVm: { resource: "vm", action: "pause", scope: host },
    resumeVm: { resource: "vm", action: "resume", scope: host },
    writeConsole: { resource: "vm", action: "console", scope: host },
    screenshot: { resource: "vm", action: "screenshot", scope: host },
    getVmStats: { resource: "vm", action: "stats", scope: host },
    createVolume: { resource: "volume", action: "create", scope: host },
    growVolume: { resource: "volume", action: "update", scope: host },
    deleteVolume: { resource: "volume", action: "delete", scope: host },
    listVolumes: { resource: "volume", action: "list", scope: host },
    exportVolume: { resource: "volume", action: "export", scope: host },
    unexportVolume: { resource: "volume", action: "export", scope: host },
    createSnapshot: { resource: "snapshot", action: "create", scope: host },
    deleteSnapshot: { resource: "snapshot", action: "delete", scope: host },
    restoreSnapshot: { resource: "snapshot", action: "restore", scope: host },
    listSnapshots: { resource: "snapshot", action: "list", scope: host },
    readSnapshot: { resource: "snapshot", action: "read", scope: host },
    prepareIncoming: { resource: "migration", action: "prepare", scope: host },
    startMigration: { resource: "migration", action: "start", scope: host },
    getMigration: { resource: "migration", action: "get", scope: host },
    cancelMigration: { resource: "migration", action: "cancel", scope: host },
    finishMigration: { resource: "migration", action: "finish", scope: host },
    abortIncoming: { resource: "migration", action: "abort", scope: host },
  });
}
