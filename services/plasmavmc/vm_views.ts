import { fault, invalidField } from "@ultracloud/base";
import type { StoredRecord } from "@ultracloud/platform";
import type { VmService } from "@ultracloud/proto/plasmavmc/v1";
import type { VmStats } from "@ultracloud/proto/vmagent/v1";
import type { Handlers } from "@ultracloud/rpc";
import { typed } from "./calls.ts";
import type { Control } from "./control.ts";
import type { Vm } from "./domain/types.ts";
import { vmKind } from "./kinds.ts";
import { refuseMicrovm } from "./machine_rules.ts";

/** What a person or a paste types at once. */
const typedBytesMax = 64 * 1024;
const askTimeoutMs = 10_000;
/** VMs asked about at once: their workers answer from QEMU. */
const askedAtOnce = 32;

type Views = Pick<Handlers<typeof VmService>, "writeConsole" | "screenshot" | "getVmMetrics" | "listVmMetrics">;

/** What is read from a VM's worker as it is now, and what is typed into its console. */
export function vmViews(control: Control): Views {
  const { platform, workers } = control;

  async function placed(project: string, name: string, doing: string, signal: AbortSignal) {
    const vm = await platform.get(vmKind, project, name, signal);
    if (vm.value.node === "") {
      throw fault("failed_precondition", "vm_not_placed", `Cannot ${doing} VM ${vm.name} as it is on no worker`);
    }
    return { vm, agent: await workers.agentOf(vm.value.node) };
  }

  function metricsOf(vm: StoredRecord<Vm>, stats: VmStats) {
    return {
      vmId: vm.id,
      vm: vm.name,
      node: vm.value.node,
      cpuTimeMs: BigInt(stats.cpuTimeMs),
      residentBytes: stats.memoryResidentBytes,
      memoryBytes: stats.memoryBytes,
      disks: stats.disks.map((d) => ({
        disk: d.device,
        readBytes: d.readBytes,
        writeBytes: d.writeBytes,
        readOperations: d.readOperations,
        writeOperations: d.writeOperations,
      })),
      nics: stats.nics.map((n) => ({
        portId: n.portId,
        counted: n.counted,
        receiveBytes: n.receivedBytes,
        transmitBytes: n.sentBytes,
        receivePackets: n.receivedPackets,
        transmitPackets: n.sentPackets,
      })),
    };
  }

  return {
    async writeConsole(request, context) {
      const { length } = request.data;
      if (length > typedBytesMax) {
        throw invalidField("data", `Cannot type ${length} bytes at once: wanted at most ${typedBytesMax}`);
      }
      const { signal } = context;
      const { vm, agent } = await placed(request.project, request.vm, "type into", signal);
      await typed(agent.writeConsole({ vmId: vm.id, data: request.data }, { signal, timeoutMs: askTimeoutMs }));
      return {};
    },
    async screenshot(request, context) {
      const { signal } = context;
      const { vm, agent } = await placed(request.project, request.vm, "take a picture of", signal);
      refuseMicrovm(vm, "take a picture of", "its console read, as it has no screen");
      const { png } = await typed(agent.screenshot({ vmId: vm.id }, { signal, timeoutMs: askTimeoutMs }));
      return { png };
    },
    async getVmMetrics(request, context) {
      const { signal } = context;
      const { vm, agent } = await placed(request.project, request.vm, "measure", signal);
      return metricsOf(vm, await typed(agent.getVmStats({ vmId: vm.id }, { signal, timeoutMs: askTimeoutMs })));
    },
    async listVmMetrics(request, context) {
      const { signal } = context;
      const alive = await workers.leases.alive();
      const vms = (await platform.list(vmKind, request.project)).filter((vm) =>
        alive.has(vm.value.node) && ["running", "paused", "migrating"].includes(vm.value.state)
      );
      const found: ReturnType<typeof metricsOf>[] = [];
      for (let at = 0; at < vms.length; at += askedAtOnce) {
        const answers = await Promise.all(
          vms.slice(at, at + askedAtOnce).map(async (vm) => {
            try {
              const agent = await workers.agentOf(vm.value.node);
              return metricsOf(vm, await agent.getVmStats({ vmId: vm.id }, { signal, timeoutMs: askTimeoutMs }));
            } catch {
              // One that stops just now is none of those that run.
              signal.throwIfAborted();
              return undefined;
            }
          }),
        );
        found.push(...answers.filter((a) => a !== undefined));
      }
      return { vms: found };
    },
  };
}
