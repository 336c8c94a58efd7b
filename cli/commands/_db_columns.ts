import type { Database } from "@ultracloud/proto/flaredb/v1";
import { type Column, humanBytes } from "../frame/columns.ts";

export const databaseColumns: readonly Column<Database>[] = [
  { name: "name", get: (d) => d.name },
  { name: "size", get: (d) => humanBytes(d.bytes) },
  { name: "applied", get: (d) => String(d.appliedIndex) },
  { name: "replicas", get: (d) => d.replicas.join(",") + (d.placed ? "" : " (moving)") },
  { name: "learners", get: (d) => d.learners.join(","), wide: true },
  { name: "capture", get: (d) => d.settings?.capture ? "on" : "off", wide: true },
  { name: "archive", get: (d) => d.settings?.archive ? "on" : "off", wide: true },
];
