/**
 * The smallest things a BIOS boots: a few bytes of real-mode code that write text to the first serial port and then
 * restart the machine or stop. They stand for an installer and an installed disk where neither is what is under test.
 */

const diskSectorBytes = 512;
const cdSectorBytes = 2048;

/** Code and text for address 0x7c00; `then` is what happens after the text. */
function program(text: string, then: "restart" | "stop"): Uint8Array {
  const tail = then === "restart"
    // mov al, 0xfe; out 0x64, al: the keyboard controller pulls the reset line.
    ? [0xb0, 0xfe, 0xe6, 0x64, 0xf4, 0xeb, 0xfd]
    // hlt, for ever.
    : [0xf4, 0xeb, 0xfd];
  const code = [
    ...[0xfa, 0x0e, 0x1f], // cli; push cs; pop ds
    ...[0xe8, 0x00, 0x00, 0x5e], // call $+3; pop si: si is this address, wherever the BIOS put us
    ...[0x83, 0xc6, 0x00], // add si, <distance to the text>, set below
    0xfc, // cld
    // next: lodsb; test al, al; jz done; mov ah, al
    ...[0xac, 0x84, 0xc0, 0x74, 0x12, 0x88, 0xc4],
    // wait: mov dx, 0x3fd; in al, dx; test al, 0x20; jz wait
    ...[0xba, 0xfd, 0x03, 0xec, 0xa8, 0x20, 0x74, 0xf8],
    // mov dx, 0x3f8; mov al, ah; out dx, al; jmp next
    ...[0xba, 0xf8, 0x03, 0x88, 0xe0, 0xee, 0xeb, 0xe9],
    ...tail,
  ];
  // The address that `pop si` gives is that of the pop itself, six bytes in.
  code[9] = code.length - 6;
  return new Uint8Array([...code, ...new TextEncoder().encode(text), 0]);
}

/** A disk whose boot sector says `text`. */
export function tinyDisk(text: string, then: "restart" | "stop"): Uint8Array {
  const bytes = program(text, then);
  if (bytes.length > 510) throw new RangeError(`Cannot boot ${bytes.length} bytes: wanted 510 at most`);
  const disk = new Uint8Array(1024 * 1024);
  disk.set(bytes);
  disk.set([0x55, 0xaa], 510);
  return disk;
}

/** A CD that boots and says `text` (El Torito 1.0, no emulation). */
export function tinyIso(text: string, then: "restart" | "stop"): Uint8Array {
  const bytes = program(text, then);
  if (bytes.length > cdSectorBytes) throw new RangeError(`Cannot boot ${bytes.length} bytes: wanted ${cdSectorBytes}`);
  const iso = new Uint8Array(32 * cdSectorBytes);
  const words = new DataView(iso.buffer);
  const put = (sector: number, at: number, value: string | readonly number[]) =>
    iso.set(typeof value === "string" ? new TextEncoder().encode(value) : value, sector * cdSectorBytes + at);
  put(16, 0, [1, ...new TextEncoder().encode("CD001"), 1]);
  put(17, 0, [0, ...new TextEncoder().encode("CD001"), 1, ...new TextEncoder().encode("EL TORITO SPECIFICATION")]);
  words.setUint32(17 * cdSectorBytes + 0x47, 19, true);
  put(18, 0, [255, ...new TextEncoder().encode("CD001"), 1]);
  // The validation entry's sixteen 16-bit words add up to 0: 0x0001 + 0xaa55 + checksum.
  put(19, 0, [1]);
  put(19, 0x1e, [0x55, 0xaa]);
  words.setUint16(19 * cdSectorBytes + 0x1c, 0x10000 - 0xaa56, true);
  put(19, 0x20, [0x88]);
  words.setUint16(19 * cdSectorBytes + 0x26, cdSectorBytes / diskSectorBytes, true);
  words.setUint32(19 * cdSectorBytes + 0x28, 20, true);
  iso.set(bytes, 20 * cdSectorBytes);
  return iso;
}
