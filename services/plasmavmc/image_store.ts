import { fault } from "@ultracloud/base";
import type { Platform, StoredRecord } from "@ultracloud/platform";
import { probeImage, type ProbeLimits } from "./domain/image_probe.ts";
import type { Image, ImageFormat } from "./domain/types.ts";
import type { ImageEngine } from "./image_engine.ts";
import { contentKey, imageKind, imageUseKey } from "./kinds.ts";

export interface ImageOptions extends ProbeLimits {
  readonly bytesMax: number;
}

export interface NewImage {
  readonly project: string;
  readonly name: string;
  readonly format: ImageFormat;
  readonly labels: Readonly<Record<string, string>>;
  /** Refused when the content differs; empty: computed only. */
  readonly sha256: string;
  /** 0: unknown beforehand. */
  readonly bytes: number;
  /** Chosen by a saga that must know it before. */
  readonly id?: string;
}

export function tooLarge(bytes: number, bytesMax: number) {
  return fault("resource_exhausted", "image_too_large", `Cannot take ${bytes} bytes: wanted at most ${bytesMax}`, {
    field: "chunk",
  });
}

/** Takes content in, checks it against its declared format and keeps it under a new record. */
export async function storeImage(
  platform: Platform,
  engine: ImageEngine,
  o: ImageOptions,
  fresh: NewImage,
  chunks: AsyncIterable<Uint8Array>,
): Promise<StoredRecord<Image>> {
  if (await platform.find(imageKind, fresh.project, fresh.name)) {
    throw fault(
      "already_exists",
      "image_exists",
      `Cannot create image ${fresh.name} in ${fresh.project} as the name is taken`,
      { field: "header.name" },
    );
  }
  const upload = await engine.begin();
  try {
    for await (const chunk of chunks) {
      const limit = fresh.bytes > 0 ? fresh.bytes : o.bytesMax;
      if (upload.bytes + chunk.length > limit) throw tooLarge(upload.bytes + chunk.length, limit);
      await upload.write(chunk);
    }
    const { sha256, bytes, readAt } = await upload.finish();
    if (fresh.bytes > 0 && bytes !== fresh.bytes) {
      throw fault("data_loss", "image_cut_off", `Cannot take ${bytes} bytes: wanted ${fresh.bytes}`);
    }
    if (fresh.sha256 !== "" && sha256 !== fresh.sha256) {
      throw fault("data_loss", "image_digest_mismatch", `Cannot take content ${sha256}: wanted ${fresh.sha256}`, {
        field: "header.sha256",
      });
    }
    const { virtualBytes } = await probeImage(fresh.format, readAt, bytes, o);
    return await engine.alone(sha256, async () => {
      await upload.keep();
      return await platform.transact(async (tx) => {
        const { project, name, labels, format, id } = fresh;
        const value = { format, bytes, sha256, virtualBytes };
        const image = await tx.create(imageKind, { project, name, labels, value, ...(id === undefined ? {} : { id }) });
        tx.putRow(contentKey(sha256, image.id), image.id);
        return image;
      });
    });
  } finally {
    await upload.discard();
  }
}

/** Removes content that no image has. */
export async function dropContent(platform: Platform, engine: ImageEngine, sha256: string): Promise<void> {
  await engine.alone(sha256, async () => {
    const [other] = await platform.kv.scan("rows", { prefix: contentKey(sha256), limit: 1 });
    if (!other) await engine.remove(sha256);
  });
}

/** Takes back an image that an operation stored and then did not finish with; one that a VM already uses stays. */
export async function dropImage(platform: Platform, engine: ImageEngine, id: string): Promise<void> {
  const sha256 = await platform.transact(async (tx) => {
    const image = await tx.findById(imageKind, id);
    if (!image) return undefined;
    await tx.guard(image.id);
    const [use] = await platform.kv.scan("rows", { prefix: imageUseKey(image.id), limit: 1 });
    if (use) return undefined;
    tx.remove(imageKind, image);
    tx.deleteRow(contentKey(image.value.sha256, image.id));
    return image.value.sha256;
  });
  if (sha256 !== undefined) await dropContent(platform, engine, sha256);
}

/** Drops content that no image has any more: deletes that died half-way, imports that died before their record. */
export async function sweepContent(platform: Platform, engine: ImageEngine): Promise<number> {
  let dropped = 0;
  for (const sha256 of await engine.list()) {
    await engine.alone(sha256, async () => {
      const [use] = await platform.kv.scan("rows", { prefix: contentKey(sha256), limit: 1 });
      if (use) return;
      await engine.remove(sha256);
      dropped++;
    });
  }
  return dropped;
}
