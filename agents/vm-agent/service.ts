import { fault, invalidField } from "@ultracloud/base";
import { VmAgentService } from "@ultracloud/proto/vmagent/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import type { Vms } from "./vms.ts";
import { instanceOf, specOf } from "./wire.ts";

const consoleLimitDefault = 64 * 1024;
const consoleLimitMax = 1024 * 1024;
/** Below the time most callers give a call. */
const consoleWaitMsMax = 20_000;

/** A worker is one host: its VMs belong to many projects, and only the control plane speaks to it. */
const host = () => "";

const later = (): never => {
  throw fault("unimplemented", "not_built", "Cannot do this yet: this worker has no such ability");
};

/** The RPCs of the worker. `vms` throws `unavailable` until the worker is ready. */
export function vmAgentService(vms: () => Vms): BoundService {
  return bind(VmAgentService, {
    async ensureVm(request) {
      return instanceOf(await vms().ensure(specOf(request.spec)));
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
    pauseVm: later,
    resumeVm: later,
    writeConsole: later,
    screenshot: later,
    getVmStats: later,
    createVolume: later,
    growVolume: later,
    deleteVolume: later,
    listVolumes: later,
    exportVolume: later,
    unexportVolume: later,
    createSnapshot: later,
    deleteSnapshot: later,
    restoreSnapshot: later,
    listSnapshots: later,
    readSnapshot: later,
    prepareIncoming: later,
    startMigration: later,
    getMigration: later,
    cancelMigration: later,
    finishMigration: later,
    abortIncoming: later,
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
