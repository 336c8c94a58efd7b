import { createPrivateKey, X509Certificate } from "node:crypto";
import { fileStamps } from "@ultracloud/base";
import type { TlsFiles } from "@ultracloud/config";

export interface TlsTexts {
  readonly cert: string;
  readonly key: string;
  readonly ca: string;
}

/**
 * The files of a listener or client as they are now. They are replaced one after the other; whoever reads in between
 * has a key that is not the certificate's, with which every handshake would fail: then it throws, and what was read
 * before goes on until the next look.
 */
export function readTlsFiles(files: TlsFiles): TlsTexts {
  const [cert, key, ca] = [files.certFile, files.keyFile, files.caFile].map((path) => Deno.readTextFileSync(path));
  if (!new X509Certificate(cert!).checkPrivateKey(createPrivateKey(key!))) {
    throw new Error(`Cannot use ${files.keyFile}: it is not the key of ${files.certFile}`);
  }
  return { cert: cert!, key: key!, ca: ca! };
}

/** Changes when one of the files has been replaced. */
export function stampOf(files: TlsFiles): string {
  return fileStamps([files.certFile, files.keyFile, files.caFile]);
}
