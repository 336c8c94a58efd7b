import { z } from "zod";
import { nameSchema } from "./_names.ts";

/** How a change of desired systems goes over several nodes. A node is in one rollout at most. */
export const rolloutSchema = z.strictObject({
  classes: z.array(nameSchema).max(64).default([]),
  pools: z.array(nameSchema).max(64).default([]),
  nodes: z.array(nameSchema).max(4096).default([]),
  batchSize: z.number().int().min(1).max(4096).default(1).describe(
    "Nodes that are changed at the same time",
  ),
  maxUnavailable: z.number().int().min(1).max(4096).default(1).describe(
    "Nodes that may be down, unhealthy or in change at once; a batch never takes more",
  ),
  healthyMsMin: z.number().int().min(0).max(86_400_000).default(0).describe(
    "How long a batch must have been active before the next one",
  ),
  failuresMax: z.number().int().min(0).max(4096).default(0).describe(
    "Nodes that may fail before it stops by itself",
  ),
  paused: z.boolean().default(false).describe(
    "Declared paused: no further batch begins",
  ),
});

export type Rollout = z.infer<typeof rolloutSchema>;
