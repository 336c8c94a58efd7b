import { invalidField } from "@ultracloud/base";
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
  }, {
    ensureVm: { resource: "vm", action: "update", scope: host },
    stopVm: { resource: "vm", action: "stop", scope: host },
    rebootVm: { resource: "vm", action: "reboot", scope: host },
    deleteVm: { resource: "vm", action: "delete", scope: host },
    getVm: { resource: "vm", action: "get", scope: host },
    listVms: { resource: "vm", action: "list", scope: host },
    readConsole: { resource: "vm", action: "console", scope: host },
  });
}
