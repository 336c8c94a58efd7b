import { assert, concatBytes, utf8 } from "@ultracloud/base";

const sectorBytes = 2048;
const rootSector = 24;
const firstDataSector = 26;

/**
 * A read-only ISO 9660 file system with Joliet names and one flat directory (ECMA-119; Joliet specification 1.0).
 * The primary tree has 8.3 names for readers that know nothing else; Linux, Windows and cloud-init see the Joliet
 * ones. Times are 0, so the same files make the same bytes.
 */
export function writeIso(
  label: string,
  files: readonly { readonly name: string; readonly data: Uint8Array }[],
): Uint8Array<ArrayBuffer> {
  assert(/^[A-Za-z0-9_-]{1,16}$/.test(label), "a Joliet label has 1 to 16 plain characters");
  const sorted = [...files].sort((a, b) => (a.name < b.name ? -1 : 1));
  let sector = firstDataSector;
  const placed = sorted.map((file, i) => {
    const at = sector;
    sector += Math.max(1, Math.ceil(file.data.length / sectorBytes));
    return { ...file, at, shortName: `FILE${i}.BIN;1` };
  });
  const total = sector;
  const primary = directory(rootSector, placed.map((file) => ({ ...file, id: utf8.encode(file.shortName) })));
  const joliet = directory(rootSector + 1, placed.map((file) => ({ ...file, id: ucs2(file.name) })));
  return concatBytes([
    new Uint8Array(16 * sectorBytes),
    volume({ kind: 1, label, total, rootAt: rootSector, tablesAt: 19 }),
    volume({ kind: 2, label, total, rootAt: rootSector + 1, tablesAt: 21 }),
    terminator(),
    pathTable(rootSector, true),
    pathTable(rootSector, false),
    pathTable(rootSector + 1, true),
    pathTable(rootSector + 1, false),
    new Uint8Array(sectorBytes),
    primary,
    joliet,
    ...placed.flatMap((file) => [file.data, padding(file.data.length)]),
  ]);
}

/** Bytes that fill a file up to whole sectors; an empty one has a sector too. */
function padding(bytes: number): Uint8Array {
  return new Uint8Array(Math.max(1, Math.ceil(bytes / sectorBytes)) * sectorBytes - bytes);
}

interface Volume {
  readonly kind: 1 | 2;
  readonly label: string;
  readonly total: number;
  readonly rootAt: number;
  readonly tablesAt: number;
}

function volume(volume: Volume): Uint8Array {
  const block = new Uint8Array(sectorBytes);
  const view = new DataView(block.buffer);
  const joliet = volume.kind === 2;
  const text = (offset: number, bytes: number, value: string) => {
    const data = joliet ? ucs2(value.padEnd(bytes >> 1)) : utf8.encode(value.padEnd(bytes));
    block.set(data.subarray(0, bytes), offset);
  };
  block[0] = volume.kind;
  block.set(utf8.encode("CD001"), 1);
  block[6] = 1;
  text(8, 32, "LINUX");
  // Labels are upper case by the standard; cloud-init and udev read this one as it is.
  text(40, 32, volume.label);
  both32(view, 80, volume.total);
  // Escape sequence of UCS-2 level 3: what marks the tree as Joliet.
  if (joliet) block.set([0x25, 0x2f, 0x45], 88);
  both16(view, 120, 1);
  both16(view, 124, 1);
  both16(view, 128, sectorBytes);
  both32(view, 132, 10);
  view.setUint32(140, volume.tablesAt, true);
  view.setUint32(148, volume.tablesAt + 1, false);
  block.set(record(new Uint8Array(1), volume.rootAt, sectorBytes, true), 156);
  for (const [offset, bytes] of [[190, 128], [318, 128], [446, 128], [574, 128]] as const) text(offset, bytes, "");
  for (const [offset, bytes] of [[702, 37], [739, 37], [776, 37]] as const) text(offset, bytes, "");
  for (const offset of [813, 830, 847, 864]) block.set(utf8.encode("0".repeat(16)), offset);
  block[881] = 1;
  return block;
}

function terminator(): Uint8Array {
  const block = new Uint8Array(sectorBytes);
  block[0] = 255;
  block.set(utf8.encode("CD001"), 1);
  block[6] = 1;
  return block;
}

function pathTable(rootAt: number, little: boolean): Uint8Array {
  const block = new Uint8Array(sectorBytes);
  const view = new DataView(block.buffer);
  block[0] = 1;
  view.setUint32(2, rootAt, little);
  view.setUint16(6, 1, little);
  return block;
}

function directory(
  at: number,
  files: readonly { readonly id: Uint8Array; readonly at: number; readonly data: Uint8Array }[],
): Uint8Array {
  const records = [
    record(Uint8Array.of(0), at, sectorBytes, true),
    record(Uint8Array.of(1), at, sectorBytes, true),
    ...files.map((file) => record(file.id, file.at, file.data.length, false)),
  ];
  const bytes = concatBytes(records);
  assert(bytes.length <= sectorBytes, "a seed's directory fits one sector");
  const block = new Uint8Array(sectorBytes);
  block.set(bytes);
  return block;
}

function record(id: Uint8Array, at: number, bytes: number, isDirectory: boolean): Uint8Array {
  const length = 33 + id.length + (id.length % 2 === 0 ? 1 : 0);
  const block = new Uint8Array(length);
  const view = new DataView(block.buffer);
  block[0] = length;
  both32(view, 2, at);
  both32(view, 10, bytes);
  block.set([70, 1, 1, 0, 0, 0, 0], 18);
  block[25] = isDirectory ? 2 : 0;
  both16(view, 28, 1);
  block[32] = id.length;
  block.set(id, 33);
  return block;
}

function both16(view: DataView, offset: number, value: number): void {
  view.setUint16(offset, value, true);
  view.setUint16(offset + 2, value, false);
}

function both32(view: DataView, offset: number, value: number): void {
  view.setUint32(offset, value, true);
  view.setUint32(offset + 4, value, false);
}

function ucs2(text: string): Uint8Array {
  const bytes = new Uint8Array(text.length * 2);
  const view = new DataView(bytes.buffer);
  for (let i = 0; i < text.length; i++) view.setUint16(i * 2, text.charCodeAt(i), false);
  return bytes;
}
