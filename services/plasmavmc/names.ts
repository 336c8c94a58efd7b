import { fault } from "@ultracloud/base";
import type { Platform, StoredRecord, Tx } from "@ultracloud/platform";
import { builtinFlavor, builtinFlavors, flavorNotFound } from "./domain/flavors.ts";
import type { Flavor, Image } from "./domain/types.ts";
import { aliasKind, flavorKind, imageKind } from "./kinds.ts";

/** The size of this name: one of the platform's own, or an administrator's. */
export async function flavorOf(tx: Tx, platform: Platform, name: string): Promise<Flavor> {
  const builtin = builtinFlavor(name);
  if (builtin) return builtin;
  const record = await tx.find(flavorKind, "", name);
  if (record) return { name: record.name, ...record.value, builtin: false };
  const stored = await platform.list(flavorKind, "");
  throw flavorNotFound(name, [...builtinFlavors.map((f) => f.name), ...stored.map((f) => f.name)]);
}

/** The image a text names: an image's name or id, an alias (its newest version), `alias@latest` or `alias@2`. */
export async function imageOf(tx: Tx, project: string, text: string): Promise<StoredRecord<Image>> {
  const at = text.indexOf("@");
  const name = at < 0 ? text : text.slice(0, at);
  if (at < 0) {
    const image = await tx.find(imageKind, project, name);
    if (image) return image;
  }
  const alias = await tx.find(aliasKind, project, name);
  if (!alias) return await tx.get(imageKind, project, text.slice(0, 80));
  const wanted = at < 0 ? "latest" : text.slice(at + 1);
  const { versions } = alias.value;
  const version = wanted === "latest" ? versions.at(-1) : versions.find((v) => String(v.number) === wanted);
  if (!version) {
    throw fault(
      "not_found",
      "image_version_not_found",
      `Cannot find version ${
        JSON.stringify(wanted.slice(0, 20))
      } of image ${name}: wanted latest or 1 to ${versions.length}`,
      { field: "image" },
    );
  }
  return await tx.getById(imageKind, version.imageId);
}
