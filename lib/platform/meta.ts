import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { invalidField } from "@ultracloud/base";
import type { MetaSchema } from "@ultracloud/proto/common/v1";
import type { StoredRecord } from "./records.ts";

/** The `meta` field of a resource. */
export function toMeta(record: StoredRecord): MessageInitShape<typeof MetaSchema> {
  return {
    id: record.id,
    project: record.project,
    name: record.name,
    labels: { ...record.labels },
    etag: record.etag,
    createTime: timestampFromMs(record.createMs),
    updateTime: timestampFromMs(record.updateMs),
  };
}

/**
 * The fields an update changes, out of those that may change (`description`, `labels`). An absent or empty mask means
 * all of them. Paths may be written in snake_case or camelCase and with the prefix `meta.`.
 */
export function maskedFields<F extends string>(
  mask: { readonly paths: readonly string[] } | undefined,
  allowed: readonly F[],
): ReadonlySet<F> {
  if (!mask || mask.paths.length === 0) return new Set(allowed);
  const fields = new Set<F>();
  for (const [i, path] of mask.paths.entries()) {
    const name = path.replace(/^meta\./, "").replace(/_([a-z0-9])/g, (_, c: string) => c.toUpperCase());
    const field = allowed.find((f) => f === name);
    if (!field) {
      throw invalidField(
        `updateMask.paths.${i}`,
        `Cannot update ${JSON.stringify(path.slice(0, 80))}: wanted one of ${allowed.join(", ")}`,
      );
    }
    fields.add(field);
  }
  return fields;
}

/** Takes from `next` the fields in the mask, the rest from `current`. */
export function applyMask<T extends object>(
  current: T,
  next: Partial<T>,
  fields: ReadonlySet<string>,
): T {
  const out = { ...current };
  for (const key of fields) if (key in current || key in next) out[key as keyof T] = next[key as keyof T] as T[keyof T];
  return out;
}
