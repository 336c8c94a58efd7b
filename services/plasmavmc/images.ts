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
import type { ImageEngine } from "./image_engine.ts";
import { contentKey, imageKind, imageUseKey } from "./kinds.ts";
import { dropContent, type ImageOptions, storeImage, tooLarge } from "./image_store.ts";
import { fromFormat, type ImageInit, toImage, views } from "./wire.ts";

const chunkBytesMax = 1024 * 1024;

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

/** The chunks after the header. */
async function* chunksOf(parts: AsyncIterator<ImportImageRequest>): AsyncIterable<Uint8Array> {
  for (;;) {
    const next = await parts.next();
    if (next.done) return;
    const { part } = next.value;
    if (part.case !== "chunk") {
      throw invalidField("chunk", "Cannot import a second header: wanted chunks after the first");
    }
    if (part.value.length > chunkBytesMax) {
      throw invalidField("chunk", `Cannot take a chunk of ${part.value.length} bytes: wanted at most ${chunkBytesMax}`);
    }
    yield part.value;
  }
}

export function imageService(platform: Platform, engine: ImageEngine, o: ImageOptions): BoundService {
  const scope = (project: string, image: string) => resourceScope("plasmavmc", "image", project, image);

  async function importImage(requests: AsyncIterable<ImportImageRequest>): Promise<ImageInit> {
    const parts = requests[Symbol.asyncIterator]();
    try {
      const first = (await parts.next()).value as ImportImageRequest | undefined;
      if (first?.part.case !== "header") {
        throw invalidField("header", "Cannot import without a header: wanted it first");
      }
      const header = checkHeader(first.part.value, o);
      return toImage(await storeImage(platform, engine, o, header, chunksOf(parts)));
    } finally {
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
      if (sha256 !== "") await dropContent(platform, engine, sha256);
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
