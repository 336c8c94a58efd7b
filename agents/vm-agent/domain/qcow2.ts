import { fault } from "@ultracloud/base";

/** Bytes `checkQcow2` needs: the fixed part of a version 3 header. */
export const qcow2HeaderBytes = 104;
const magic = 0x514649fb;
/** Incompatible feature: the guest's data is in another file, which the header names. */
const externalDataBit = 2n;

/**
 * The size the guest sees, when the image stands alone. An image that names a backing or data file would make
 * qemu-img read any file of this host, so it is refused before qemu-img opens it. (QEMU, docs/interop/qcow2.txt)
 */
export function checkQcow2(header: Uint8Array): { readonly virtualBytes: number } {
  const view = new DataView(header.buffer, header.byteOffset, header.byteLength);
  if (header.length < 72 || view.getUint32(0) !== magic) throw refused("it has no qcow2 header");
  const version = view.getUint32(4);
  if (version !== 2 && version !== 3) throw refused(`it has version ${version}`);
  if (view.getBigUint64(8) !== 0n) throw refused("it names a backing file");
  if (view.getUint32(32) !== 0) throw refused("it is encrypted");
  if (version === 3) {
    if (header.length < qcow2HeaderBytes) throw refused("its header is cut off");
    if ((view.getBigUint64(72) >> externalDataBit & 1n) === 1n) throw refused("it names a data file");
  }
  const virtualBytes = view.getBigUint64(24);
  if (virtualBytes > BigInt(Number.MAX_SAFE_INTEGER)) throw refused(`it is ${virtualBytes} bytes large`);
  return { virtualBytes: Number(virtualBytes) };
}

function refused(why: string): Error {
  return fault(
    "failed_precondition",
    "image_malformed",
    `Cannot use the qcow2 image as ${why}: wanted one that stands alone`,
  );
}
