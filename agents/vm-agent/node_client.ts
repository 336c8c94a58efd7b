import { backoffMs, type Clock, type Rng } from "@ultracloud/base";
import type { Health, Logger } from "@ultracloud/observe";
import { HypervisorType, type ImageService, type NodeService } from "@ultracloud/proto/plasmavmc/v1";
import { toFault } from "@ultracloud/rpc";
import type { Client } from "@connectrpc/connect";
import type { Accelerator } from "./domain/argv.ts";
import type { VmView } from "./domain/state.ts";
import type { ImageReader } from "./images.ts";
import { heartbeatsPerLease, type WorkerLease } from "./lease.ts";
import { observationOf } from "./wire.ts";

/** Heartbeats and registrations that fail are repeated at this pace, for as long as it takes. */
const backoff = { baseMs: 200, maxMs: 5_000, tries: Number.POSITIVE_INFINITY };
/** Attempts beyond this no longer change the pace. */
const attemptsCounted = 10;
const heartbeatMsMin = 100;

export interface NodeDescription {
  readonly name: string;
  readonly agentUrl: string;
  readonly accelerator: Accelerator;
  readonly capacity: {
    readonly vcpus: number;
    readonly memoryBytes: number;
    readonly diskBytes: number;
    readonly vmSlots: number;
  };
  readonly labels: Readonly<Record<string, string>>;
  readonly version: string;
}

export interface NodeLoopDeps {
  readonly nodes: Pick<Client<typeof NodeService>, "registerNode" | "heartbeat">;
  readonly views: () => readonly VmView[];
  readonly lease: Pick<WorkerLease, "renewed">;
  readonly clock: Clock;
  readonly rng: Rng;
  readonly log: Logger;
  readonly health: Health;
  readonly signal: AbortSignal;
}

/**
 * Keeps the worker known to plasmavmc until the signal: registers, heartbeats at a third of the lease, registers
 * again when told to, and keeps trying while nobody answers. Each answer renews the lease that VMs with shared disks
 * run under.
 */
export async function keepRegistered(node: NodeDescription, deps: NodeLoopDeps): Promise<void> {
  let leaseTtlMs = 0;
  let failures = 0;
  while (!deps.signal.aborted) {
    try {
      // Before it is sent: the lease the control plane grants lasts at least from here.
      let sentAtMs = deps.clock.monotonicMs();
      if (leaseTtlMs === 0) {
        const answer = await deps.nodes.registerNode({
          node: {
            name: node.name,
            agentUrl: node.agentUrl,
            hypervisorType: HypervisorType.KVM,
            accelerator: node.accelerator,
            capacity: {
              vcpus: node.capacity.vcpus,
              memoryBytes: BigInt(node.capacity.memoryBytes),
              diskBytes: BigInt(node.capacity.diskBytes),
              vmSlots: node.capacity.vmSlots,
            },
            labels: { ...node.labels, accelerator: node.accelerator },
            agentVersion: node.version,
          },
        }, { signal: deps.signal });
        leaseTtlMs = Number(answer.leaseTtlMs);
        await deps.lease.renewed(sentAtMs, leaseTtlMs);
        deps.log.info("registered", { node: node.name, leaseTtlMs });
        deps.health.set("plasmavmc", "ready");
      }
      // The first one at once: plasmavmc learns what survived.
      sentAtMs = deps.clock.monotonicMs();
      const beat = await deps.nodes.heartbeat(
        { node: node.name, vms: deps.views().map(observationOf) },
        { signal: deps.signal, timeoutMs: Math.max(heartbeatMsMin, leaseTtlMs / heartbeatsPerLease) },
      );
      if (failures > 0) deps.health.set("plasmavmc", "ready");
      failures = 0;
      if (beat.reregister) {
        leaseTtlMs = 0;
        continue;
      }
      leaseTtlMs = Number(beat.leaseTtlMs) || leaseTtlMs;
      await deps.lease.renewed(sentAtMs, leaseTtlMs);
      await deps.clock.sleep(Math.max(heartbeatMsMin, leaseTtlMs / heartbeatsPerLease), deps.signal);
    } catch (error) {
      if (deps.signal.aborted) return;
      failures++;
      if (failures === 1) deps.log.warn("plasmavmc does not answer", { node: node.name, error });
      const state = leaseTtlMs === 0 ? "starting" : "degraded";
      deps.health.set("plasmavmc", state, `plasmavmc does not answer (${failures} tries)`);
      // A lease that may still be saved is not slept over.
      const pauseMs = Math.min(
        backoffMs(backoff, Math.min(failures, attemptsCounted), deps.rng),
        leaseTtlMs === 0 ? backoff.maxMs : leaseTtlMs / (2 * heartbeatsPerLease),
      );
      await deps.clock.sleep(pauseMs, deps.signal).catch(() => {});
    }
  }
}

/** Image content from plasmavmc. */
export function imageReader(images: Pick<Client<typeof ImageService>, "readImage">): ImageReader {
  return async function* (sha256, offset, signal) {
    try {
      for await (const part of images.readImage({ sha256, offset: BigInt(offset) }, { signal })) yield part.chunk;
    } catch (error) {
      throw toFault(error);
    }
  };
}
