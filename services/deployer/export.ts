import { fault } from "@ultracloud/base";
import { parseClusterState } from "@ultracloud/cluster-state";
import { Tx } from "@ultracloud/platform";
import { z } from "zod";
import type { Core } from "./core.ts";
import { bumpTrust } from "./identities.ts";
import { nodeKind, type NodeValue, type QuarantineRow, type RolloutRow, rowKeys, type TokenRow } from "./kinds.ts";

const nodesMax = 10_000;
const exportSchema = z.strictObject({
  version: z.literal(1),
  exportedMs: z.number(),
  cluster: z.strictObject({ revision: z.number().int().min(1), text: z.string() }).nullable(),
  nodes: z.array(z.strictObject({
    name: z.string().regex(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/),
    value: z.custom<NodeValue>((v) => typeof v === "object" && v !== null && Array.isArray((v as NodeValue).markers)),
  })).max(nodesMax),
  tokens: z.array(z.strictObject({
    sha256: z.string().regex(/^[0-9a-f]{64}$/),
    row: z.strictObject({
      node: z.string(),
      expiresMs: z.number(),
      usedBy: z.string().optional(),
      spent: z.boolean().optional(),
    }),
  })).max(2 * nodesMax),
  quarantines: z.array(z.custom<QuarantineRow>((v) => typeof (v as QuarantineRow)?.targetSystem === "string")),
  rollouts: z.array(z.strictObject({
    name: z.string(),
    row: z.custom<RolloutRow>((v) => typeof (v as RolloutRow)?.signature === "string"),
  })),
});
export type DeployerExport = z.infer<typeof exportSchema>;

/** Everything that cannot be generated again. What agents report comes back by itself. */
export async function exportState(core: Core): Promise<DeployerExport> {
  const { platform, states } = core;
  const tx = new Tx(platform.kv, platform);
  const below = async <T>(prefix: string) =>
    (await tx.rows<T>(prefix)).map(({ key, value }) => ({ name: key.slice(prefix.length), row: value }));
  const held = await states.read();
  return {
    version: 1,
    exportedMs: platform.clock.nowMs(),
    cluster: held === undefined ? null : { revision: held.row.revision, text: held.text },
    nodes: (await platform.list(nodeKind)).map(({ name, value }) => ({ name, value })),
    tokens: (await below<TokenRow>(rowKeys.token(""))).map(({ name, row }) => ({ sha256: name, row })),
    quarantines: (await below<QuarantineRow>(rowKeys.quarantines)).map(({ row }) => row),
    rollouts: await below<RolloutRow>(rowKeys.rollout("")),
  };
}

/** Puts an export back. Without `overwrite` only into a deployer that knows nothing. */
export async function restoreState(
  core: Core,
  json: string,
  overwrite: boolean,
): Promise<{ nodes: number; revision: number }> {
  const { platform, states, writer } = core;
  const parsed = exportSchema.safeParse(parseJson(json));
  if (!parsed.success) {
    throw fault("invalid_argument", "export_invalid", `Cannot restore: ${z.prettifyError(parsed.error)}`);
  }
  const { cluster, nodes, tokens, quarantines, rollouts } = parsed.data;
  if (cluster !== null) parseClusterState(cluster.text, "the exported cluster state");
  const present = await platform.list(nodeKind);
  if (!overwrite && (present.length > 0 || await states.read() !== undefined)) {
    throw fault(
      "failed_precondition",
      "restore_over_records",
      "Cannot restore over records that are there: wanted an empty deployer, or overwrite",
    );
  }
  let revision = 0;
  await writer.change(async (tx) => {
    if (cluster !== null) revision = await states.put(tx, cluster.text, cluster.revision);
    for (const { class: group, ...rest } of quarantines) {
      tx.putRow(rowKeys.quarantine(group, rest.targetSystem), { class: group, ...rest });
    }
    for (const { name, row } of rollouts) tx.putRow(rowKeys.rollout(name), row);
  }, { serialize: "cluster" });
  await writer.change((tx) => bumpTrust(tx));
  const named = new Set(nodes.map(({ name }) => name));
  for (const { name } of present) {
    if (!named.has(name)) await writer.change(async (tx) => tx.remove(nodeKind, await tx.get(nodeKind, "", name)));
  }
  for (const { sha256, row } of tokens) {
    const lifeMs = row.expiresMs - platform.clock.nowMs();
    if (lifeMs > 0) await writer.change((tx) => tx.putRow(rowKeys.token(sha256), row, lifeMs));
  }
  for (const { name, value } of nodes) {
    await writer.change(async (tx) => {
      const before = await tx.find(nodeKind, "", name);
      if (before) tx.update(nodeKind, before, { value });
      else await tx.create(nodeKind, { project: "", name, value });
    });
  }
  platform.log.info("state restored", { nodes: nodes.length, revision });
  return { nodes: nodes.length, revision };
}

function parseJson(json: string): unknown {
  try {
    return JSON.parse(json);
  } catch (cause) {
    throw fault("invalid_argument", "export_invalid", "Cannot restore what is no JSON", { cause });
  }
}
