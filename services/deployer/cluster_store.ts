import { type ClusterState, parseClusterState } from "@ultracloud/cluster-state";
import { fault } from "@ultracloud/base";
import { type Platform, Tx } from "@ultracloud/platform";
import { sha256Hex } from "./hashes.ts";
import { type ClusterRow, rowKeys } from "./kinds.ts";

/** One row of the state: what a store takes without a word. */
const partChars = 256 * 1024;

export interface HeldState {
  readonly row: ClusterRow;
  readonly text: string;
  readonly cluster: ClusterState;
}

/** The cluster state in the store: written whole, in parts, and read as of one revision. */
export class ClusterStore {
  readonly #platform: Platform;
  /** The last one read; its revision and hash say whether it still counts. */
  #held: HeldState | undefined;

  constructor(platform: Platform) {
    this.#platform = platform;
  }

  /** What is in force; undefined before the first apply. */
  async read(tx?: Tx): Promise<HeldState | undefined> {
    const reader = tx ?? new Tx(this.#platform.kv, this.#platform);
    const row = await reader.row<ClusterRow>(rowKeys.cluster);
    if (row === undefined) return undefined;
    const held = this.#held;
    if (held !== undefined && held.row.revision === row.revision && held.row.sha256 === row.sha256) return held;
    // Parts of a revision that is no longer in force may be gone: those read here are not conditions of `tx`.
    const parts = new Tx(this.#platform.kv, this.#platform);
    let text = "";
    for (let part = 0; part < row.parts; part++) {
      text += await parts.row<string>(rowKeys.clusterPart(row.revision, part)) ?? "";
    }
    if (sha256Hex(text) !== row.sha256) {
      throw fault("aborted", "state_changed", "Cannot read the cluster state as it is being replaced: wanted a retry", {
        retryAfterMs: 100,
      });
    }
    return this.#held = { row, text, cluster: parseClusterState(text, "the stored cluster state") };
  }

  /** The cluster state alone. */
  async cluster(tx?: Tx): Promise<ClusterState | undefined> {
    return (await this.read(tx))?.cluster;
  }

  /** Replaces it within the transaction; answers the revision. */
  async put(tx: Tx, text: string, revision?: number): Promise<number> {
    const before = await tx.row<ClusterRow>(rowKeys.cluster);
    const next = Math.max((before?.revision ?? 0) + 1, revision ?? 0);
    const parts = Math.max(1, Math.ceil(text.length / partChars));
    for (let part = 0; part < parts; part++) {
      tx.putRow(rowKeys.clusterPart(next, part), text.slice(part * partChars, (part + 1) * partChars));
    }
    for (let part = 0; before !== undefined && part < before.parts; part++) {
      tx.deleteRow(rowKeys.clusterPart(before.revision, part));
    }
    const row: ClusterRow = { revision: next, sha256: sha256Hex(text), parts, appliedMs: tx.nowMs };
    tx.putRow(rowKeys.cluster, row);
    return next;
  }
}
