import { generateIdentity, standardGrants, svcId, type TrustFile } from "@ultracloud/authz";
import { fault } from "@ultracloud/base";
import type { ClusterFile } from "./cluster_file.ts";

/** What was made, and what was there before and stays. */
export interface ClusterKeys {
  readonly made: readonly string[];
  readonly kept: readonly string[];
}

/** The operator speaks to the stores beside the components. */
const operatorName = "operator";

const randomText = () =>
  crypto.getRandomValues(new Uint8Array(32)).toBase64({ alphabet: "base64url", omitPadding: true });

/** Secrets of iam that its replicas share; each is made once. */
const iamSecrets: Readonly<Record<string, () => Promise<string>>> = {
  "admin.token": () => Promise.resolve(randomText()),
  "master.key": () => Promise.resolve(crypto.getRandomValues(new Uint8Array(32)).toBase64()),
  "signing.key": async () => JSON.stringify((await generateIdentity()).privateKey),
};

/**
 * Makes the private keys that a cluster needs before it first runs, below `dir`: COMPONENT/identity.key of every
 * component that the cluster names and of the operator, iam's secrets, and `trust.json` with the public halves and the
 * standard grants. What is there stays, so that it may be repeated when components are added; only the owner reads it.
 */
export async function makeClusterKeys(cluster: ClusterFile, dir: string): Promise<ClusterKeys> {
  const made: string[] = [];
  const kept: string[] = [];
  const keep = async (path: string, make: () => Promise<string>): Promise<string> => {
    const found = await Deno.readTextFile(`${dir}/${path}`).catch((error) => {
      if (error instanceof Deno.errors.NotFound) return undefined;
      throw error;
    });
    if (found !== undefined) return kept.push(path), found;
    const text = await make();
    await Deno.mkdir(`${dir}/${path.slice(0, path.lastIndexOf("/") + 1)}`, { recursive: true, mode: 0o700 });
    await writeWhole(`${dir}/${path}`, text);
    made.push(path);
    return text;
  };

  const names = new Set(Object.values(cluster.nodes).flatMap((node) => [...node.components, ...node.standby]));
  const principals: TrustFile["principals"] = {};
  for (const name of [...names, operatorName].sort()) {
    const path = `${name}/identity.key`;
    const text = await keep(path, async () => JSON.stringify((await generateIdentity()).privateKey));
    principals[svcId(cluster.clusterId, name)] = { publicKey: publicHalf(text, path), grants: standardGrants(name) };
  }
  if (names.has("iam")) {
    for (const [file, make] of Object.entries(iamSecrets)) await keep(`iam/${file}`, make);
  }
  const trust = { clusterId: cluster.clusterId, principals } satisfies TrustFile;
  await writeWhole(`${dir}/trust.json`, JSON.stringify(trust, null, 2) + "\n");
  return { made, kept };
}

function publicHalf(text: string, path: string): TrustFile["principals"][string]["publicKey"] {
  const wrong = (cause?: unknown) =>
    fault("invalid_argument", "key_invalid", `Cannot use ${path}: wanted a private Ed25519 key as JWK`, { cause });
  try {
    const { kty, crv, x, d } = JSON.parse(text);
    if (kty === "OKP" && crv === "Ed25519" && typeof x === "string" && typeof d === "string") return { kty, crv, x };
  } catch (cause) {
    throw wrong(cause);
  }
  throw wrong();
}

/** A file that is there is whole, also after a power cut. */
async function writeWhole(path: string, text: string): Promise<void> {
  await Deno.remove(`${path}.new`).catch(() => {});
  {
    using file = await Deno.open(`${path}.new`, { write: true, createNew: true, mode: 0o600 });
    const bytes = new TextEncoder().encode(text);
    for (let at = 0; at < bytes.length;) at += await file.write(bytes.subarray(at));
    await file.sync();
  }
  await Deno.rename(`${path}.new`, path);
}
