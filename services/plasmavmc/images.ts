import { checkLabels, checkName, fault, invalidField } from "@ultracloud/base";
import { idempotencyOf, type Platform, projectScope, resourceScope } from "@ultracloud/platform";
import {
  DeleteImageRequestSchema,
  DeleteImageResponseSchema,
  ImageService,
  type ImportImageHeader,
  type ImportImageRequest,
} from "@ultracloud/proto/plasmavmc/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import { probeImage, type ProbeLimits } from "./domain/image_probe.ts";
import type { ImageEngine } from "./image_engine.ts";
import { contentKey, imageKind, imageUseKey } from "./kinds.ts";
import { fromFormat, type ImageInit, toImage, views } from "./wire.ts";

export interface ImageOptions extends ProbeLimits {
  readonly bytesMax: number;
}

const chunkBytesMax = 1024 * 1024;

function tooLarge(bytes: number, bytesMax: number) {
  return fault("resource_exhausted", "image_too_large", `Cannot take ${bytes} bytes: wanted at most ${bytesMax}`, {
    field: "chunk",
  });
}

function checkHeader(header: ImportImageHeader, o: ImageOptions) {
  const bytes = Number(header.bytes);
  if (bytes < 0 || bytes > o.bytesMax) throw tooLarge(bytes, o.bytesMax);
  if (header.sha256 !== "" && !/^[0-9a-f]{64}$/.test(header.sha256)) {
    throw invalidField("header.sha256", "Cannot use the digest: wanted 64 lower-case hex digits");
  }
  checkLabels(header.labels, "header.labels");
  return {
    project: projectScope(header.project),
    name: checkName(header.name, "header.name"),
    format: fromFormat(header.format, "header.format"),
    labels: header.labels,
    sha256: header.sha256,
    bytes,
  };
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

export function imageService(platform: Platform, engine: ImageEngine, o: ImageOptions): BoundService {
  const scope = (project: string, image: string) => resourceScope("plasmavmc", "image", project, image);

  async function importImage(requests: AsyncIterable<ImportImageRequest>): Promise<ImageInit> {
    const parts = requests[Symbol.asyncIterator]();
    const upload = await engine.begin();
    try {
      const first = (await parts.next()).value as ImportImageRequest | undefined;
      if (first?.part.case !== "header") {
        throw invalidField("header", "Cannot import without a header: wanted it first");
      }
      const header = checkHeader(first.part.value, o);
      if (await platform.find(imageKind, header.project, header.name)) {
        throw fault(
          "already_exists",
          "image_exists",
          `Cannot create image ${header.name} in ${header.project} as the name is taken`,
          { field: "header.name" },
        );
      }
      for (;;) {
        const next = await parts.next();
        if (next.done) break;
        const { part } = next.value;
        if (part.case !== "chunk") {
          throw invalidField("chunk", "Cannot import a second header: wanted chunks after the first");
        }
        if (part.value.length > chunkBytesMax) {
          throw invalidField(
            "chunk",
            `Cannot take a chunk of ${part.value.length} bytes: wanted at most ${chunkBytesMax}`,
          );
        }
        const limit = header.bytes > 0 ? header.bytes : o.bytesMax;
        if (upload.bytes + part.value.length > limit) throw tooLarge(upload.bytes + part.value.length, limit);
        await upload.write(part.value);
      }
      const { sha256, bytes, readAt } = await upload.finish();
      if (header.bytes > 0 && bytes !== header.bytes) {
        throw fault("data_loss", "image_cut_off", `Cannot take ${bytes} bytes: wanted ${header.bytes}`);
      }
      if (header.sha256 !== "" && sha256 !== header.sha256) {
        throw fault("data_loss", "image_digest_mismatch", `Cannot take content ${sha256}: wanted ${header.sha256}`, {
          field: "header.sha256",
        });
      }
      const { virtualBytes } = await probeImage(header.format, readAt, bytes, o);
      return await engine.alone(sha256, async () => {
        await upload.keep();
        return await platform.transact(async (tx) => {
          const { project, name, labels, format } = header;
          const value = { format, bytes, sha256, virtualBytes };
          const image = await tx.create(imageKind, { project, name, labels, value });
          tx.putRow(contentKey(sha256, image.id), image.id);
          return toImage(image);
        });
      });
    } finally {
      await upload.discard();
      await parts.return?.();
    }
  }

  return bind(ImageService, {
    importImage,
    getImage: async (request) => toImage(await platform.get(imageKind, request.project, request.image)),
    async listImages(request) {
      const page = await platform.page(imageKind, { project: request.project, page: request.page, view: views.image });
      return { images: page.items.map(toImage), page: { nextPageToken: page.nextPageToken } };
    },
    async deleteImage(request, context) {
      let sha256 = "";
      const answer = await platform.transact(async (tx) => {
        const image = await tx.get(imageKind, request.project, request.image);
        await tx.guard(image.id);
        const [use] = await platform.kv.scan("rows", { prefix: imageUseKey(image.id), limit: 1 });
        if (use) {
          throw fault(
            "failed_precondition",
            "image_in_use",
            `Cannot delete image ${image.name} as ${
              use.key.slice(imageUseKey(image.id).length)
            } uses it: wanted no VMs`,
          );
        }
        tx.remove(imageKind, image, { etag: request.etag });
        tx.deleteRow(contentKey(image.value.sha256, image.id));
        sha256 = image.value.sha256;
        return {};
      }, { idempotency: idempotencyOf(context, DeleteImageRequestSchema, request, DeleteImageResponseSchema) });
      if (sha256 !== "") {
        await engine.alone(sha256, async () => {
          const [other] = await platform.kv.scan("rows", { prefix: contentKey(sha256), limit: 1 });
          if (!other) await engine.remove(sha256);
        });
      }
      return answer;
    },
    async *readImage(request, context) {
      for await (const chunk of engine.read(request.sha256, Number(request.offset), context.signal)) yield { chunk };
    },
  }, {
    importImage: {
      resource: "image",
      action: "create",
      scope: (r) => {
        if (r.part.case !== "header") throw invalidField("header", "Cannot import without a header: wanted it first");
        return projectScope(r.part.value.project);
      },
    },
    getImage: { resource: "image", action: "get", scope: (r) => scope(r.project, r.image) },
    listImages: { resource: "image", action: "list", scope: (r) => projectScope(r.project) },
    deleteImage: { resource: "image", action: "delete", scope: (r) => scope(r.project, r.image) },
    readImage: { resource: "image", action: "read", scope: () => "" },
  });
}
