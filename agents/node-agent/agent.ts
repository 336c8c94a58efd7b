import type { BoundService } from "@ultracloud/rpc";
import type { NodeAgentConfig } from "./config.ts";
import { probeHost } from "./confinement.ts";
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
export async function openNodeAgent(
  config: NodeAgentConfig,
  deps: NodeAgentDeps,
  besideConfig: string,
): Promise<NodeAgent> {
  const stop = new AbortController();
  const { stateDir, launcher = besideConfig } = config;
  const host = await probeHost({ launcher, wanted: config.confinement }, deps);
  const instances = new Instances({ stateDir, launcher, kind: host.kind }, deps);
  const link = new SchedulerLink(describe(config, deps.version, host.kind), { ...deps, instances });
  const running = Promise.all([
    instances.run({ tickMs: config.tickMs, changed: () => link.poke() }, stop.signal),
    link.heartbeats(stop.signal),
    link.assignments(stop.signal),
  ]);
  return {
    service: nodeAgentService({ node: config.nodeName, version: deps.version, host }, { ...deps, instances }),
    async [Symbol.asyncDispose]() {
      stop.abort();
      await running;
    },
  };
}

function describe(config: NodeAgentConfig, version: string, confinement: string): NodeDescription {
  const { capacity } = config;
  const memory = Deno.systemMemoryInfo().total - capacity.memoryReserveBytes;
  return {
    name: config.nodeName,
    agentUrl: config.agentUrl ?? `http://${config.rpc.listen}`,
    class: config.class ?? "",
    pool: config.pool ?? "",
    // What a constraint can ask for; a label of the configuration wins.
    labels: { confinement, ...config.labels },
    capacity: {
      cpuMillis: capacity.cpuMillis ?? navigator.hardwareConcurrency * 1000,
      memoryBytes: capacity.memoryBytes ?? Math.max(1, memory),
    },
    version,
  };
}
