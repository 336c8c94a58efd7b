import { z } from "zod";

/** Names of nodes, classes, pools, rollouts, services and components. */
export const nameSchema = z.string().regex(
  /^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$/,
  "wanted 1 to 32 of a-z, 0-9 and inner hyphens",
);

export const labelsSchema = z.record(
  z.string().regex(
    /^[a-z0-9]([a-z0-9._/-]{0,61}[a-z0-9])?$/,
    "wanted a label key",
  ),
  z.string().max(128),
).default({});

/** A program and its arguments; no shell takes them apart. */
export const commandSchema = z.array(z.string().min(1).max(4096)).min(1).max(
  64,
);

/** Absolute, without a step upwards. */
export const absolutePathSchema = z.string().max(1024).regex(
  /^\/(?!.*(^|\/)\.\.?(\/|$))[^\0]*$/,
  "wanted an absolute path without . and ..",
);
