import { fault } from "@ultracloud/base";
import { z } from "zod";
import { type ClusterState, clusterStateSchema } from "./schema.ts";

/** A state of 4096 nodes with their services is a few MB; more is a mistake. */
export const clusterStateBytesMax = 8 * 2 ** 20;

/** The cluster that `text` describes; `source` names it in errors, which name the path of each part at fault. */
export function parseClusterState(text: string, source: string): ClusterState {
  if (text.length > clusterStateBytesMax) {
    throw fault(
      "invalid_argument",
      "cluster_invalid",
      `Cannot read ${source} of ${text.length} characters: wanted at most ${clusterStateBytesMax}`,
    );
  }
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw fault(
      "invalid_argument",
      "cluster_invalid",
      `Cannot read ${source} as JSON`,
      { cause },
    );
  }
  const result = clusterStateSchema.safeParse(json);
  if (result.success) return result.data;
  throw fault(
    "invalid_argument",
    "cluster_invalid",
    `Cannot use ${source}: ${z.prettifyError(result.error)}`,
  );
}
