import { fault } from "@ultracloud/base";
import type { StoredRecord } from "@ultracloud/platform";
import { orAbsent, typed } from "./calls.ts";
import type { AgentClient, Workers } from "./workers.ts";
import type { Volume } from "./domain/types.ts";
import type { VolumeEngine } from "./volume_engine.ts";
import { toFormat } from "./wire.ts";

/** Blank files are sparse; one from an image is copied. */
const createTimeoutMs = 170_000;
const changeTimeoutMs = 60_000;

/**
 * Volumes as files of workers. Shared ones are reached by NBD from every worker, their own included, so that moving a
 * VM changes nothing about them.
 */
export function localVolumes(workers: Workers): VolumeEngine {
  const agentOf = (volume: StoredRecord<Volume>) => workers.agentOf(volume.value.node);

  /** The volume's agent; undefined when its worker is lost, which compares itself when it returns. */
  async function reachable(volume: StoredRecord<Volume>): Promise<AgentClient | undefined> {
    const { node } = volume.value;
    if (node === "") return undefined;
    if (await workers.isAlive(node)) return await agentOf(volume);
    workers.platform.log.warn("volume left to a lost worker", { volume: volume.id, node });
    return undefined;
  }

  return {
    everywhere: false,
    async create(volume, image, signal) {
      const agent = await agentOf(volume);
      await typed(agent.createVolume({
        volumeId: volume.id,
        sizeBytes: BigInt(volume.value.sizeBytes),
        ...(image
          ? { imageSha256: image.sha256, imageFormat: toFormat(image.format), imageBytes: BigInt(image.bytes) }
          : {}),
      }, { signal, timeoutMs: createTimeoutMs }));
    },
    async grow(volume, sizeBytes, signal) {
      const request = { volumeId: volume.id, sizeBytes: BigInt(sizeBytes) };
      await typed((await agentOf(volume)).growVolume(request, { signal, timeoutMs: changeTimeoutMs }));
    },
    async remove(volume, signal) {
      const agent = await reachable(volume);
      if (agent) await orAbsent(agent.deleteVolume({ volumeId: volume.id }, { signal, timeoutMs: changeTimeoutMs }));
    },
    async open(volume, o, signal) {
      const { node, shared } = volume.value;
      if (!shared) {
        if (node === o.node) return { kind: "local" };
        throw fault(
          "failed_precondition",
          "volume_elsewhere",
          `Cannot use volume ${volume.name} on worker ${o.node} as it is a file of ${node}: wanted a shared volume`,
        );
      }
      const request = { volumeId: volume.id, writerEpoch: BigInt(o.writerEpoch), keepOlder: o.keepOlder };
      const answer = await typed((await agentOf(volume)).exportVolume(request, { signal, timeoutMs: changeTimeoutMs }));
      return { kind: "nbd", uri: answer.nbdUri };
    },
    async close(volume, writerEpoch, signal, o = { only: false }) {
      if (!volume.value.shared) return;
      const agent = await reachable(volume);
      if (!agent) return;
      const request = { volumeId: volume.id, writerEpoch: BigInt(writerEpoch), only: o.only };
      await orAbsent(agent.unexportVolume(request, { signal, timeoutMs: changeTimeoutMs }));
    },
  };
}
