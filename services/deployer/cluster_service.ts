import { fault, invalidField } from "@ultracloud/base";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { diffStates, parseClusterState } from "@ultracloud/cluster-state";
import { idempotencyOf, Tx } from "@ultracloud/platform";
import {
  ApplyClusterStateRequestSchema,
  ApplyClusterStateResponseSchema,
  DeployerService,
} from "@ultracloud/proto/deployer/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import type { Bundles } from "./bundles.ts";
import { caSha256 } from "./ca.ts";
import type { Core } from "./core.ts";
import { exportState, restoreState } from "./export.ts";
import { type BundleRow, type MachineRow, nodeKind, rowKeys } from "./kinds.ts";

const root = () => "";
const changesMax = 2_000;
export const labModeWarning =
  "allow_unauthenticated is on: MACHINES ENROL WITHOUT A TOKEN; wanted only in a lab, never where others reach it";

export function toBundle(row: BundleRow) {
  return {
    sha256: row.sha256,
    bytesCount: BigInt(row.bytesCount),
    signature: row.signature,
    path: `/api/v1/bundle/${row.sha256}`,
  };
}

/** The deployer itself: its state, the cluster state, what a standby starts from, the bundle. */
export function clusterService(core: Core, bundles: Bundles): BoundService {
  const { platform, writer, states, options } = core;
  return bind(DeployerService, {
    async getStatus() {
      const tx = new Tx(platform.kv, platform);
      const [row, held, records, machines, bundle] = await Promise.all([
        writer.current(),
        states.read(),
        platform.list(nodeKind),
        tx.rows<MachineRow>(rowKeys.machines),
        bundles.current(),
      ]);
      const ca = await options.caPem?.();
      const names = new Set([...Object.keys(held?.cluster.nodes ?? {}), ...records.map(({ name }) => name)]);
      return {
        version: options.version,
        instance: writer.instance,
        writing: writer.writing,
        ...(row === undefined ? {} : { writer: { instance: row.instance, url: row.url, epoch: BigInt(row.epoch) } }),
        allowUnauthenticated: options.allow_unauthenticated,
        warnings: options.allow_unauthenticated ? [labModeWarning] : [],
        clusterRevision: BigInt(held?.row.revision ?? 0),
        nodesCount: names.size,
        pendingCount: machines.filter(({ value }) => value.approvedNode === undefined).length,
        ...(bundle === undefined ? {} : { bundle: toBundle(bundle) }),
        caSha256: ca === undefined ? "" : caSha256(ca),
        binaryCacheUrl: held?.cluster.deployer.binaryCacheUrl ?? "",
        trustedKeys: [...held?.cluster.deployer.trustedKeys ?? []],
        bundlePublicKey: bundles.signer.publicKey,
      };
    },
    async applyClusterState(request, context) {
      const after = parseClusterState(request.stateJson, "the cluster state");
      // Written as the schema reads it: the same state is the same text, whoever generated it.
      const text = JSON.stringify(after);
      const judge = async (tx: Tx) => {
        const held = await states.read(tx);
        const revision = held?.row.revision ?? 0;
        if (request.expectedRevision !== 0n && request.expectedRevision !== BigInt(revision)) {
          throw fault(
            "aborted",
            "revision_mismatch",
            `Cannot apply as the cluster state is at revision ${revision}: wanted ${request.expectedRevision}`,
          );
        }
        if (held !== undefined && held.cluster.clusterId !== after.clusterId) {
          throw invalidField("stateJson", `Cannot apply the state of ${after.clusterId} to ${held.cluster.clusterId}`);
        }
        const changes = diffStates(held?.cluster, after);
        const affected = Object.keys(after.nodes).filter((name) => {
          const [old, next] = [held?.cluster, after].map((cluster) =>
            cluster && core.desiredOf(cluster, core.join(cluster, undefined, name))
          );
          return next !== undefined && (old === undefined || core.intentOf(old) !== core.intentOf(next));
        });
        return {
          revision,
          answer: {
            changes: changes.slice(0, changesMax).map(({ path, before, after }) => ({
              path,
              beforeJson: before === undefined ? "" : JSON.stringify(before),
              afterJson: after === undefined ? "" : JSON.stringify(after),
            })),
            affectedNodes: affected,
          },
          same: changes.length === 0,
        };
      };
      if (request.dryRun) {
        const { revision, answer } = await judge(new Tx(platform.kv, platform));
        return { ...answer, revision: BigInt(revision), applied: false };
      }
      const answer = await writer.change(async (tx) => {
        const { revision, answer, same } = await judge(tx);
        const next = same ? revision : await states.put(tx, text);
        return { ...answer, revision: BigInt(next), applied: !same };
      }, {
        serialize: "cluster",
        idempotency: idempotencyOf(context, ApplyClusterStateRequestSchema, request, ApplyClusterStateResponseSchema),
      });
      platform.log.info("cluster state applied", {
        revision: String(answer.revision),
        changes: answer.changes?.length,
      });
      return answer;
    },
    async getClusterState() {
      const held = await states.read();
      if (held === undefined) return {};
      const { revision, appliedMs } = held.row;
      return { stateJson: held.text, revision: BigInt(revision), appliedTime: timestampFromMs(appliedMs) };
    },
    export: async () => ({ exportJson: JSON.stringify(await exportState(core)) }),
    async restore(request) {
      const { nodes, revision } = await restoreState(core, request.exportJson, request.overwrite);
      return { nodesCount: nodes, clusterRevision: BigInt(revision) };
    },
    putBundle: async (request) => toBundle(await bundles.put(request.content)),
  }, {
    getStatus: { resource: "status", action: "get", scope: root },
    applyClusterState: { resource: "cluster", action: "apply", scope: root },
    getClusterState: { resource: "cluster", action: "get", scope: root },
    // It holds hashes of tokens and every serial: not for everybody who may look.
    export: { resource: "cluster", action: "export", scope: root },
    restore: { resource: "cluster", action: "restore", scope: root },
    putBundle: { resource: "bundle", action: "put", scope: root },
  });
}
