/** Client of the QEMU Machine Protocol: what drives QEMU and qemu-storage-daemon. */
export * from "./client.ts";
export * from "./lines.ts";
