import { buildRouteMap } from "@stricli/core";
import { fault } from "@ultracloud/base";
import {
  type Image,
  type ImageAlias,
  ImageAliasSchema,
  ImageAliasService,
  ImageFormat,
  ImageIntakeService,
  ImageSchema,
  ImageService,
} from "@ultracloud/proto/plasmavmc/v1";
import { type Column, enumName, humanBytes } from "../frame/columns.ts";
import { command, text } from "../frame/command.ts";
import { follow } from "../frame/operations.ts";
import { fileSource, type ImageSource, urlSource } from "./_image_source.ts";
import { labelFlag, labelsOf, metaColumns, pages } from "./_shared.ts";

const imageColumns: readonly Column<Image>[] = [
  ...metaColumns<Image>(),
  { name: "format", get: (i) => enumName(ImageFormat, i.format) },
  { name: "size", get: (i) => humanBytes(i.bytes), order: (i) => Number(i.bytes) },
  { name: "sha256", get: (i) => i.sha256.slice(0, 12) },
  { name: "digest", get: (i) => i.sha256, wide: true },
];
const aliasColumns: readonly Column<ImageAlias>[] = [
  ...metaColumns<ImageAlias>(),
  { name: "latest", get: (a) => String(a.versions.at(-1)?.number ?? "") },
  { name: "sha256", get: (a) => a.versions.at(-1)?.sha256.slice(0, 12) ?? "" },
  { name: "versions", get: (a) => a.versions.map((v) => `${v.number}=${v.imageId}`).join(" "), wide: true },
];

const formats: Readonly<Record<string, ImageFormat>> = {
  raw: ImageFormat.RAW,
  qcow2: ImageFormat.QCOW2,
  "kernel-bundle": ImageFormat.KERNEL_BUNDLE,
};
interface NewImage {
  project: string;
  name: string;
  format: ImageFormat;
  sha256?: string;
  labels?: Record<string, string>;
}

/** The messages of an image import: header, then the file in chunks. */
export async function* importMessages(
  file: string,
  header: NewImage,
  onProgress: (sent: number, total: number) => void = () => {},
) {
  yield* messagesOf(await fileSource(file), header, onProgress);
}

async function* messagesOf(source: ImageSource, header: NewImage, onProgress: (sent: number, total: number) => void) {
  yield { part: { case: "header" as const, value: { ...header, bytes: BigInt(source.bytes) } } };
  let sent = 0;
  for await (const chunk of source.chunks()) {
    sent += chunk.length;
    yield { part: { case: "chunk" as const, value: chunk } };
    onProgress(sent, source.bytes);
  }
}

const imageArg = [{ brief: "Image, name or id", placeholder: "image" }] as const;

export const image = buildRouteMap({
  docs: { brief: "VM images" },
  routes: {
    list: command({
      brief: "List images",
      async run({ session, list }) {
        const client = session.client(ImageService, "plasmavmc");
        const { project } = session;
        await list(
          ImageSchema,
          await pages((page) => client.listImages({ project, page }), (r) => r.images),
          imageColumns,
        );
      },
    }),
    show: command<Record<never, never>, [string]>({
      brief: "Show an image",
      args: imageArg,
      async run({ session, one }, _flags, image) {
        await one(
          ImageSchema,
          await session.client(ImageService, "plasmavmc").getImage({ project: session.project, image }),
          imageColumns,
        );
      },
    }),
    import: command<
      { file?: string; url?: string; format: string; sha256?: string; label?: readonly string[] },
      [string]
    >({
      brief: "Import an image from a file, or from a URL that this machine fetches",
      details:
        "A URL is fetched by `uc` itself, so from where only this machine gets, too, and passed on as it comes. " +
        "Over plain http --sha256 is needed.",
      args: [{ brief: "Name", placeholder: "name" }],
      flags: {
        file: { kind: "parsed", parse: text, optional: true, brief: "Image file" },
        url: { kind: "parsed", parse: text, optional: true, brief: "Where to fetch it, https or http" },
        format: { kind: "enum", values: Object.keys(formats), brief: "What the file is; never guessed" },
        sha256: { kind: "parsed", parse: text, optional: true, brief: "Digest the content must have" },
        label: labelFlag,
      },
      async run({ session, one, io }, flags, name) {
        if ((flags.file === undefined) === (flags.url === undefined)) {
          throw fault("invalid_argument", "flags_exclude", "Cannot import without one source: wanted --file or --url");
        }
        const source = flags.url === undefined
          ? await fileSource(flags.file!)
          : await urlSource(flags.url, { sha256: flags.sha256, signal: io.signal });
        const header = {
          project: session.project,
          name,
          format: formats[flags.format]!,
          ...(flags.sha256 ? { sha256: flags.sha256 } : {}),
          labels: labelsOf(flags.label),
        };
        const messages = messagesOf(source, header, (sent, total) => {
          const whole = total > 0 ? ` of ${humanBytes(total)}` : "";
          if (io.interactive) io.err(`\r\x1b[KSent ${humanBytes(sent)}${whole}`);
        });
        const value = await session.client(ImageService, "plasmavmc").importImage(messages);
        if (io.interactive) io.err("\r\x1b[K");
        await one(ImageSchema, value, imageColumns);
      },
    }),
    fetch: command<{ url: string; format: string; sha256?: string; label?: readonly string[] }, [string]>({
      brief: "Have the cloud fetch an image from a public URL",
      details: "Only servers with public addresses are reached. Over plain http --sha256 is needed.",
      args: [{ brief: "Name", placeholder: "name" }],
      flags: {
        url: { kind: "parsed", parse: text, brief: "Where it is, https or http" },
        format: { kind: "enum", values: Object.keys(formats), brief: "What the content is; never guessed" },
        sha256: { kind: "parsed", parse: text, optional: true, brief: "Digest the content must have" },
        label: labelFlag,
      },
      async run(run, flags, name) {
        const { project } = run.session;
        const operation = await run.session.client(ImageIntakeService, "plasmavmc").fetchImage({
          project,
          name,
          url: flags.url,
          sha256: flags.sha256 ?? "",
          format: formats[flags.format]!,
          labels: labelsOf(flags.label),
        });
        if (!await follow(run, "plasmavmc", project, operation)) return;
        const image = await run.session.client(ImageService, "plasmavmc").getImage({ project, image: name });
        await run.one(ImageSchema, image, imageColumns);
      },
    }),
    publish: command<{ vm?: string; snapshot?: string; volume?: string; label?: readonly string[] }, [string]>({
      brief: "Make an image of a VM's disk as it is at one instant",
      args: [{ brief: "Name", placeholder: "name" }],
      flags: {
        vm: { kind: "parsed", parse: text, optional: true, brief: "VM whose disk it is" },
        snapshot: { kind: "parsed", parse: text, optional: true, brief: "Snapshot that holds the disk, instead" },
        volume: { kind: "parsed", parse: text, optional: true, brief: "Volume; without it the root disk" },
        label: labelFlag,
      },
      async run(run, flags, name) {
        const { session } = run;
        const { project } = session;
        const operation = await session.client(ImageIntakeService, "plasmavmc").publishImage({
          project,
          name,
          vm: flags.vm ?? "",
          snapshot: flags.snapshot ?? "",
          volume: flags.volume ?? "",
          labels: labelsOf(flags.label),
        });
        if (!await follow(run, "plasmavmc", project, operation)) return;
        const image = await session.client(ImageService, "plasmavmc").getImage({ project, image: name });
        await run.one(ImageSchema, image, imageColumns);
      },
    }),
    alias: buildRouteMap({
      docs: { brief: "Names for numbered versions: NAME, NAME@latest, NAME@2" },
      routes: {
        list: command({
          brief: "List aliases",
          async run({ session, list }) {
            const client = session.client(ImageAliasService, "plasmavmc");
            const { project } = session;
            const all = await pages((page) => client.listImageAliases({ project, page }), (r) => r.aliases);
            await list(ImageAliasSchema, all, aliasColumns);
          },
        }),
        show: command<Record<never, never>, [string]>({
          brief: "Show an alias with its versions",
          args: [{ brief: "Alias", placeholder: "alias" }],
          async run({ session, one }, _flags, alias) {
            const client = session.client(ImageAliasService, "plasmavmc");
            await one(
              ImageAliasSchema,
              await client.getImageAlias({ project: session.project, alias }),
              aliasColumns,
            );
          },
        }),
        add: command<Record<never, never>, [string, string]>({
          brief: "Make an image the newest version of an alias",
          args: [{ brief: "Alias", placeholder: "alias" }, { brief: "Image, name or id", placeholder: "image" }],
          async run({ session, one }, _flags, alias, image) {
            const client = session.client(ImageAliasService, "plasmavmc");
            await one(
              ImageAliasSchema,
              await client.addImageVersion({ project: session.project, alias, image }),
              aliasColumns,
            );
          },
        }),
        delete: command<Record<never, never>, [string]>({
          brief: "Delete an alias; its images stay",
          args: [{ brief: "Alias", placeholder: "alias" }],
          async run({ session, confirm, io }, _flags, alias) {
            confirm(`Delete the alias ${alias}?`);
            await session.client(ImageAliasService, "plasmavmc").deleteImageAlias({ project: session.project, alias });
            io.err(`Deleted alias ${alias}\n`);
          },
        }),
      },
    }),
    delete: command<Record<never, never>, [string]>({
      brief: "Delete an image no VM uses",
      args: imageArg,
      async run({ session, confirm, io }, _flags, image) {
        confirm(`Delete the image ${image}?`);
        await session.client(ImageService, "plasmavmc").deleteImage({ project: session.project, image });
        io.err(`Deleted image ${image}\n`);
      },
    }),
  },
});
