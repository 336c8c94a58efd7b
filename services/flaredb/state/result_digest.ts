import { create, toBinary } from "@bufbuild/protobuf";
import { ResultSetSchema } from "@ultracloud/proto/flaredb/v1";
import { createHash } from "node:crypto";
import type { ResultSet } from "./sql_runner.ts";

export const digestBytes = 32;

/** Of everything that a statement answered; the same on every replica, as its state is. */
export function digestOf(result: ResultSet): Uint8Array<ArrayBuffer> {
  const bytes = toBinary(ResultSetSchema, create(ResultSetSchema, result));
  return new Uint8Array(createHash("sha256").update(bytes).digest());
}
