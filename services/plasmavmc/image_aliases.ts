import { checkName, fault } from "@ultracloud/base";
import { idempotencyOf, type Platform, projectScope, resourceScope } from "@ultracloud/platform";
import {
  AddImageVersionRequestSchema,
  DeleteImageAliasResponseSchema,
  ImageAliasRequestSchema,
  ImageAliasSchema,
  ImageAliasService,
} from "@ultracloud/proto/plasmavmc/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import { aliasKind, imageKind, imageUseKey } from "./kinds.ts";
import { toAlias } from "./wire_storage.ts";

/** Versions of one alias; older ones go out of use by a new alias. */
const versionsMax = 256;

/** Names for numbered versions of an image. A version keeps its image from being deleted. */
export function imageAliasService(platform: Platform): BoundService {
  const scope = (project: string, alias: string) => resourceScope("plasmavmc", "image_alias", project, alias, "alias");
  return bind(ImageAliasService, {
    addImageVersion(request, context) {
      const name = checkName(request.alias, "alias");
      const { project } = request;
      return platform.transact(async (tx) => {
        const image = await tx.get(imageKind, project, request.image);
        if (await tx.find(imageKind, project, name)) {
          throw fault("already_exists", "image_exists", `Cannot name versions ${name} as an image has that name`, {
            field: "alias",
          });
        }
        const present = await tx.find(aliasKind, project, name);
        const versions = present?.value.versions ?? [];
        if (present && versions.at(-1)?.imageId === image.id) return toAlias(present);
        if (versions.length >= versionsMax) {
          throw fault(
            "resource_exhausted",
            "too_many_versions",
            `Cannot keep more than ${versionsMax} versions of ${name}`,
          );
        }
        const next = { number: (versions.at(-1)?.number ?? 0) + 1, imageId: image.id, sha256: image.value.sha256 };
        const value = { versions: [...versions, next] };
        const alias = present
          ? tx.update(aliasKind, present, { value })
          : await tx.create(aliasKind, { project, name, value });
        tx.putRow(imageUseKey(image.id, alias.id), alias.id);
        tx.touch(image.id);
        return toAlias(alias);
      }, { idempotency: idempotencyOf(context, AddImageVersionRequestSchema, request, ImageAliasSchema) });
    },
    getImageAlias: async (request) => toAlias(await platform.get(aliasKind, request.project, request.alias)),
    async listImageAliases(request) {
      const page = await platform.page(aliasKind, { project: request.project, page: request.page });
      return { aliases: page.items.map(toAlias), page: { nextPageToken: page.nextPageToken } };
    },
    deleteImageAlias: (request, context) =>
      platform.transact(async (tx) => {
        const alias = await tx.get(aliasKind, request.project, request.alias);
        tx.remove(aliasKind, alias);
        for (const { imageId } of alias.value.versions) tx.deleteRow(imageUseKey(imageId, alias.id));
        return {};
      }, { idempotency: idempotencyOf(context, ImageAliasRequestSchema, request, DeleteImageAliasResponseSchema) }),
  }, {
    addImageVersion: { resource: "image_alias", action: "create", scope: (r) => projectScope(r.project) },
    getImageAlias: { resource: "image_alias", action: "get", scope: (r) => scope(r.project, r.alias) },
    listImageAliases: { resource: "image_alias", action: "list", scope: (r) => projectScope(r.project) },
    deleteImageAlias: { resource: "image_alias", action: "delete", scope: (r) => scope(r.project, r.alias) },
  });
}
