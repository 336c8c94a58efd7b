import type { BoundService } from "@ultracloud/rpc";
import type { NodeAgentConfig } from "./config.ts";
import { Instances } from "./instances.ts";
import { type LinkDeps, type NodeDescription, SchedulerLink } from "./scheduler_link.ts";
import { nodeAgentService } from "./service.ts";

export interface NodeAgentDeps extends Omit<LinkDeps, "instances"> {
  readonly version: string;
}

export interface NodeAgent extends AsyncDisposable {
  readonly service: BoundService;
}

/** Starts the agent: adopts what runs here, registers, and follows the assignment. Disposing leaves instances running. */
export function openNodeAgent(config: NodeAgentConfig, deps: NodeAgentDeps, launcher: string): NodeAgent {
  const stop = new AbortController();
  const instances = new Instances({ stateDir: config.stateDir, launcher: config.launcher ?? launcher }, deps);
  const link = new SchedulerLink(describe(config, deps.version), { ...deps, instances });
  const running = Promise.all([
    instances.run({ tickMs: config.tickMs, changed: () => link.poke() }, stop.signal),
    link.heartbeats(stop.signal),
    link.assignments(stop.signal),
  ]);
  return {
    service: nodeAgentService(instances, deps.clock),
    async [Symbol.asyncDispose]() {
      stop.abort();
      await running;
    },
  };
}

function describe(config: NodeAgentConfig, version: string): NodeDescription {
  const { capacity } = config;
  const memory = Deno.systemMemoryInfo().total - capacity.memoryReserveBytes;
  return {
    name: config.nodeName,
    agentUrl: config.agentUrl ?? `http://${config.rpc.listen}`,
    class: config.class ?? "",
    pool: config.pool ?? "",
    labels: config.labels,
    capacity: {
      cpuMillis: capacity.cpuMillis ?? navigator.hardwareConcurrency * 1000,
      memoryBytes: capacity.memoryBytes ?? Math.max(1, memory),
    },
    version,
  };
}
