import { generateIdentity, standardGrants, svcId, type TrustFile } from "@ultracloud/authz";
import type { ClusterFile } from "@ultracloud/launch";
import { createTestCa } from "@ultracloud/testing";
import type { Substrate } from "./substrate.ts";

/** Who speaks to the stores and the nodes from outside. */
export const operatorName = "operator";
/** A cluster that is kept for longer than this has to be made anew: its certificates end. */
const certificatesMs = 20 * 3_600_000;

const modePrivate = { mode: 0o600 };

/** Directory of the operator's key and certificates. */
export function operatorDir(stateDir: string): string {
  return `${stateDir}/operator`;
}

/** File of a node that only its iam reads. */
export const iamSecrets = {
  adminTokenFile: "admin.token",
  signingKeyFile: "signing.key",
  masterKeyFile: "master.key",
  authorityCertFile: "authority.crt",
  authorityKeyFile: "authority.key",
};

/**
 * Makes every key of the cluster: one identity for each component, a certificate for each component of each node, the
 * trust file, and the secrets that the replicas of iam share.
 */
export async function writeKeys(cluster: ClusterFile, substrate: Substrate, stateDir: string): Promise<void> {
  const ca = await createTestCa(`${cluster.clusterId} test cluster`);
  const notAfterMs = Date.now() + certificatesMs;
  const names = new Set(Object.values(cluster.nodes).flatMap((node) => [...node.components, ...node.standby]));
  const principals: TrustFile["principals"] = {};
  const privateKeys = new Map<string, string>();
  for (const name of [...names, operatorName]) {
    const identity = await generateIdentity();
    principals[svcId(cluster.clusterId, name)] = { publicKey: identity.publicKey, grants: standardGrants(name) };
    privateKeys.set(name, JSON.stringify(identity.privateKey));
  }
  const trust = JSON.stringify({ clusterId: cluster.clusterId, principals } satisfies TrustFile, null, 2);
  const secrets: Readonly<Record<string, string>> = {
    [iamSecrets.adminTokenFile]: randomText(),
    [iamSecrets.masterKeyFile]: crypto.getRandomValues(new Uint8Array(32)).toBase64(),
    [iamSecrets.signingKeyFile]: JSON.stringify((await generateIdentity()).privateKey),
    [iamSecrets.authorityCertFile]: ca.caPem,
    [iamSecrets.authorityKeyFile]: ca.keyPem,
  };

  const writeOwn = async (dir: string, name: string, spiffeId: string, addresses: readonly string[]) => {
    await Deno.mkdir(dir, { recursive: true, mode: 0o700 });
    await Deno.writeTextFile(`${dir}/identity.key`, privateKeys.get(name)!, modePrivate);
    await ca.issueFiles(dir, "tls", { spiffeId, addresses, notAfterMs });
  };
  for (const [node, spec] of Object.entries(cluster.nodes)) {
    const etc = substrate.etcDir(node);
    await Deno.mkdir(etc, { recursive: true, mode: 0o700 });
    await Deno.writeTextFile(`${etc}/trust.json`, trust, modePrivate);
    for (const name of [...spec.components, ...spec.standby]) {
      const dir = `${etc}/${name}`;
      await writeOwn(dir, name, `${svcId(cluster.clusterId, name)}/${node}`, [spec.address]);
      if (name !== "iam") continue;
      for (const [file, text] of Object.entries(secrets)) await Deno.writeTextFile(`${dir}/${file}`, text, modePrivate);
    }
  }
  const own = operatorDir(stateDir);
  await writeOwn(own, operatorName, svcId(cluster.clusterId, operatorName), [cluster.network.operatorAddress]);
  await Deno.writeTextFile(`${own}/${iamSecrets.adminTokenFile}`, secrets[iamSecrets.adminTokenFile]!, modePrivate);
}

function randomText(): string {
  return crypto.getRandomValues(new Uint8Array(32)).toBase64({ alphabet: "base64url", omitPadding: true });
}
