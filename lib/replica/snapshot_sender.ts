import { backoffMs, type Clock, type Disk, type DiskFile, Fault, type Rng } from "@ultracloud/base";
import type { RaftPeerService } from "@ultracloud/proto/raft/v1";
import { encodeConfiguration, type SnapshotHeader } from "@ultracloud/raft";
import type { RpcClient } from "@ultracloud/rpc";
import { snapshotChunkBytes, type SnapshotFile } from "./snapshot_file.ts";

export interface SnapshotSenderDeps {
  readonly client: Pick<RpcClient<typeof RaftPeerService>, "installSnapshot">;
  readonly disk: Disk;
  readonly clock: Clock;
  readonly rng: Rng;
}

/** The last piece is answered when everything is synced, verified and installed. */
const pieceTimeoutMs = 60_000;
/** Failures without any progress before the transfer is given up; the next one goes on where it ended. */
const failuresMax = 8;
const backoff = { baseMs: 50, maxMs: 2_000, tries: failuresMax };

/** What a peer answers when trying again cannot help. */
const final: ReadonlySet<string> = new Set([
  "failed_precondition",
  "invalid_argument",
  "data_loss",
  "permission_denied",
]);

/**
 * Carries a snapshot to a peer, one piece at a time, from where the peer says that it is. Resolves with true once the peer
 * holds it or does not need it; rejects when it cannot be done now.
 */
export async function sendSnapshotFile(
  what: {
    readonly clusterId: string;
    readonly group: number;
    readonly header: SnapshotHeader;
    readonly data: SnapshotFile;
  },
  deps: SnapshotSenderDeps,
  signal: AbortSignal,
): Promise<boolean> {
  const file = deps.disk.open(what.data.path, { create: false });
  try {
    return await send(file, what, deps, signal);
  } finally {
    file.close();
  }
}

async function send(
  file: DiskFile,
  what: Parameters<typeof sendSnapshotFile>[0],
  deps: SnapshotSenderDeps,
  signal: AbortSignal,
): Promise<boolean> {
  const { bytes } = what.data;
  const header = wireHeader(what);
  const buffer = new Uint8Array(Math.min(bytes, snapshotChunkBytes));
  // The first piece is empty: it asks.
  let offset = 0, furthest = 0, asked = false, failures = 0;
  while (!signal.aborted) {
    const length = asked ? file.readAt(buffer, offset) : 0;
    try {
      const answer = await deps.client.installSnapshot(
        { header, offset: BigInt(offset), chunk: buffer.subarray(0, length) },
        { signal, timeoutMs: pieceTimeoutMs },
      );
      if (answer.installed) return true;
      if (asked && Number(answer.offset) <= offset && ++failures >= failuresMax) return false;
      asked = true;
      offset = Math.min(Number(answer.offset), bytes);
      if (offset > furthest) failures = 0;
      furthest = Math.max(furthest, offset);
    } catch (error) {
      if (signal.aborted) break;
      if ((error instanceof Fault && final.has(error.kind)) || ++failures >= failuresMax) throw error;
      await deps.clock.sleep(backoffMs(backoff, failures, deps.rng), signal).catch(() => {});
      asked = false;
    }
  }
  return false;
}

function wireHeader({ clusterId, group, header, data }: Parameters<typeof sendSnapshotFile>[0]) {
  return {
    clusterId,
    group: BigInt(group),
    from: BigInt(header.from),
    to: BigInt(header.to),
    term: BigInt(header.term),
    index: BigInt(header.meta.index),
    logTerm: BigInt(header.meta.term),
    config: encodeConfiguration(header.meta.configuration),
    bytesTotal: BigInt(data.bytes),
    sha256: Uint8Array.fromHex(data.sha256),
  };
}
