import { type Clock, Fault, fault, type Rng } from "@ultracloud/base";
import type { Health, Logger, Registry } from "@ultracloud/observe";
import type { ImageService, NodeService } from "@ultracloud/proto/plasmavmc/v1";
import type { BoundService } from "@ultracloud/rpc";
import type { Client } from "@connectrpc/connect";
import type { VmAgentConfig } from "./config.ts";
import type { Accelerator } from "./domain/argv.ts";
import { imageReader, keepRegistered, type NodeDescription } from "./node_client.ts";
import { chooseHostUser } from "./host_user.ts";
import { WorkerLease } from "./lease.ts";
import { chooseAccelerator, qemuVersion } from "./probe.ts";
import { vmAgentService } from "./service.ts";
import { slotCount } from "./slots.ts";
import { Vms } from "./vms.ts";

/** How often a host without QEMU is looked at again: somebody is installing it. */
const retryMs = 3_000;

export interface VmAgentDeps {
  readonly clock: Clock;
  readonly rng: Rng;
  readonly log: Logger;
  readonly registry: Registry;
  readonly health: Health;
  readonly nodes: Pick<Client<typeof NodeService>, "registerNode" | "heartbeat">;
  readonly images: Pick<Client<typeof ImageService>, "readImage">;
  readonly version: string;
}

export interface VmAgent extends AsyncDisposable {
  /** To be served at once; its calls are `unavailable` until the worker has found its VMs. */
  readonly service: BoundService;
}

/**
 * Starts the worker: finds QEMU and the accelerator, adopts what runs, registers. All of it goes on in the background
 * and is repeated until it works; health says how far it is. Disposing of it leaves the VMs running.
 */
export function openVmAgent(config: VmAgentConfig, deps: VmAgentDeps): VmAgent {
  const stop = new AbortController();
  let vms: Vms | undefined;
  let reason = "the worker is starting";
  deps.health.set("qemu", "starting", reason);
  deps.health.set("plasmavmc", "starting", "not yet registered");

  const bringUp = async (): Promise<void> => {
    const version = await qemuVersion();
    const choice = await chooseAccelerator({
      configured: config.accelerator,
      stateDir: config.stateDir,
      hostKey: `${version.text} ${Deno.osRelease()}`,
    }, { clock: deps.clock, signal: stop.signal });
    deps.log.info("accelerator chosen", { ...choice, qemu: version.text });
    const user = await chooseHostUser(config, choice.accelerator, { clock: deps.clock, signal: stop.signal });
    deps.log.info("QEMU runs as", { separateUsers: user.user.separate, reason: user.reason });
    const lease = new WorkerLease({ stateDir: config.stateDir }, deps);
    await lease.restore();
    const opened = new Vms({
      stateDir: config.stateDir,
      runDir: config.runDir,
      host: { accelerator: choice.accelerator, qemuMajor: version.major, qemuMinor: version.minor },
      consoleBytesMax: config.consoleBytesMax,
      imageCacheBytesMax: config.imageCacheBytesMax,
      tickMs: config.tickMs,
      migration: config.migration,
    }, { ...deps, readImage: imageReader(deps.images), user: user.user, lease, signal: stop.signal });
    try {
      await opened.open();
    } catch (error) {
      await opened[Symbol.asyncDispose]();
      throw error;
    }
    vms = opened;
    deps.health.set("qemu", "ready");
    await keepRegistered(describe(config, choice.accelerator, deps.version), {
      ...deps,
      views: () => opened.list(),
      lease,
      signal: stop.signal,
    });
  };

  const running = (async () => {
    while (!stop.signal.aborted) {
      try {
        await bringUp();
      } catch (error) {
        if (stop.signal.aborted) return;
        reason = error instanceof Fault ? error.message : "an internal error, see the log";
        deps.health.set("qemu", "starting", reason);
        deps.log.error("the worker cannot start", { reason, error });
        await deps.clock.sleep(retryMs, stop.signal).catch(() => {});
      }
    }
  })();

  return {
    service: vmAgentService(() => {
      if (vms) return vms;
      throw fault("unavailable", "worker_starting", `Cannot serve VMs yet: ${reason}`, { retryAfterMs: 1_000 });
    }),
    async [Symbol.asyncDispose]() {
      stop.abort(fault("unavailable", "agent_stopping", "Cannot go on as the agent stops"));
      await running;
      await vms?.[Symbol.asyncDispose]();
    },
  };
}

function describe(config: VmAgentConfig, accelerator: Accelerator, version: string): NodeDescription {
  const { capacity } = config;
  const memory = Deno.systemMemoryInfo().total - capacity.memoryReserveBytes;
  return {
    name: config.nodeName,
    agentUrl: config.agentUrl ?? `http://${config.rpc.listen}`,
    accelerator,
    capacity: {
      vcpus: Math.max(1, Math.floor(navigator.hardwareConcurrency * capacity.vcpusPerCore)),
      memoryBytes: Math.max(0, memory),
      diskBytes: capacity.diskBytes,
      vmSlots: slotCount,
    },
    labels: config.labels,
    version,
  };
}
