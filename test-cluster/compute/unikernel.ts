import { concatBytes } from "@ultracloud/base";

/**
 * A unikernel of 213 bytes: it says its command line on the serial line, and then, whenever the second of the real-time
 * clock changes, the device id of each of the eight virtio-mmio devices and how often it has said so. 32-bit code from
 * 1 MiB on, entered as the PVH boot protocol says: flat, with the address of `hvm_start_info` in ebx.
 */
const code = hex(`
  bc00000900        mov  esp, 0x90000
  8b6b18            mov  ebp, [ebx + 24]     ; hvm_start_info.cmdline_paddr
  baf8030000        mov  edx, 0x3f8
  bec1001000        mov  esi, hello
  e88d000000        call puts
  89ee              mov  esi, ebp
  e886000000        call puts
  b00a              mov  al, newline
  e88b000000        call putc
  b00a              mov  al, newline
  e884000000        call putc
  31ed              xor  ebp, ebp            ; how often
  31c0        tick: xor  eax, eax            ; register 0 of the clock: seconds
  e670              out  0x70, al
  e471              in   al, 0x71
  38c3              cmp  bl, al
  74f6              je   tick
  88c3              mov  bl, al
  becc001000        mov  esi, devices
  e860000000        call puts
  bf0000b0fe        mov  edi, 0xfeb00000     ; the first virtio-mmio device
  b908000000        mov  ecx, 8
  8b4708      next: mov  eax, [edi + 8]      ; DeviceID, 0: none
  0430              add  al, '0'
  e858000000        call putc
  81c700020000      add  edi, 0x200
  e2ee              loop next
  b020              mov  al, ' '
  e849000000        call putc
  45                inc  ebp
  89e8              mov  eax, ebp            ; its last three decimal digits
  b90a000000        mov  ecx, 10
  31d2              xor  edx, edx
  f7f1              div  ecx
  52                push edx
  31d2              xor  edx, edx
  f7f1              div  ecx
  52                push edx
  31d2              xor  edx, edx
  f7f1              div  ecx
  89d0              mov  eax, edx
  baf8030000        mov  edx, 0x3f8
  0430              add  al, '0'
  e825000000        call putc
  58                pop  eax
  0430              add  al, '0'
  e81d000000        call putc
  58                pop  eax
  0430              add  al, '0'
  e815000000        call putc
  b00a              mov  al, newline
  e80e000000        call putc
  eb8a              jmp  tick
  ac          puts: lodsb
  84c0              test al, al
  7417              jz   done
  e802000000        call putc
  ebf4              jmp  puts
  50          putc: push eax
  66bafd03    wait: mov  dx, 0x3fd           ; line status: may be sent
  ec                in   al, dx
  a820              test al, 0x20
  74f7              jz   wait
  66baf803          mov  dx, 0x3f8
  58                pop  eax
  ee                out  dx, al
  c3          done: ret
  554e494b45524e454c2000  hello:   "UNIKERNEL ", 0
  646576696365732000      devices: "devices ", 0
`);

const loadAddress = 0x10_0000;
const codeOffset = 0x1000;
const noteOffset = 0x80;

/** The unikernel as an ELF file with the note of PVH that says where it is entered. */
export function unikernel(): Uint8Array<ArrayBuffer> {
  const note = words(4, 4, 18, 0x006e6558, loadAddress);
  const header = concatBytes([
    hex("7f454c46 010101 000000000000000000 02000300"),
    words(1, loadAddress, 52, 0, 0),
    hex("3400 2000 0200 0000 0000 0000"),
    words(1, codeOffset, loadAddress, loadAddress, code.length, code.length, 7, codeOffset),
    words(4, noteOffset, 0, 0, note.length, note.length, 4, 4),
  ]);
  const file = new Uint8Array(codeOffset + code.length);
  file.set(header);
  file.set(note, noteOffset);
  file.set(code, codeOffset);
  return file;
}

/** Bytes of the digits that begin each line, in pairs and groups up to the first other word. */
function hex(text: string): Uint8Array<ArrayBuffer> {
  const digits = text.trim().split("\n").map((line) => /^\s*((?:(?:[0-9a-f]{2})+(?:\s|$))+)/.exec(line)![1]!);
  return Uint8Array.from(digits.join("").match(/[0-9a-f]{2}/g)!, (pair) => parseInt(pair, 16));
}

/** Little-endian words of 32 bits. */
function words(...values: readonly number[]): Uint8Array<ArrayBuffer> {
  return new Uint8Array(Uint32Array.from(values).buffer);
}
