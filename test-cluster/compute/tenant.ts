import { loadTrust } from "@ultracloud/authz";
import { systemClock } from "@ultracloud/base";
import { buildTinyImage } from "@ultracloud/cli";
import { ImageFormat, type ImageService } from "@ultracloud/proto/plasmavmc/v1";
import { Direction, Protocol, SecurityGroupService, SubnetService, VpcService } from "@ultracloud/proto/prismnet/v1";
import { createRpcClient, type RpcClient } from "@ultracloud/rpc";

/** What the proofs' project has: a network, an image, and VMs that are asked for in one way. */

export const project = "acme/prod";
/** Where guests do what they are told; beside user networking no other port of theirs is reached. */
export const guestHttpPort = 80;

/** Makes of the tiny guest a machine that counts and does what it is told over HTTP. */
const guestScript = `#!/bin/sh
mkdir -p /www/cgi-bin
cat >/www/cgi-bin/run <<'END'
#!/bin/sh
echo "Content-type: text/plain"
echo
cat >/tmp/command.$$
sh /tmp/command.$$ 2>&1
rm -f /tmp/command.$$
END
chmod 755 /www/cgi-bin/run
n=0
while :; do
  n=$((n + 1))
  echo $n >/tmp/count.new && mv /tmp/count.new /tmp/count
  sleep 0.1 2>/dev/null || sleep 1
done &
`;

/** A VM of this name, as the proofs want theirs. */
export function vmRequest(name: string, o: { readonly network?: boolean } = {}) {
  return {
    project,
    name,
    flavor: "tiny",
    image: "tiny",
    userData: guestScript,
    ...(o.network === false ? {} : { subnets: ["lan"], securityGroups: ["web"] }),
  };
}

/** Makes the network `lan` with the security group `web`. */
export async function makeNetwork(at: Parameters<typeof createRpcClient>[1]): Promise<void> {
  using vpcs = createRpcClient(VpcService, at);
  using subnets = createRpcClient(SubnetService, at);
  using groups = createRpcClient(SecurityGroupService, at);
  await vpcs.createVpc({ project, name: "net" });
  await subnets.createSubnet({ project, name: "lan", vpc: "net", cidr: "10.20.0.0/24" });
  await groups.createSecurityGroup({
    project,
    name: "web",
    rules: [
      { direction: Direction.INGRESS, protocol: Protocol.TCP, portMin: guestHttpPort, portMax: guestHttpPort },
      { direction: Direction.EGRESS, protocol: Protocol.UNSPECIFIED },
    ],
  });
}

/** Imports the tiny guest of the quickstart as the image `tiny`, which is built where it is not in the cache. */
export async function importTiny(images: RpcClient<typeof ImageService>, cacheDir: string): Promise<void> {
  const image = await buildTinyImage({ cacheDir });
  const bytes = await Deno.readFile(image.path);
  await images.importImage((async function* () {
    const header = {
      project,
      name: "tiny",
      format: ImageFormat.KERNEL_BUNDLE,
      sha256: image.sha256,
      bytes: BigInt(bytes.length),
    };
    yield { part: { case: "header" as const, value: header } };
    for (let at = 0; at < bytes.length; at += 1 << 19) {
      yield { part: { case: "chunk" as const, value: bytes.subarray(at, at + (1 << 19)) } };
    }
  })());
}

/** The operator of these proofs may do everything: who may do what is proven elsewhere. */
export async function grantAll(trustFile: string): Promise<void> {
  const trust = JSON.parse(await Deno.readTextFile(trustFile));
  const [operator] = Object.keys(trust.principals).filter((id) => id.endsWith("/operator"));
  for (const component of ["plasmavmc", "prismnet"]) {
    trust.principals[operator!].grants.push({ permission: `${component}.*.*`, scope: "" });
  }
  await Deno.writeTextFile(trustFile, JSON.stringify(trust));
  await loadTrust(trustFile, { clock: systemClock });
}
