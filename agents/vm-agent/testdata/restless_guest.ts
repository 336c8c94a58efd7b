import { createHash } from "node:crypto";
import type { ImageRef } from "../domain/spec.ts";

/**
 * A guest of one boot sector that makes lost writes tell. It counts in four pages all the time and in 124 others in
 * turn, some 150 of them a second by the TSC; without interrupts, so that its processor's TLB holds the same pages all
 * the time. It says `R` when it begins, `.` after each turn, and `B`, its last word, when a page does not hold the
 * number that it wrote there last.
 */
// deno-fmt-ignore
const code = Uint8Array.of(
  0xfa,                                     //        cli
  0x66, 0x31, 0xed,                         //        xor ebp, ebp           ; rounds over the four pages
  0x66, 0x31, 0xff,                         //        xor edi, edi           ; turns over the others
  0xbb, 0x00, 0x10,                         //        mov bx, 0x1000         ; segment of the first page
  0x8e, 0xc3,                               // clear: mov es, bx
  0x26, 0x66, 0xc7, 0x06, 0, 0, 0, 0, 0, 0, //        mov dword [es:0], 0
  0x81, 0xc3, 0x00, 0x01,                   //        add bx, 0x100
  0x81, 0xfb, 0x00, 0x90,                   //        cmp bx, 0x9000
  0x75, 0xea,                               //        jne clear
  0xbe, 0x00, 0x14,                         //        mov si, 0x1400         ; the next of the others
  0xba, 0xf8, 0x03,                         //        mov dx, 0x3f8          ; the serial line
  0xb0, 0x52, 0xee,                         //        out dx, 'R'
  0xbb, 0x00, 0x10,                         // round: mov bx, 0x1000
  0x8e, 0xc3,                               // page:  mov es, bx
  0x26, 0x66, 0x39, 0x2e, 0x00, 0x00,       //        cmp [es:0], ebp
  0x75, 0x48,                               //        jne bad
  0x26, 0x66, 0xff, 0x06, 0x00, 0x00,       //        inc dword [es:0]
  0x81, 0xc3, 0x00, 0x01,                   //        add bx, 0x100
  0x81, 0xfb, 0x00, 0x14,                   //        cmp bx, 0x1400
  0x75, 0xe6,                               //        jne page
  0x66, 0x45,                               //        inc ebp
  0x0f, 0x31,                               //        rdtsc
  0x66, 0x0f, 0xac, 0xd0, 0x18,             //        shrd eax, edx, 24
  0x66, 0x39, 0xc8,                         //        cmp eax, ecx
  0x74, 0xd5,                               //        je round
  0x66, 0x89, 0xc1,                         //        mov ecx, eax
  0x8e, 0xc6,                               //        mov es, si
  0x26, 0x66, 0x39, 0x3e, 0x00, 0x00,       //        cmp [es:0], edi
  0x75, 0x1d,                               //        jne bad
  0x26, 0x66, 0xff, 0x06, 0x00, 0x00,       //        inc dword [es:0]
  0x81, 0xc6, 0x00, 0x01,                   //        add si, 0x100
  0x81, 0xfe, 0x00, 0x90,                   //        cmp si, 0x9000
  0x75, 0xb8,                               //        jne round
  0xbe, 0x00, 0x14,                         //        mov si, 0x1400
  0x66, 0x47,                               //        inc edi
  0xba, 0xf8, 0x03,                         //        mov dx, 0x3f8
  0xb0, 0x2e, 0xee,                         //        out dx, '.'
  0xeb, 0xab,                               //        jmp round
  0xba, 0xf8, 0x03,                         // bad:   mov dx, 0x3f8
  0xb0, 0x42, 0xee,                         //        out dx, 'B'
  0xf4,                                     // halt:  hlt
  0xeb, 0xfd,                               //        jmp halt
);
/** The firmware reads no disk smaller than a few tracks. */
const bytes = new Uint8Array(2 ** 20);
bytes.set(code);
bytes.set([0x55, 0xaa], 510);

export const restlessGuest: { readonly ref: ImageRef; readonly bytes: Uint8Array } = {
  ref: { sha256: createHash("sha256").update(bytes).digest("hex"), format: "raw", bytes: bytes.length },
  bytes,
};
