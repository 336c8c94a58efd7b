import type { Host } from "./argv.ts";

/** The first QEMU whose emulation watches all pages again that it has noted as written (v9.0.0). */
const sinceMajor = 9;
/** The memory that one word of QEMU's bitmap of written pages stands for. */
const wordBytes = 64 * 4_096;
/** Memory of a guest comes in multiples of this (`-m` rounds up to them). */
export const memoryUnitBytes = 8_192;

/**
 * Whether a guest that moves may arrive with pages of an earlier moment. When QEMU collects which pages were written, it
 * must have the emulated processor tell of the next write to each again. Before 9.0 it forgets to, but only for memory
 * that is whole words of the bitmap, which it takes word by word; all other memory it takes page by page, rightly. KVM
 * has a bitmap of its own.
 */
export function losesWrites(host: Host, memoryBytes: number): boolean {
  return host.accelerator === "tcg" && host.qemuMajor < sinceMajor && memoryBytes % wordBytes === 0;
}

/** Memory that the guest gets: as much as wanted, and a little more where it could else not be moved. */
export function memoryOn(host: Host, wanted: number): number {
  return losesWrites(host, wanted) ? wanted + memoryUnitBytes : wanted;
}

/** What QEMU takes at most for the pages of a GiB, one by one, on a busy host. */
const pageByPageMsPerGib = 250;
/** Up to here the look is short beside the downtime that is planned with anyway. */
const quicklySeenBytes = 2 ** 28;

/**
 * Milliseconds to add to the downtime that QEMU plans with. It counts the time of looking at each page as time of the
 * network, takes that for slow, and would go on for ever with a guest of some GiB; the pages themselves are sent as fast.
 */
export function lookingMs(memoryBytes: number): number {
  return memoryBytes % wordBytes === 0
    ? 0
    : Math.round(Math.max(0, memoryBytes - quicklySeenBytes) / 2 ** 30 * pageByPageMsPerGib);
}
