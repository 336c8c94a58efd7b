import { fault, utf8 } from "@ultracloud/base";
import { siteConfig, siteMark } from "../../baremetal/site_config.ts";

/**
 * One ISO for every site: nobody can type a kernel's parameters at a BMC. The ISO carries a file of fixed size that its
 * boot loader reads; the bytes of that file are replaced while the ISO is served or written. Nothing else moves, so no
 * tool for ISOs is needed, and no copy with a token in it ever lies on a disk of ours.
 */

/** Hybrid images may carry the file once for each firmware. */
const placesMax = 8;
const scanBytes = 4 * 1024 * 1024;
const cdSignature = { at: 0x8001, text: "CD001" } as const;

/** What is wrong with the file as an image to boot from; undefined when nothing is. */
export async function judgeIso(file: string, wantsSite: boolean): Promise<string | undefined> {
  let size: number;
  try {
    const info = await Deno.stat(file);
    if (!info.isFile) return `${file} is no file`;
    size = info.size;
  } catch (error) {
    return `${file} cannot be read: ${error instanceof Error ? error.message : error}`;
  }
  using source = await Deno.open(file);
  const head = new Uint8Array(cdSignature.text.length);
  await readAt(source, cdSignature.at, head);
  if (new TextDecoder().decode(head) !== cdSignature.text) return `${file} (${size} bytes) is no ISO image`;
  if (wantsSite && (await placesOf(file)).length === 0) {
    return `${file} has no place for parameters: wanted one with /boot/grub/site.cfg, or --iso-parameters baked`;
  }
  return undefined;
}

/** Where site files begin in an image. */
async function placesOf(file: string): Promise<number[]> {
  const wanted = utf8.encode(siteMark);
  using source = await Deno.open(file);
  const { size } = await source.stat();
  const found: number[] = [];
  for (let at = 0; at < size && found.length < placesMax; at += scanBytes) {
    // Pieces overlap, so that no place lies between two.
    const piece = new Uint8Array(Math.min(scanBytes + wanted.length, size - at));
    await readAt(source, at, piece);
    for (let i = indexOf(piece, wanted, 0); i >= 0 && i < scanBytes; i = indexOf(piece, wanted, i + 1)) {
      found.push(at + i);
    }
  }
  return found;
}

function indexOf(bytes: Uint8Array, wanted: Uint8Array, from: number): number {
  for (let i = bytes.indexOf(wanted[0]!, from); i >= 0; i = bytes.indexOf(wanted[0]!, i + 1)) {
    if (wanted.every((byte, j) => bytes[i + j] === byte)) return i;
  }
  return -1;
}

/** An image with its site file replaced, as it is read. */
export interface SiteImage {
  readonly bytesCount: number;
  /** Bytes from `start` to before `end`. */
  read(start: number, end: number): ReadableStream<Uint8Array<ArrayBuffer>>;
}

/** Opens an image for reading with these parameters, or as it is when there are none. */
export async function openSiteImage(file: string, cmdline: string | undefined): Promise<SiteImage> {
  const { size } = await Deno.stat(file);
  const places = cmdline === undefined ? [] : await placesOf(file);
  const patch = cmdline === undefined ? new Uint8Array() : siteConfig(cmdline);
  if (cmdline !== undefined && places.length === 0) {
    throw fault(
      "failed_precondition",
      "iso_without_site",
      `Cannot write parameters into ${file}: it has no place for them`,
    );
  }
  return {
    bytesCount: size,
    read(start, end) {
      let at = start;
      let source: Deno.FsFile | undefined;
      return new ReadableStream({
        async pull(controller) {
          source ??= await Deno.open(file);
          if (at >= end) {
            source.close();
            return controller.close();
          }
          const piece = new Uint8Array(Math.min(256 * 1024, end - at));
          await readAt(source, at, piece);
          for (const place of places) overlay(piece, at, patch, place);
          at += piece.length;
          controller.enqueue(piece);
        },
        cancel() {
          source?.close();
        },
      });
    },
  };
}

/** Writes that part of `patch` (at `place` of the image) which falls into `piece` (at `at` of it). */
function overlay(piece: Uint8Array, at: number, patch: Uint8Array, place: number): void {
  const from = Math.max(at, place);
  const to = Math.min(at + piece.length, place + patch.length);
  if (from < to) piece.set(patch.subarray(from - place, to - place), from - at);
}

async function readAt(source: Deno.FsFile, at: number, into: Uint8Array): Promise<void> {
  await source.seek(at, Deno.SeekMode.Start);
  for (let got = 0; got < into.length;) {
    const n = await source.read(into.subarray(got));
    if (n === null) return;
    got += n;
  }
}
