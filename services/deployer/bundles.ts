import { fault, invalidField } from "@ultracloud/base";
import { Tx } from "@ultracloud/platform";
import type { Core } from "./core.ts";
import { sha256Hex } from "./hashes.ts";
import { type BundleRow, rowKeys } from "./kinds.ts";

export const bundleBytesMax = 16 * 2 ** 20;
const bucket = "blobs";
/** One row of a bundle; a batch of the store takes sixteen MiB with all around it. */
const partBytes = 512 * 1024;

const partKey = (sha256: string, part: number) => `${sha256}|${String(part).padStart(4, "0")}`;

export interface BundleSigner {
  /** Base64 of the raw Ed25519 public key. */
  readonly publicKey: string;
  /** Base64 of a signature over the text. */
  sign(text: string): Promise<string>;
}

/** A signer over the private Ed25519 JWK in the file. */
export async function openBundleSigner(keyFile: string): Promise<BundleSigner> {
  const jwk = JSON.parse(await Deno.readTextFile(keyFile)) as JsonWebKey;
  const key = await crypto.subtle.importKey(
    "jwk",
    { kty: jwk.kty!, crv: jwk.crv!, x: jwk.x!, d: jwk.d! },
    "Ed25519",
    false,
    ["sign"],
  );
  return {
    publicKey: Uint8Array.fromBase64(jwk.x!, { alphabet: "base64url" }).toBase64(),
    sign: async (text) =>
      new Uint8Array(await crypto.subtle.sign("Ed25519", key, new TextEncoder().encode(text))).toBase64(),
  };
}

/** What a bundle's signature is over. */
export function signedText(sha256: string): string {
  return `ultracloud-bundle:${sha256}`;
}

/** Flake bundles in the store, by their content. The parts of one are never changed, so readers need no lock. */
export class Bundles {
  readonly #core: Core;
  readonly signer: BundleSigner;

  constructor(core: Core, signer: BundleSigner) {
    this.#core = core;
    this.signer = signer;
  }

  async current(): Promise<BundleRow | undefined> {
    const { platform } = this.#core;
    return await new Tx(platform.kv, platform).row<BundleRow>(rowKeys.bundle);
  }

  async put(content: Uint8Array): Promise<BundleRow> {
    if (content.length === 0 || content.length > bundleBytesMax) {
      throw invalidField("content", `Cannot keep a bundle of ${content.length} bytes: wanted 1 to ${bundleBytesMax}`);
    }
    const { platform, writer } = this.#core;
    // Before the first byte, so that a standby keeps nothing.
    await writer.change(() => {});
    const sha256 = sha256Hex(content);
    const before = await this.current();
    if (before?.sha256 === sha256) return before;
    for (let part = 0; part * partBytes < content.length; part++) {
      const put = content.slice(part * partBytes, (part + 1) * partBytes);
      await platform.kv.write([], [{ bucket, key: partKey(sha256, part), put }]);
    }
    const row: BundleRow = {
      sha256,
      bytesCount: content.length,
      signature: await this.signer.sign(signedText(sha256)),
    };
    await writer.change((tx) => tx.putRow(rowKeys.bundle, row), { serialize: "bundle" });
    platform.log.info("bundle replaced", { sha256, bytes: content.length });
    if (before !== undefined) await this.#remove(before.sha256, before.bytesCount);
    return row;
  }

  /** The content, held against its name; not_found when it is another one now. */
  async read(sha256: string): Promise<Uint8Array<ArrayBuffer>> {
    const row = await this.current();
    if (row?.sha256 !== sha256) {
      throw fault("not_found", "bundle_not_found", `Cannot find the bundle ${sha256.slice(0, 64)}`);
    }
    const content = new Uint8Array(row.bytesCount);
    for (let part = 0; part * partBytes < content.length; part++) {
      const item = await this.#core.platform.kv.get(bucket, partKey(sha256, part));
      if (item === undefined) {
        throw fault("unavailable", "bundle_replaced", "Cannot read the bundle as it is being replaced");
      }
      content.set(item.value, part * partBytes);
    }
    if (sha256Hex(content) !== sha256) {
      throw fault("data_loss", "bundle_damaged", `Cannot give out the bundle ${sha256}: its content is another`);
    }
    return content;
  }

  async #remove(sha256: string, bytes: number): Promise<void> {
    for (let part = 0; part * partBytes < bytes; part++) {
      await this.#core.platform.kv.write([], [{ bucket, key: partKey(sha256, part) }]);
    }
  }
}
